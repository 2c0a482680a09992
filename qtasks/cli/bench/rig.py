"""An app at work whose broker is measured: its tasks, its loop in a thread, and the way to pause its queue.

Callers measure from threads of their own, as the views of a web app would. Where the broker is, is said
by `places`.
"""

from __future__ import annotations

import asyncio
import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from typing import Any, TypeVar

from qtasks.cli.connection import Connection
from qtasks.client import calls
from qtasks.clock import stopwatch_ns
from qtasks.errors import BrokerUnavailable
from qtasks.home.app import QTasks
from qtasks.settings import Settings
from qtasks.tasks.queues import Queue

T = TypeVar("T")

SIZE = 64
"""Bytes of a call's argument, unless it is told otherwise."""
PARALLELISM = 1000
CONCURRENCY = 64
KEPT_S = 300
"""How long results are kept: the work is the same, and little is left behind."""
PATIENCE_S = 60
LOOK_S = 0.001


class Workload:
    """The tasks that are called, and what they note: that they ran, or how long after their call."""

    def __init__(self, tasks: QTasks, queue: str) -> None:
        self._ends: list[None] = []
        self.waits_ms: list[float] = []

        @tasks.task(name="bench.noop", queue=queue)
        async def noop(text: str) -> None:
            self._ends.append(None)

        @tasks.task(name="bench.plain", queue=queue)
        def plain(text: str) -> None:
            self._ends.append(None)

        @tasks.task(name="bench.stamp", queue=queue)
        async def stamp(called_at: int) -> None:
            self.waits_ms.append((stopwatch_ns() - called_at) / 1e6)

        @tasks.task(name="bench.echo", queue=queue)
        async def echo(text: str) -> str:
            return text

        @tasks.task(name="bench.nap", queue=queue)
        async def nap(ms: int) -> None:
            await asyncio.sleep(ms / 1000)
            self._ends.append(None)

        self.noop, self.plain, self.stamp, self.echo, self.nap = noop, plain, stamp, echo, nap

    @property
    def done(self) -> int:
        """How many of `noop`, `plain` and `nap` have run."""
        return len(self._ends)


class Rig:
    """An app with its broker, from `at_work`."""

    def __init__(self, settings: Settings, queue: str, concurrency: int, size: int) -> None:
        self.settings = settings
        self.queue = queue
        self.text = "x" * size
        self.tasks = QTasks(
            settings=settings,
            queues={queue: Queue(parallelism=PARALLELISM)},
            defaults={"result_ttl": KEPT_S},
            concurrency=concurrency,
        )
        self.work = Workload(self.tasks, queue)
        self._connection = Connection(settings=settings)
        self._loop = new_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the app's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def pause(self) -> None:
        """Let nothing more of the queue start."""
        self._connection.ask(calls.pause_queue(self.queue))

    def resume(self) -> None:
        """Let the queue go on."""
        self._connection.ask(calls.resume_queue(self.queue))

    def await_done(self, count: int) -> None:
        """Wait until so many tasks have run; raises `BrokerUnavailable` if none does for a minute."""
        self.await_number(count, lambda: self.work.done)

    def await_stamps(self, count: int) -> None:
        """Wait until so many calls of `stamp` have started, as `await_done` does."""
        self.await_number(count, lambda: len(self.work.waits_ms))

    def await_number(self, count: int, number: Callable[[], int]) -> None:
        """Wait until a number has come to `count`, as `await_done` does."""
        seen, seen_at = -1, stopwatch_ns()
        while (now := number()) < count:
            if now != seen:
                seen, seen_at = now, stopwatch_ns()
            elif stopwatch_ns() - seen_at > PATIENCE_S * 1e9:
                raise BrokerUnavailable(
                    f"{now} of {count} tasks ran, and none in the last {PATIENCE_S} s; look at what the "
                    f"broker says of them: qtasks messages ls --queue {self.queue}"
                )
            time.sleep(LOOK_S)

    @contextmanager
    def _working(self, listening: socket.socket | None) -> Iterator[None]:
        """Run the loop with the app's lifespan, and serve its webhook if there is a socket for it."""
        thread = threading.Thread(target=self._loop.run_forever, name="qtasks-bench", daemon=True)
        thread.start()
        lifespan = self.tasks.lifespan()
        entering = asyncio.run_coroutine_threadsafe(lifespan.__aenter__(), self._loop)
        try:
            with _hushed():
                entering.result()
            with self._served(listening):
                yield
        finally:
            self._connection.close()
            wait([entering], PATIENCE_S)  # who interrupts it here must not find it at work afterwards
            try:
                if entering.done() and entering.exception() is None:
                    self.run(lifespan.__aexit__(None, None, None))
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                thread.join(PATIENCE_S)
                self._loop.close()

    @contextmanager
    def _served(self, listening: socket.socket | None) -> Iterator[None]:
        if listening is None:
            yield
            return
        serving = self.run(_serve(self.tasks, listening))
        try:
            yield
        finally:
            self.run(_stop(*serving))


@contextmanager
def at_work(
    settings: Settings,
    queue: str,
    *,
    listening: socket.socket | None = None,
    concurrency: int = CONCURRENCY,
    size: int = SIZE,
) -> Iterator[Rig]:
    """Have an app with these settings run for the block, its queue warmed by one task.

    Calls have an argument of `size` bytes. `listening` is a socket for its webhook, if its broker reaches it
    over HTTP. What is left of its tasks is
    the caller's to remove.
    """
    rig = Rig(settings, queue, concurrency, size)
    with rig._working(listening):
        rig.work.noop.delay(rig.text)
        rig.await_done(1)
        yield rig


def new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop of the kind that a server would run the app on."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep from stderr what an app says as it starts, but for warnings."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    finally:
        for line in said.getvalue().splitlines(keepends=True):
            if "WARNING" in line:
                sys.stderr.write(line)


async def _serve(app: QTasks, listening: socket.socket) -> tuple[Any, asyncio.Task[None]]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    # uvicorn announces by no event that it has started
    while not server.started and not serving.done():  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return server, serving


async def _stop(server: Any, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await serving
