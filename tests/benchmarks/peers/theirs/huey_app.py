"""huey as a contestant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from huey import RedisHuey

from tests.benchmarks.peers.tally import ran

PACKAGES = ("huey", "redis", "hiredis")

huey = RedisHuey("bench", url=os.environ["PEERS_URL"], notify_result=True)


@huey.task()
def noop(text: str) -> None:
    ran()


@huey.task()
def echo(text: str) -> str:
    return text


@contextmanager
def opened() -> Iterator[None]:
    yield


def delay(text: str) -> None:
    noop(text)


def result(text: str) -> str:
    return echo(text).get(blocking=True, timeout=30)
