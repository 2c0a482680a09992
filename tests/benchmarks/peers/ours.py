"""qtasks as a contestant, with every home: which one it is, `QTASKS_BROKER` says.

Where the broker is inside the app, whoever calls is the app too, as in a web app that calls a task: the app's
loop runs in a thread beside the callers. With a standalone broker the caller is a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from qtasks import QTasks, Queue
from tests.benchmarks.peers.driver import loop_factory
from tests.benchmarks.peers.tally import ran

PACKAGES = ("uvicorn", "starlette", "aiohttp", "orjson", "uvloop", "psycopg")
QUEUE = "bench"
PARALLELISM = 1000
CHUNK = 1000

tasks = QTasks(queues={QUEUE: Queue(parallelism=PARALLELISM)})


@tasks.task(queue=QUEUE, result_ttl=0)
async def noop(text: str) -> None:
    ran()


@tasks.task(queue=QUEUE)
async def echo(text: str) -> str:
    return text


app = Starlette(routes=[Mount("/qtasks", app=tasks)], lifespan=tasks.lifespan)


def delay(text: str) -> None:
    noop.delay(text)


def delay_many(text: str, count: int) -> None:
    for first in range(0, count, CHUNK):
        noop.delay_many(noop.call(text) for _ in range(min(CHUNK, count - first)))


def result(text: str) -> str:
    return echo.delay(text).get(timeout=30)


@contextmanager
def opened() -> Iterator[None]:
    """Run the app where it has the broker; while a backlog is made, its queue is paused."""
    if os.environ["QTASKS_BROKER"].startswith("http"):
        _hold_queue()
        yield
        return
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        lifespan = tasks.lifespan()

        def on_loop(work: Any) -> None:
            asyncio.run_coroutine_threadsafe(work, loop).result(60)

        try:
            on_loop(lifespan.__aenter__())
            _hold_queue()
            yield
            on_loop(lifespan.__aexit__(None, None, None))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _hold_queue() -> None:
    if os.environ["PEERS_PHASE"] == "fill":
        # A call makes the queue as it is declared; what is set by hand is ordered, as with QStash.
        first = echo.apply_async(("",), countdown=3600)
        qtasks = [sys.executable, "-m", "qtasks", "queues"]
        command = [*qtasks, "set", QUEUE, "--parallelism", str(PARALLELISM), "--paused"]
        subprocess.run(command, check=True, timeout=60, stdout=sys.stderr)
        first.cancel()
