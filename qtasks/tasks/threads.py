"""The threads on which plain functions run: few, our own, and daemons.

The standard executor joins its threads at exit, so one long task would hold up the end of the
process or a reload. Ends of functions reach the event loop in bunches: one wake-up for all that
have ended since it last looked.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

from qtasks.clock import Clock


class Job:
    """A function on its way through a thread. `future` belongs to the loop that started it."""

    __slots__ = ("call", "context", "error", "future", "landing", "over", "result", "started_at", "thread_id")

    def __init__(self, call: Callable[[], Any], over: Callable[[], None], landing: _Landing) -> None:
        self.call = call
        self.over = over
        self.landing = landing
        self.context = contextvars.copy_context()
        self.future: asyncio.Future[Any] = landing.loop.create_future()
        self.started_at: int | None = None
        """Monotonic ms; None while it waits for a free thread."""
        self.thread_id: int | None = None
        self.result: Any = None
        self.error: BaseException | None = None


class ThreadPool:
    """Runs functions on up to `size` daemon threads, which start when they are first needed."""

    def __init__(self, size: int, clock: Clock) -> None:
        self._size = size
        self._clock = clock
        self._work: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished = 0
        self._landing: _Landing | None = None

    def start(self, call: Callable[[], Any], over: Callable[[], None]) -> Job:
        """Run a function in a copy of the current context; `over` is called on this loop at its end."""
        loop = asyncio.get_running_loop()
        if self._landing is None or self._landing.loop is not loop:
            self._landing = _Landing(loop)
        job = Job(call, over, self._landing)
        self._work.put(job)
        with self._lock:
            # Counted here and not by what threads say of themselves: one that has taken a job may not
            # have said so yet, and a job would wait for it while there is room for another thread.
            self._unfinished += 1
            if self._started < min(self._unfinished, self._size):
                self._started += 1
                name = f"qtasks-task-{self._started}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
        return job

    def _serve(self) -> None:
        while True:
            job = self._work.get()
            job.thread_id = threading.get_ident()
            job.started_at = self._clock.monotonic()
            try:
                job.result = job.context.run(job.call)
            except BaseException as error:  # SystemExit too: it must not end the thread in silence
                job.error = error
            with self._lock:
                self._unfinished -= 1
            job.landing.put(job)
            del job


class _Landing:
    """Where jobs arrive on their loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._jobs: list[Job] = []

    def put(self, job: Job) -> None:
        with self._lock:
            self._jobs.append(job)
            is_first = len(self._jobs) == 1
        if is_first:
            try:
                self.loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                pass  # the app has gone while its task was still running

    def _take(self) -> None:
        with self._lock:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.over()
            if job.future.done():  # nobody waits any more
                continue
            if job.error is None:
                job.future.set_result(job.result)
            elif isinstance(job.error, StopIteration):  # a future cannot carry it
                job.future.set_exception(RuntimeError("the task raised StopIteration"))
            else:
                job.future.set_exception(job.error)
