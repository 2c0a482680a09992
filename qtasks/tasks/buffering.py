"""Calls that are gathered for a moment and sent together in the background: what `QTasks.buffered` gives.

A buffer has a thread for as long as calls wait in it. It is no daemon, so the process does not end before
what waits is sent, or was given up after `END_MS`. How a call is made and sent is in `calling.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack

from qtasks.clock import Clock
from qtasks.errors import OF_THE_SENDER, ArgumentsError, BrokerUnreachable, RequestError
from qtasks.tasks.buffered import BufferedCall
from qtasks.tasks.forks import call_after_fork
from qtasks.tasks.keys import Span
from qtasks.tasks.options import CallOptions

if TYPE_CHECKING:
    from qtasks.tasks.task import Task

log = logging.getLogger("qtasks.buffer")

P = ParamSpec("P")
T = TypeVar("T")

END_MS = 5000
"""For so long what waits is still sent when the app or the process ends."""
TOGETHER = 2
"""So many times the size leaves at once, if that much waits: over several connections, of which others are at
work while the answer on one is read."""
LOOK_S = 0.05  # how long the thread outlives the last call, and how soon it sees that the process ends


class Buffer:
    """Gathers calls from any thread or coroutine, and sends them together in the background.

    They go when `size` of them wait, or `ms` milliseconds after the first of them. While `limit` calls are
    not durable yet, further ones wait for room. At the end of a `with` or `async with` block all of its
    calls are durable, or it raises what was wrong with the first that is not; it may be used again.
    """

    def __init__(self, clock: Clock, *, size: int, ms: int, limit: int) -> None:
        """Raises `ArgumentsError` for numbers that make no buffer."""
        _check(size, ms, limit)
        self._clock = clock
        self._size, self._ms, self._limit = size, ms, limit
        self._begin()
        call_after_fork(self._begin)

    def _begin(self) -> None:
        """Be empty. In a forked child too: what waits is its parent's, which has the thread that sends it."""
        self._lock = lock = threading.Lock()
        self._work = threading.Condition(lock)  # for the thread to wait for calls
        self._progress = threading.Condition(lock)  # for callers to wait for the thread
        self._waiting: deque[BufferedCall[Any]] = deque()
        self._first_at = 0
        self._made = self._taken = self._settled = 0  # calls there were, that left, and that landed or failed
        self._wanted = 0  # up to which they are to leave at once
        self._failed = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    # --- calling ---------------------------------------------------------------------------------

    def delay(self, task: Task[P, T, Any], /, *args: P.args, **kwargs: P.kwargs) -> BufferedCall[T]:
        """Have a task called later, with these arguments; returns before that is durable.

        Raises `ArgumentsError` or `EncodeError` at once, all else comes with the future. Blocks while the
        buffer is full. `buffer.delay(t.with_options(retries=0), ...)` changes options.
        """
        return self._put(self._call(task, args, kwargs))

    async def adelay(self, task: Task[P, T, Any], /, *args: P.args, **kwargs: P.kwargs) -> BufferedCall[T]:
        """Do what `delay` does; while the buffer is full, the event loop goes on."""
        return await self._aput(self._call(task, args, kwargs))

    def apply_async(
        self,
        task: Task[P, T, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        **options: Unpack[CallOptions],
    ) -> BufferedCall[T]:
        """Do what `delay` does, as told: see `Task.apply_async`."""
        told = task.with_options(**options) if options else task
        return self._put(self._call(told, tuple(args), kwargs or {}, countdown, eta, task_id))

    async def aapply_async(
        self,
        task: Task[P, T, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        **options: Unpack[CallOptions],
    ) -> BufferedCall[T]:
        """Do what `apply_async` does; while the buffer is full, the event loop goes on."""
        told = task.with_options(**options) if options else task
        return await self._aput(self._call(told, tuple(args), kwargs or {}, countdown, eta, task_id))

    # --- flushing --------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Send what waits, and return when all calls that were made are durable; `timeout` is in seconds.

        Raises the first error of a call since the last flush; how many failed is noted on it. Raises
        `TimeoutError` if some are still on their way then, and they go on.
        """
        if not self._land(timeout):
            raise TimeoutError(f"{self._made - self._settled} buffered calls are still on their way")
        with self._work:
            error, failed = self._error, self._failed
            self._error, self._failed = None, 0
        if error is not None:
            error.add_note(f"{failed} buffered calls failed; each one's future says why")
            raise error

    async def aflush(self, timeout: float | None = None) -> None:
        """Do what `flush` does without blocking the event loop."""
        await asyncio.to_thread(self.flush, timeout)

    async def finish(self) -> None:
        """Send what waits as the app ends; what has not left in time fails, and that is logged."""
        if self._settled < self._made and not await asyncio.to_thread(self._land, END_MS / 1000):
            self._give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        else:
            self._land(None)  # what failed was logged, and must not hide what went wrong in the block

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _land(self, timeout: float | None) -> bool:
        """Have what waits sent, and say whether it has landed in time, one way or the other."""
        self._check_thread()
        with self._work:
            upto = self._wanted = self._made
            self._work.notify()
            return self._progress.wait_for(lambda: self._settled >= upto, timeout)

    # --- waiting ---------------------------------------------------------------------------------

    def _call(
        self,
        task: Task[..., T, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
    ) -> BufferedCall[T]:
        caller = task._find_caller()
        return BufferedCall(caller.ready(task, args, kwargs, countdown, eta, task_id), caller, self._lock)

    def _put(self, call: BufferedCall[T]) -> BufferedCall[T]:
        if not self._try_put(call):
            self._check_thread()
            with self._work:
                while self._is_full:
                    self._progress.wait()
                self._add(call)
        return call

    def _check_thread(self) -> None:
        """Refuse to wait for the thread on itself, as the callback of a future would."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a future's callback cannot wait for its buffer, which waits for the callback")

    async def _aput(self, call: BufferedCall[T]) -> BufferedCall[T]:
        return call if self._try_put(call) else await asyncio.to_thread(self._put, call)

    def _try_put(self, call: BufferedCall[Any]) -> bool:
        """Take a call in, if there is room; where calls are prompt, as under test, it is sent at once."""
        if call._caller.is_prompt:
            with self._work:
                self._made += 1
                self._taken += 1
            self._send([call])
            return True
        with self._work:
            if self._is_full:
                return False
            self._add(call)
            return True

    @property
    def _is_full(self) -> bool:
        return self._made - self._settled >= self._limit

    def _add(self, call: BufferedCall[Any]) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="qtasks-buffer", daemon=False)
            thread.start()  # which fails at the very end of a process, and then nothing was taken in
            self._thread = thread
        waiting = self._waiting
        waiting.append(call)
        self._made += 1
        if len(waiting) == 1:
            self._first_at = self._clock.monotonic()
            self._work.notify()
        elif len(waiting) == self._size:
            self._work.notify()

    # --- sending ---------------------------------------------------------------------------------

    def _run(self) -> None:
        """Be the thread: send batch after batch, and end when there is nothing to send."""
        ends_at: int | None = None
        while batch := self._next():
            if ends_at is None and not _goes_on():
                ends_at = self._clock.monotonic() + END_MS
            self._send(batch)
            if ends_at is not None and self._clock.monotonic() >= ends_at:
                self._give_up()

    def _next(self) -> list[BufferedCall[Any]]:
        """Wait for a batch; none is the end of the thread."""
        with self._work:
            while True:
                if not self._waiting:
                    if not self._work.wait(LOOK_S) and not self._waiting:
                        self._thread = None
                        return []
                elif left_ms := self._left_ms():
                    self._work.wait(min(LOOK_S, left_ms / 1000))
                else:
                    return self._take()

    def _left_ms(self) -> int:
        """Say for how much longer the calls that wait may, while others join them."""
        if len(self._waiting) >= self._size or self._taken < self._wanted or not _goes_on():
            return 0
        return max(0, self._first_at + self._ms - self._clock.monotonic())

    def _take(self) -> list[BufferedCall[Any]]:
        """Take as many as go together, which are of one caller."""
        waiting = self._waiting
        batch = [waiting.popleft()]
        most = TOGETHER * self._size
        while waiting and len(batch) < most and waiting[0]._caller is batch[0]._caller:
            batch.append(waiting.popleft())
        self._taken += len(batch)
        return batch  # what is left keeps the age of these, so that it never waits for too long

    def _send(self, calls: Sequence[BufferedCall[Any]]) -> None:
        caller = calls[0]._caller
        try:
            caller.send_ready([each._sent for each in calls if each._sent is not None])
        except RequestError as error:
            if len(calls) == 1 or isinstance(error, OF_THE_SENDER):
                self._fail(calls, error)
                return
            middle = len(calls) // 2  # one of them is refused, and the others with it: find out which
            self._send(calls[:middle])
            self._send(calls[middle:])
        except Exception as error:  # a wall: every caller must hear what became of its call
            self._fail(calls, error)
        else:
            self._end(calls, [None] * len(calls))

    def _fail(self, calls: Sequence[BufferedCall[Any]], error: Exception) -> None:
        log.error(
            "buffered calls failed",
            extra={"count": len(calls), "task_id": calls[0].id, "error_type": type(error).__name__},
            exc_info=error,
        )
        self._end(
            calls,
            [error if each._sent is None else each._caller.with_repeat(error, each._sent) for each in calls],
        )

    def _end(self, calls: Sequence[BufferedCall[Any]], errors: Sequence[Exception | None]) -> None:
        told: list[BufferedCall[Any]] = []
        with self._work:
            for each, error in zip(calls, errors, strict=True):
                if each._end(error):
                    told.append(each)
                if error is not None:
                    self._failed += 1
                    self._error = self._error or error
        for each in told:  # before those hear of it who wait for all
            each._tell()
        with self._work:
            self._settled += len(calls)
            self._progress.notify_all()

    def _give_up(self) -> None:
        """Tell those whose calls still wait that nothing is sent any more."""
        with self._work:
            batch = [*self._waiting]
            self._waiting.clear()
            self._taken += len(batch)
        if batch:
            self._fail(batch, BrokerUnreachable("the app ended before the buffer could send this call"))


def _goes_on() -> bool:
    """Say whether the process is not about to end: then the main thread is over, and waits for others."""
    return threading.main_thread().is_alive()


def _check(size: int, ms: int, limit: int) -> None:
    for name, value, least in (("size", size, 1), ("ms", ms, 0), ("limit", limit, size)):
        if type(value) is not int or value < least:
            raise ArgumentsError(f"buffered({name}={value!r}): it is a whole number from {least} on")
