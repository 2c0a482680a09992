"""Dramatiq as a contestant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.benchmarks.peers.tally import ran

PACKAGES = ("dramatiq", "redis", "hiredis")

broker = RedisBroker(url=os.environ["PEERS_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["PEERS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(text: str) -> None:
    ran()


@dramatiq.actor(store_results=True)
def echo(text: str) -> str:
    return text


@contextmanager
def opened() -> Iterator[None]:
    yield


def delay(text: str) -> None:
    noop.send(text)


def result(text: str) -> str:
    return echo.send(text).get_result(block=True, timeout=30_000)
