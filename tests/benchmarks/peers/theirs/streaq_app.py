"""streaq as a contestant."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streaq import Worker

from tests.benchmarks.peers.tally import ran

PACKAGES = ("streaq", "coredis", "anyio", "uvloop")
CHUNK = 1000

worker = Worker(
    redis_url=os.environ["PEERS_URL"],
    concurrency=256,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=0, silent=True)
async def noop(text: str) -> None:
    ran()


@worker.task(silent=True)
async def echo(text: str) -> str:
    return text


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    async with worker:
        yield


async def delay(text: str) -> None:
    await noop.enqueue(text)


async def delay_many(text: str, count: int) -> None:
    for first in range(0, count, CHUNK):
        await worker.enqueue_many([noop.enqueue(text) for _ in range(min(CHUNK, count - first))])


async def result(text: str) -> str:
    return (await (await echo.enqueue(text)).result(timeout=30)).result
