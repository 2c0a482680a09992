"""Celery as a contestant, with Redis as its broker and as its result backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery, group

from tests.benchmarks.peers.tally import ran

PACKAGES = ("celery", "kombu", "billiard", "redis", "hiredis")
CHUNK = 1000

celery = Celery("bench", broker=os.environ["PEERS_URL"], backend=os.environ["PEERS_URL"])
celery.conf.update(
    worker_prefetch_multiplier=int(os.environ.get("PEERS_PREFETCH", 64)),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=10,
)


@celery.task(ignore_result=True)
def noop(text: str) -> None:
    ran()


@celery.task
def echo(text: str) -> str:
    return text


@contextmanager
def opened() -> Iterator[None]:
    yield


def delay(text: str) -> None:
    noop.delay(text)


def delay_many(text: str, count: int) -> None:
    for first in range(0, count, CHUNK):
        group(noop.s(text) for _ in range(min(CHUNK, count - first))).apply_async()


def result(text: str) -> str:
    return echo.delay(text).get(timeout=30)
