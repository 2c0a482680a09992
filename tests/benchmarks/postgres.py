"""The store on PostgreSQL, measured by its verbs: what it takes in, and what it claims and settles.

`deep_cost` is what a message costs where a million wait, as a share of what it costs where a thousand do, and
`wide_cost` the same for ten thousand queues and a thousand.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import count

from qtasks.broker.store import claiming, messages, settling
from qtasks.broker.store.database import Session
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.records import Claim, Delivered, NewMessage, Reply, Settlement
from tests.support.store import new_message

RAW = 1000
MESSAGES = 10_000
DEEP = 1_000_000
QUEUES = 10_000
ANSWER = Reply(200, (), b"1")
_numbers = count()


def raw_commits_per_second(url: str) -> float:
    """Commit single rows by the driver alone: the yardstick that the server and its disk set."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS raw (id BIGSERIAL PRIMARY KEY, body BYTEA)")
        started = time.perf_counter()
        for _ in range(RAW):
            connection.execute("INSERT INTO raw (body) VALUES (%s)", [b"x" * 64])
        return RAW / (time.perf_counter() - started)


def store_figures(url: str) -> dict[str, float]:
    """Measure a store that is empty."""
    database = PostgresDatabase(url)
    now = int(time.time() * 1000)
    try:
        figures = {
            "enqueue_100": _enqueue(database, now, 100, MESSAGES),
            "enqueue_500": _enqueue(database, now, 500, MESSAGES),
            "cycle_64": _cycle(database, now, 64, MESSAGES),
            "cycle_200": _cycle(database, now, 200, MESSAGES),
        }
        _enqueue(database, now, 500, 1000)
        shallow = _cycle(database, now, 100, 1000)
        _enqueue(database, now, 1000, DEEP)
        figures["deep_cost"] = shallow / _cycle(database, now, 100, 5000)
        _spread(database, now, 1000)
        narrow = _cycle(database, now, 100, 1000)
        _spread(database, now, QUEUES)
        figures["wide_cost"] = narrow / _cycle(database, now, 100, 1000)
    finally:
        database.close()
    return figures


def _message(now: int, queue: str) -> NewMessage:
    name = f"tsk_{next(_numbers)}"
    return new_message(
        b"x" * 300, now=now, queue=queue, ordered=False, parallelism=1000, task_id=name,
        dedup_key=f"id:{name}", result_ttl_ms=60_000,
    )  # fmt: skip


def _enqueue(database: PostgresDatabase, now: int, size: int, total: int) -> float:
    started = time.perf_counter()
    for _ in range(total // size):
        database.run(messages.Enqueueing([_message(now, "bench") for _ in range(size)], now))
    return total / (time.perf_counter() - started)


def _spread(database: PostgresDatabase, now: int, queues: int) -> None:
    """Put one message into each of many queues."""
    for first in range(0, queues, 500):
        some = [_message(now, f"queue{number}") for number in range(first, first + 500)]
        database.run(messages.Enqueueing(some, now))


def _cycle(database: PostgresDatabase, now: int, slots: int, total: int) -> float:
    """Claim and settle, without any delivery."""
    done, started = 0, time.perf_counter()
    while done < total:
        claims = database.run(partial(_claim, slots=slots, now=now))
        if not claims:
            break
        database.run(partial(_settle, claims=claims, now=now))
        done += len(claims)
    return done / (time.perf_counter() - started)


def _claim(session: Session, slots: int, now: int) -> list[Claim]:
    claimed = claiming.claim(
        session, node="bench", app=None, slots=slots, alone_is_free=True, lease_margin_ms=1000, now=now
    )
    return list(claimed.claims)


def _settle(session: Session, claims: list[Claim], now: int) -> None:
    settling.settle(session, [Settlement(each, ANSWER, Delivered(), now) for each in claims])
