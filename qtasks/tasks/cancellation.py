"""`Cancellation`: that one attempt is called off, and how the code that runs learns of it.

A coroutine has it raised where it waits, as asyncio does; a function on a thread can only look. Who calls
an attempt off is the business of `webhook.py` and `home/in_process.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class Cancellation:
    """Whether an attempt is called off. `cancel` is called on the loop that runs it, all else anywhere."""

    __slots__ = ("_has_cancelled", "_is_delivered", "_lock", "_loop", "_shields", "_task", "is_cancelled")

    def __init__(self) -> None:
        self.is_cancelled = False
        self._lock = threading.Lock()
        self._shields = 0
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_delivered = False
        self._has_cancelled = False

    def cancel(self) -> None:
        """Call the attempt off; a coroutine is cancelled, unless a shielded section puts that off."""
        self.is_cancelled = True
        self._deliver()

    def __enter__(self) -> None:
        """Let the cancellation reach the coroutine that the current task awaits in the block.

        After the block the task goes on as if it had never been cancelled.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)  # before Python 3.12 it takes a system call to find the loop

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._has_cancelled and task is not None:
            task.uncancel()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Put cancellation off until the end of the block, where it is raised as `CancelledError`."""
        with self._lock:
            self._shields += 1
        try:
            yield
        finally:
            with self._lock:
                self._shields -= 1
            self._catch_up()

    def _deliver(self) -> None:
        task = self._task
        if task is not None and self._take():
            self._has_cancelled = True
            task.cancel()

    def _catch_up(self) -> None:
        """Deliver at the end of a section what it has put off: right here, if it is the coroutine's own."""
        if not self.is_cancelled or self._task is None or self._loop is None:
            return
        if _current_task() is not self._task:
            self._loop.call_soon_threadsafe(self._deliver)
        elif self._take():
            raise asyncio.CancelledError("called off, and put off until the end of a shielded section")

    def _take(self) -> bool:
        """Say whether to deliver now: once, and in no section."""
        with self._lock:
            is_due = not self._shields and not self._is_delivered
            self._is_delivered = self._is_delivered or is_due
            return is_due


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None
