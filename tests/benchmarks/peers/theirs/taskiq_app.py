"""taskiq as a contestant, on Redis streams, which acknowledge.

Results are kept for all tasks or for none, so the worker is started anew for them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from tests.benchmarks.peers.tally import ran

PACKAGES = ("taskiq", "taskiq-redis", "redis", "hiredis", "orjson", "uvloop")
CHUNK = 100

broker = RedisStreamBroker(os.environ["PEERS_URL"]).with_serializer(ORJSONSerializer())
if os.environ["PEERS_PHASE"] == "results":
    broker = broker.with_result_backend(RedisAsyncResultBackend(os.environ["PEERS_URL"], result_ex_time=3600))


@broker.task
async def noop(text: str) -> None:
    ran()


@broker.task
async def echo(text: str) -> str:
    return text


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


async def delay(text: str) -> None:
    await noop.kiq(text)


async def delay_many(text: str, count: int) -> None:
    for first in range(0, count, CHUNK):
        await asyncio.gather(*(noop.kiq(text) for _ in range(min(CHUNK, count - first))))


async def result(text: str) -> str:
    found = await (await echo.kiq(text)).wait_result(check_interval=0.001, timeout=30)
    return found.return_value
