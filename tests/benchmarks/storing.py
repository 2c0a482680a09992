"""The store by its verbs, without any delivery: what a task costs there, by how many wait in how many queues.

All depths are open at once and measured in turn, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count

from qtasks.broker.store import claiming, messages, settling
from qtasks.broker.store.database import Database, Session
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.records import Claim, Delivered, NewMessage, Reply, Settlement
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.cli.bench.machine import drop_schema, seconds_since
from qtasks.cli.bench.places import with_schema
from qtasks.clock import stopwatch_ns
from tests.benchmarks.homes import Site
from tests.benchmarks.sizes import Programme
from tests.support.store import new_message

AT_ONCE = 100
FILL = 1000
ANSWER = Reply(200, (), b"1")
RATIOS = {
    "deep_ratio": ("cost_1m_us", "cost_1k_us"),
    "wide_ratio": ("cost_10k_queues_us", "cost_1k_queues_us"),
    "spread_ratio": ("cost_1k_queues_us", "cost_1_queue_us"),
}
_numbers = count()


def depth(site: Site, programme: Programme) -> dict[str, list[float]]:
    """Measure the µs that a task takes to be enqueued, claimed and settled, `rounds` times at each depth.

    The ratios are those of the same round: the deepest to the shallowest, very many queues to many with one
    message in each, and those to one queue.
    """
    now = int(time.time() * 1000)
    opened: dict[str, tuple[Database, Iterator[str]]] = {}
    for name, (wanted, queues) in _stores(programme).items():
        opened[name] = _filled(site, name.removesuffix("_us"), now, wanted, queues)
    found: dict[str, list[float]] = {name: [] for name in opened}
    try:
        _round(opened, now, 1)  # to warm them
        for _ in range(programme.rounds):
            for name, spent in _round(opened, now, programme.stored // AT_ONCE // 2).items():
                found[name].append(spent)
    finally:
        for database, _ in opened.values():
            _drop(database)
    for name, (much, little) in RATIOS.items():
        found[name] = [a / b for a, b in zip(found[much], found[little], strict=True)]
    return found


def _stores(programme: Programme) -> dict[str, tuple[int, int]]:
    """Give how many messages wait in how many queues, by the name of what a task costs there."""
    low, middle, high = programme.depths
    many = programme.queues
    return {
        "cost_1k_us": (low, 1),
        "cost_100k_us": (middle, 1),
        "cost_1m_us": (high, 1),
        "cost_1_queue_us": (many, 1),
        "cost_1k_queues_us": (many // 10, many // 10),
        "cost_10k_queues_us": (many, many),
    }


def _round(opened: Mapping[str, tuple[Database, Iterator[str]]], now: int, turns: int) -> dict[str, float]:
    """Let all stores take turns, so often; gives the µs of a task in each."""
    spent = dict.fromkeys(opened, 0.0)
    for _ in range(turns):
        for name, (database, queues) in opened.items():
            began_at = stopwatch_ns()
            _pass_through(database, queues, now)
            spent[name] += seconds_since(began_at)
    return {name: 1e6 * each / (turns * AT_ONCE) for name, each in spent.items()}


def store(site: Site, programme: Programme) -> dict[str, float]:
    """Measure how many messages a second the store takes in, and how many it claims and settles."""
    now = int(time.time() * 1000)
    database = _open(site, "store")
    try:
        queue = _names(1)
        return {
            "store_enqueue_100": _enqueue(database, queue, now, 100, programme.stored),
            "store_enqueue_500": _enqueue(database, queue, now, 500, programme.stored),
            "store_cycle_64": _cycle(database, now, 64, programme.stored),
            "store_cycle_200": _cycle(database, now, 200, programme.stored),
        }
    finally:
        _drop(database)


def _drop(database: Database) -> None:
    database.close()
    if isinstance(database, PostgresDatabase):
        drop_schema(database.place)


def _open(site: Site, name: str, durability: str = "full") -> Database:
    if site.is_postgres:
        return PostgresDatabase(with_schema(site.url, f"bench_{name}"))
    return SqliteDatabase(str(site.folder / f"{name}.db"), durability=durability)


def _filled(site: Site, name: str, now: int, wanted: int, queues: int) -> tuple[Database, Iterator[str]]:
    """Open a store in which so many messages wait; gives the queues that take turns, too."""
    database, names = _open(site, name, "relaxed"), _names(queues)
    _enqueue(database, names, now, FILL if wanted >= FILL else wanted, wanted)
    if site.is_postgres:
        return database, names
    database.close()
    return _open(site, name), names


def _names(queues: int) -> Iterator[str]:
    return (f"queue{number % queues}" for number in count())


def _pass_through(database: Database, queues: Iterator[str], now: int) -> None:
    """Enqueue as many as are claimed and settled, so that as many wait as before."""
    _store(database, queues, now, AT_ONCE)
    claims = database.run(partial(_claim, slots=AT_ONCE, now=now))
    database.run(partial(_settle, claims=claims, now=now))
    if len(claims) != AT_ONCE:
        raise AssertionError(f"{len(claims)} of {AT_ONCE} could be claimed")


def _enqueue(database: Database, queues: Iterator[str], now: int, size: int, total: int) -> float:
    began_at = stopwatch_ns()
    for _ in range(total // size):
        _store(database, queues, now, size)
    return total / seconds_since(began_at)


def _store(database: Database, queues: Iterator[str], now: int, size: int) -> None:
    database.run(messages.Enqueueing([_message(now, next(queues)) for _ in range(size)], now))


def _cycle(database: Database, now: int, slots: int, total: int) -> float:
    """Claim and settle what waits."""
    done, began_at = 0, stopwatch_ns()
    while done + slots <= total:
        claims = database.run(partial(_claim, slots=slots, now=now))
        database.run(partial(_settle, claims=claims, now=now))
        done += len(claims)
        if not claims:
            raise AssertionError(f"{done} of {total} could be claimed")
    return done / seconds_since(began_at)


def _message(now: int, queue: str) -> NewMessage:
    name = f"tsk_{next(_numbers)}"
    return new_message(
        b"x" * 300, now=now, queue=queue, ordered=False, parallelism=1000, task_id=name,
        dedup_key=f"id:{name}", result_ttl_ms=60_000,
    )  # fmt: skip


def _claim(session: Session, slots: int, now: int) -> list[Claim]:
    claimed = claiming.claim(
        session, node="bench", app=None, slots=slots, alone_is_free=True, lease_margin_ms=1000, now=now
    )
    return list(claimed.claims)


def _settle(session: Session, claims: list[Claim], now: int) -> None:
    settling.settle(session, [Settlement(each, ANSWER, Delivered(), now) for each in claims])
