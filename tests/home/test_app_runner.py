"""How an app runs what its own broker hands it: so many at once, the rest in turn, each answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest

from qtasks import QTasks, Settings
from qtasks.broker.delivery import InProcessDeliverer
from qtasks.broker.pace import MEMORY, Pace
from qtasks.broker.store.records import Claim, Reply
from qtasks.home.in_process import MOST_AHEAD, QUICK_NS, AppRunner
from qtasks.tasks.answers import Answer
from qtasks.tasks.execution import Delivery
from tests.support.store import new_claim

NOW = 1_700_000_000_000
SOON_S = 10


class HeldExecutor:
    """Executes until it is let go on; remembers how many it had at once."""

    def __init__(self) -> None:
        self.begun: list[Delivery] = []
        self.most = 0
        self._inside = 0
        self.released = asyncio.Event()

    async def execute(self, delivery: Delivery) -> Answer:
        self.begun.append(delivery)
        self._inside += 1
        self.most = max(self.most, self._inside)
        await self.released.wait()
        self._inside -= 1
        return Answer(499 if delivery.cancellation.is_cancelled else 200, delivery.body)


class Bench:
    """A runner that runs two at a time, and what it has told."""

    def __init__(self) -> None:
        self.executor = HeldExecutor()
        self.runner = AppRunner(lambda: cast("Any", self.executor), concurrency=2)
        self.told: list[tuple[int, int]] = []
        self._changed = asyncio.Event()

    def run(self, *seqs: int) -> Sequence[Claim]:
        """Hand it claims with these numbers."""
        claims = [new_claim(now=NOW, seq=seq, id=f"msg_{seq}", body=b"%d" % seq, app="shop") for seq in seqs]
        self.runner.run(claims, self._tell)
        return claims

    def _tell(self, claim: Claim, reply: Reply) -> None:
        self.told.append((claim.seq, reply.status))
        self._changed.set()

    async def has_told(self, count: int) -> None:
        """Wait until so many were answered."""
        async with asyncio.timeout(SOON_S):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()


async def test_no_more_run_at_once_than_may_and_the_others_have_their_turn_in_order() -> None:
    bench = Bench()
    bench.run(1, 2, 3)
    bench.run(4, 5)
    await asyncio.sleep(0)
    assert [each.message_id for each in bench.executor.begun] == ["msg_1", "msg_2"]

    bench.executor.released.set()
    await bench.has_told(5)

    assert bench.told == [(seq, 200) for seq in (1, 2, 3, 4, 5)]
    assert bench.executor.most == 2


async def test_what_is_called_off_before_its_turn_knows_it_when_it_comes() -> None:
    bench = Bench()
    *_, last = bench.run(1, 2, 3)
    bench.runner.drop(last)

    bench.executor.released.set()
    await bench.has_told(3)

    assert bench.told[-1] == (3, 499)


def test_an_app_is_quick_once_its_tasks_were_and_no_longer_once_one_was_not() -> None:
    pace = Pace(QUICK_NS)
    seen = [pace.is_quick]
    for _ in range(MEMORY):
        pace.took(QUICK_NS // 10)
    seen.append(pace.is_quick)
    pace.took(100 * QUICK_NS)
    seen.append(pace.is_quick)

    assert seen == [False, True, False]


def test_tasks_of_hours_are_forgotten_as_soon_as_others() -> None:
    pace = Pace(QUICK_NS)
    pace.took(3600 * 10**9)
    for _ in range(10 * MEMORY):
        pace.took(QUICK_NS // 10)

    assert pace.is_quick


async def test_a_quick_app_is_handed_more_than_it_runs_at_once() -> None:
    loop = asyncio.get_running_loop()
    quick = InProcessDeliverer(lambda claims, tell: None, loop, ahead=lambda: 16)
    slow = InProcessDeliverer(lambda claims, tell: None, loop)

    assert (quick.window(64), slow.window(64)) == (64 * 16, 64)


@pytest.mark.parametrize(
    ("took_ns", "ahead"), [(0, 16), (10**6, 16), (1_900_000, 10), (3_900_000, 5), (5 * 10**6, 1), (10**9, 1)]
)
async def test_an_app_is_handed_the_more_the_shorter_its_tasks_are(
    monkeypatch: pytest.MonkeyPatch, took_ns: int, ahead: int
) -> None:
    bench = Bench()
    monkeypatch.setattr("qtasks.home.in_process.stopwatch_ns", cycle([0, took_ns]).__next__)
    bench.executor.released.set()
    bench.run(*range(20 * MEMORY))
    await bench.has_told(20 * MEMORY)

    assert bench.runner.ahead() == ahead


@pytest.mark.parametrize(("batch", "in_hand"), [(1, 1), (100, MOST_AHEAD)])
async def test_an_app_without_batches_has_no_more_in_hand_than_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, in_hand: int
) -> None:
    monkeypatch.setattr("qtasks.home.in_process.stopwatch_ns", lambda: 0)  # so all tasks are quick
    settings = Settings(broker=f"sqlite:///{tmp_path}/q.db", durability="relaxed", batch=batch)
    app, begun, gate = QTasks(settings=settings, concurrency=1), asyncio.Semaphore(0), asyncio.Semaphore(0)

    @app.task
    async def held() -> None:
        begun.release()
        await gate.acquire()

    seen = []
    async with app.lifespan(), asyncio.timeout(SOON_S):
        calls = await held.adelay_many([held.call()] * (5 * MEMORY))
        for each in calls:
            await begun.acquire()
            views = [await app._home.aresult(every.id) for every in calls]
            seen.append([view.state for view in views].count("RUNNING"))
            gate.release()
            await each.aget()

    assert max(seen) == in_hand


async def replies(deliverer: InProcessDeliverer, claims: Sequence[Claim]) -> list[tuple[int, int]]:
    """Have claims delivered; give the status of each."""
    async with asyncio.timeout(SOON_S):
        answers = [answer async for some in deliverer.deliver(claims) for answer in some]
    return [(claim.seq, reply.status) for claim, reply in answers]


async def test_what_was_begun_early_by_another_thread_is_run_once_and_answered() -> None:
    bench = Bench()
    bench.executor.released.set()
    loop = asyncio.get_running_loop()
    deliverer = InProcessDeliverer(bench.runner.run, loop)
    claims = [new_claim(now=NOW, seq=seq, id=f"msg_{seq}", app="shop") for seq in (1, 2)]

    await asyncio.to_thread(deliverer.begin_early, claims, loop)
    await asyncio.sleep(0.01)

    assert [each.message_id for each in bench.executor.begun] == ["msg_1", "msg_2"]
    assert await replies(deliverer, claims) == [(1, 200), (2, 200)]
    assert len(bench.executor.begun) == 2


async def test_an_app_whose_loop_is_closed_begins_nothing_and_answers_that_it_has_stopped() -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    deliverer = InProcessDeliverer(Bench().runner.run, closed)
    claims = [new_claim(now=NOW, seq=1, id="msg_1", app="shop")]

    deliverer.begin_early(claims, asyncio.get_running_loop())

    assert await replies(deliverer, claims) == [(1, 503)]
