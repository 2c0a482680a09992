"""The store by its verbs, without any delivery: what a task costs there, by how many wait in how many queues.

All depths are open at once and measured in turn, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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
ROUND = 3000
FILL = 1000
ANSWER = Reply(200, (), b"1")
_numbers = count()


def depth(site: Site, programme: Programme) -> dict[str, list[float]]:
    """Measure the µs that a task takes to be enqueued, claimed and settled, `rounds` times at each depth.

    The ratios are those of the same round: the deepest to the shallowest, and as many messages spread over
    many queues to those in one.
    """
    now = int(time.time() * 1000)
    low, middle, high = programme.depths
    stores = {
        "cost_1k_us": (low, 1),
        "cost_100k_us": (middle, 1),
        "cost_1m_us": (high, 1),
        "cost_1_queue_us": (programme.queues, 1),
        "cost_10k_queues_us": (programme.queues, programme.queues),
    }
    opened: dict[str, tuple[Database, Iterator[str]]] = {}
    for name, (wanted, queues) in stores.items():
        opened[name] = _filled(site, name.removesuffix("_us"), now, wanted, queues)
    found: dict[str, list[float]] = {name: [] for name in stores}
    try:
        for _ in range(programme.rounds):
            for name, (database, queue_names) in opened.items():
                found[name].append(1e6 / _pass_through(database, queue_names, now, min(ROUND, 3 * low)))
    finally:
        for database, _ in opened.values():
            _drop(database)
    pairs = {
        "deep_ratio": ("cost_1m_us", "cost_1k_us"),
        "wide_ratio": ("cost_10k_queues_us", "cost_1_queue_us"),
    }
    for name, (much, little) in pairs.items():
        found[name] = [a / b for a, b in zip(found[much], found[little], strict=True)]
    return found


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


def _pass_through(database: Database, queues: Iterator[str], now: int, total: int) -> float:
    """Enqueue as many as are claimed and settled, so that as many wait as before; gives them a second."""
    done, began_at = 0, stopwatch_ns()
    while done < total:
        _store(database, queues, now, AT_ONCE)
        claims = database.run(partial(_claim, slots=AT_ONCE, now=now))
        database.run(partial(_settle, claims=claims, now=now))
        if len(claims) != AT_ONCE:
            raise AssertionError(f"{len(claims)} of {AT_ONCE} could be claimed")
        done += AT_ONCE
    return done / seconds_since(began_at)


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
