"""One destination that hangs, drips or fails, and the messages to others meanwhile (promise P19).

In virtual time, and over real HTTP on loopback, where how long things take is held to the bar in full runs
alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from qtasks.broker.config import BrokerConfig
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.standings import place_of
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import SystemClock
from qtasks.ids import Ids
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing
from tests.support import FULL
from tests.support.deliveries import new_deliverer
from tests.support.destinations import Destination, Site, play
from tests.support.loopback import Loopback, Manner

BAD, GOOD = "http://bad.example/work", "http://good.example/work"
SLOTS = 64
SPARE = SLOTS // 8
BAR_MS = 50
TAKES_MS = 5
EACH_MS = 10
MESSAGES = 500 if FULL else 100
ROUNDS = 5 if FULL else 1
HOLDING = (Manner.HANG, Manner.DRIP)
DISEASES = {
    "hangs": lambda: Destination(10_000, hangs=True),
    "is slow": lambda: Destination(10_000, takes_ms=10_000),
    "is down": lambda: Destination(10_000, is_down=True),
    "refuses": lambda: Destination(0),
}


def p99(spans: list[float]) -> float:
    return sorted(spans)[int(len(spans) * 0.99)]


@pytest.mark.parametrize("disease", DISEASES)
@pytest.mark.parametrize("parallelism", [16, 100_000])
def test_messages_of_other_queues_hardly_wait_for_a_bad_destination(disease: str, parallelism: int) -> None:
    bad, good = DISEASES[disease](), Destination(10_000, takes_ms=TAKES_MS)
    sent: dict[str, float] = {}

    async def story(site: Site) -> None:
        site.send(BAD, 2000, parallelism=parallelism)
        await asyncio.sleep(1)
        for number in range(500):
            sent[f"msg_{number}"] = site.now_ms
            site.send(GOOD, queue="good", id=f"msg_{number}")
            await asyncio.sleep(EACH_MS / 1000)
        await asyncio.sleep(1)
        assert site.deliverer.most_in_flight[place_of(BAD)] <= min(SLOTS, parallelism)

    play(story, lambda: Site({place_of(BAD): bad, place_of(GOOD): good}, concurrency=SLOTS))

    spans = [at - sent[message_id] for at, message_id in good.served]
    assert len(spans) == 500
    assert p99(spans) <= TAKES_MS + BAR_MS


def test_two_destinations_share_what_is_spare() -> None:
    bad = Destination(10_000, hangs=True)
    others = {f"http://{name}.example": Destination(10_000, hangs=True) for name in "abcdef"}

    async def story(site: Site) -> None:
        site.send(BAD, 200)
        await asyncio.sleep(1)
        for name in others:
            site.send(f"{name}/work", 20, queue=place_of(name))
        await asyncio.sleep(1)
        assert site.deliverer.in_flight.total() == SLOTS + SPARE
        assert max(site.deliverer.in_flight[name] for name in others) == SPARE // 2

    play(story, lambda: Site({place_of(BAD): bad, **others}, concurrency=SLOTS))


def test_what_takes_its_time_and_ends_together_keeps_all_slots_busy() -> None:
    slow = Destination(10_000, takes_ms=1000)

    async def story(site: Site) -> None:
        site.send(BAD, SLOTS * 10)
        await asyncio.sleep(10.5)
        assert len(slow.served) == SLOTS * 10

    play(story, lambda: Site({place_of(BAD): slow}, concurrency=SLOTS))


# --- over HTTP ------------------------------------------------------------------------------------


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Broker]:
    """A broker that delivers over HTTP, by the machine's clock."""
    clock, ids, config = SystemClock(), Ids.seeded(1), BrokerConfig(concurrency=SLOTS, grace_ms=0)
    database = SqliteDatabase(str(path))
    keys = KeyRing("sig_current", "sig_next", lambda current, following: None)
    rules = parse_rules((), loopback=True)
    broker = Broker(database, config, clock=clock, ids=ids, rules=rules, keys=keys)
    node = Node(broker, new_deliverer(clock=clock, connections=SLOTS), config, app=None, ids=ids)
    await node.start()
    try:
        yield broker
    finally:
        await node.stop()
        database.close()


def send(broker: Broker, url: str, queue: str, parallelism: int) -> str:
    spec = QueueSpec(parallelism, ordered=False)
    [answer] = broker.accept([Outgoing(url, b"", Options(queue=spec), queue)])
    return answer.message_id


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  # servers and broker tell nobody
            await asyncio.sleep(0.005)


async def trial(path: Path, manner: Manner, parallelism: int) -> float:
    """Send messages to a good destination at a steady pace, each beside one to another.

    Gives the 99th percentile of how long the good ones were under way, in ms.
    """
    held = min(SLOTS, parallelism)
    sent: dict[str, int] = {}
    async with Loopback(Manner.ANSWER) as good, Loopback(manner) as other, running(path) as broker:
        if manner in HOLDING:
            for _ in range(held):
                send(broker, other.url, "other", parallelism)
            await until(lambda: other.inside == held)
        for _ in range(MESSAGES):
            at = broker.clock.now()
            sent[send(broker, good.url, "good", 16)] = at
            send(broker, other.url, "other", parallelism)
            await asyncio.sleep(EACH_MS / 1000)
        await until(lambda: sent.keys() <= good.came_at.keys())
        assert other.most_inside <= held
        if manner in HOLDING:
            assert other.inside == held  # so the good ones had other slots
        return p99([1000 * good.came_at[message_id] - at for message_id, at in sent.items()])


@pytest.mark.parametrize("parallelism", [16, 100_000] if FULL else [100_000])
@pytest.mark.parametrize("manner", [each for each in Manner if each is not Manner.ANSWER])
async def test_a_bad_server_has_its_slots_and_no_others(
    manner: Manner, parallelism: int, tmp_path: Path
) -> None:
    well, ill = [], []
    for number in range(ROUNDS):  # by turns, as machines have their moods
        well.append(await trial(tmp_path / f"well{number}.db", Manner.ANSWER, parallelism))
        ill.append(await trial(tmp_path / f"ill{number}.db", manner, parallelism))

    print(f"{manner.value}, parallelism {parallelism}: p99 {median(well):.1f} -> {median(ill):.1f} ms")
    if FULL:
        assert median(ill) <= median(well) + BAR_MS
