"""Progress of running tasks: `track`, which counts a loop, and what brings reports to the broker.

A task must not wait for its own report, nor fail because of it: one thread sends what is newest of
each task, four times a second at most.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sized
from typing import TypeVar, overload

from qtasks.errors import QTasksError
from qtasks.protocol.results import ProgressReport
from qtasks.tasks.context import CURRENT, Context
from qtasks.tasks.forks import call_after_fork

log = logging.getLogger("qtasks.progress")

T = TypeVar("T")

PAUSE_S = 0.25
IDLE_S = 10


class ProgressReporter:
    """Takes reports from any thread or loop, without waiting, and hands on the newest of each task.

    `send` may block and raise. The thread that calls it pauses for `pause_s` each time, and ends once
    nothing was told for `idle_s`.
    """

    def __init__(
        self,
        send: Callable[[Mapping[str, ProgressReport]], None],
        *,
        pause_s: float = PAUSE_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._send = send
        self._pause_s = pause_s
        self._idle_s = idle_s
        self._begin()
        call_after_fork(self._begin)

    def _begin(self) -> None:
        """Begin, or begin anew in a forked child, which has no such thread."""
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._newest: dict[str, ProgressReport] = {}
        self._thread: threading.Thread | None = None

    def report(self, task_id: str, report: ProgressReport) -> None:
        """Note how far a task has come."""
        with self._lock:
            self._newest[task_id] = report
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="qtasks-progress", daemon=True)
                self._thread.start()
        self._told.set()

    def step(self) -> None:
        """Send what has been told since the last time; what cannot be sent is dropped."""
        with self._lock:
            newest, self._newest = self._newest, {}
        if not newest:
            return
        try:
            self._send(newest)
        except QTasksError as error:  # the tasks have finished, or the broker is away: there will be news
            log.debug("progress was not told", extra={"reason": str(error)})
        except Exception:  # a loop step's wall
            log.exception("progress was not told")

    def _run(self) -> None:
        while self._told.wait(self._idle_s) or not self._has_ended():
            self._told.clear()
            self.step()
            threading.Event().wait(self._pause_s)

    def _has_ended(self) -> bool:
        """End the thread, unless something was told at this very moment."""
        with self._lock:
            if not self._newest:
                self._thread = None
            return self._thread is None


@overload
def track(iterable: Iterable[T], note: str | None = None, *, total: float | None = None) -> Iterator[T]: ...
@overload
def track(
    iterable: AsyncIterable[T], note: str | None = None, *, total: float | None = None
) -> AsyncIterator[T]: ...
def track(
    iterable: Iterable[T] | AsyncIterable[T], note: str | None = None, *, total: float | None = None
) -> Iterator[T] | AsyncIterator[T]:
    """Loop over something and report how many items are done: `for row in track(rows, "Importing")`.

    `total` is the length of what has one. At most four reports a second leave the process. Outside a
    task it is the plain loop. What is only an async iterable is for `async for`.
    """
    context = CURRENT.get()
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if isinstance(iterable, AsyncIterable) and not isinstance(iterable, Iterable):
        return aiter(iterable) if context is None else _acounted(iterable, context, total, note)
    return iter(iterable) if context is None else _counted(iterable, context, total, note)


def _counted(iterable: Iterable[T], context: Context, total: float | None, note: str | None) -> Iterator[T]:
    done = 0
    context.progress(done, total, note)
    for item in iterable:
        yield item
        done += 1
        context.progress(done, total, note)


async def _acounted(
    iterable: AsyncIterable[T], context: Context, total: float | None, note: str | None
) -> AsyncIterator[T]:
    done = 0
    context.progress(done, total, note)
    async for item in iterable:
        yield item
        done += 1
        context.progress(done, total, note)
