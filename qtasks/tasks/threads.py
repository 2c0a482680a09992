"""The threads on which plain functions run: few, our own, and daemons.

The standard executor joins its threads at exit, so one long task would hold up the end of the
process or a reload.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class ThreadPool:
    """Runs functions on up to `size` daemon threads, which start when they are first needed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function in a copy of the current context."""
        future: Future[Any] = Future()
        context = contextvars.copy_context()
        self._work.put((future, lambda: context.run(function)))
        with self._lock:
            if self._idle < self._work.qsize() and self._started < self._size:
                self._started += 1
                name = f"qtasks-task-{self._started}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            future, function = self._work.get()
            with self._lock:
                self._idle -= 1
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:  # SystemExit too: it must not end the thread in silence
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, function
