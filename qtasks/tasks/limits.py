"""Runs a task's function within its time: on the loop, or on a thread that cannot be stopped.

What is told of a task that was given up stands here too.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import dropwhile
from typing import Any

from qtasks.clock import Clock
from qtasks.errors import TaskTimeout
from qtasks.tasks.context import CURRENT
from qtasks.tasks.threads import Job, ThreadPool


def _timed_out(timeout_ms: int, where: str | None = None) -> TaskTimeout:
    text = f"the task did not finish within {timeout_ms / 1000:g} s"
    if where is not None:
        text += f"; its thread cannot be stopped, runs on, and holds up a retry. It was at:\n{where}"
    return TaskTimeout(text)


class Alarm:
    """Cancels coroutines of one loop whose time is over, by one timer for all: nearly all end long before.

    `asyncio.timeout` makes a timer for each, which costs more than a small task does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._limits: set[_Limit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, timeout_ms: int) -> _Limit:
        """Limit what the current task does from now on, until its `end`."""
        task = asyncio.current_task(self.loop)
        assert task is not None
        limit = _Limit(task, self.loop.time() + timeout_ms / 1000, self._limits)
        self._limits.add(limit)
        if self._timer is None or limit.at < self._timer.when():
            self._set(limit.at)
        return limit

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(at, self._ring)

    def _ring(self) -> None:
        """Cancel what is over, and look again when the next one may be."""
        self._timer, now = None, self.loop.time()
        for each in [limit for limit in self._limits if limit.at <= now]:
            each.cancel()
        if self._limits:
            self._set(min(limit.at for limit in self._limits))


class _Limit:
    """The time of one coroutine; what is cancelled by it is told from what others cancel as asyncio does."""

    __slots__ = ("_before", "_has_cancelled", "_others", "_task", "at")

    def __init__(self, task: asyncio.Task[Any], at: float, others: set[_Limit]) -> None:
        self.at = at
        self._task = task
        self._before = task.cancelling()
        self._others = others
        self._has_cancelled = False

    def cancel(self) -> None:
        self._others.discard(self)
        self._has_cancelled = True
        self._task.cancel()

    def end(self) -> bool:
        """End it; say whether it has cancelled the task, and nobody else has."""
        self._others.discard(self)
        return self._has_cancelled and self._task.uncancel() <= self._before


async def await_within(
    call: Callable[[], Any], timeout_ms: int | None, over: Callable[[], None], alarm: Alarm
) -> Any:
    """Await a coroutine function, and cancel it when its time is over: raises `TaskTimeout`."""
    limit = None if timeout_ms is None else alarm.begin(timeout_ms)
    is_over = False
    try:
        try:
            return await call()
        finally:
            is_over = limit is not None and limit.end()
    except asyncio.CancelledError as error:
        if is_over and timeout_ms is not None:
            raise _timed_out(timeout_ms) from error
        raise
    finally:
        CURRENT.set(None)  # what runs here next is no task: a server may use one context for several
        over()


@asynccontextmanager
async def limited(timeout_ms: int | None) -> AsyncIterator[asyncio.Timeout]:
    """Limit the time of a block, which may change its limit: raises `TaskTimeout`."""
    limit = asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000)
    try:
        async with limit:
            yield limit
    except TimeoutError as error:
        if limit.expired() and timeout_ms is not None:
            raise _timed_out(timeout_ms) from error
        raise


async def thread_within(
    threads: ThreadPool,
    call: Callable[[], Any],
    timeout_ms: int | None,
    over: Callable[[], None],
    clock: Clock,
) -> Any:
    """Wait for a function on a thread no longer than allowed; `over` is called when it really ends."""
    job = threads.start(call, over)
    if timeout_ms is None:
        return await job.future
    timer = _Timer(job, timeout_ms, clock)
    try:
        return await job.future
    finally:
        timer.cancel()


class _Timer:
    """Gives a job up when its time is over; waiting for a free thread does not count."""

    def __init__(self, job: Job, timeout_ms: int, clock: Clock) -> None:
        self._job = job
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._look_in(timeout_ms)

    def _look_in(self, ms: int) -> None:
        self._handle = self._job.landing.loop.call_later(ms / 1000, self._look)

    def _look(self) -> None:
        started_at = self._job.started_at
        used_ms = 0 if started_at is None else self._clock.monotonic() - started_at
        if used_ms < self._timeout_ms:
            self._look_in(self._timeout_ms - used_ms)
        elif not self._job.future.done():
            self._job.future.set_exception(_timed_out(self._timeout_ms, _stack(self._job.thread_id)))

    def cancel(self) -> None:
        """Look no more."""
        self._handle.cancel()


def _stack(thread_id: int | None) -> str:
    """Say where a thread is at this moment, without the frames that led to the task's function."""
    innermost = None if thread_id is None else sys._current_frames().get(thread_id)
    if innermost is None:
        return "an unknown place"
    frames = [*traceback.walk_stack(innermost)][::-1]
    own = dropwhile(lambda each: each[0].f_globals.get("__name__", "").startswith(_LEADING), frames)
    return "".join(traceback.StackSummary.extract(iter(own)).format()).rstrip()


_LEADING = ("threading", "qtasks.")
