"""Celery as a contestant, with Redis as its broker and as its result backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery

from tests.benchmarks.peers.tally import ran

PACKAGES = ("celery", "kombu", "billiard", "redis", "hiredis")

celery = Celery("bench", broker=os.environ["PEERS_URL"], backend=os.environ["PEERS_URL"])
celery.conf.update(
    worker_prefetch_multiplier=64,
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


def result(text: str) -> str:
    return echo.delay(text).get(timeout=30)
