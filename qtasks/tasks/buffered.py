"""`BufferedCall`: what the caller of a buffer holds, to learn whether the call is durable.

Which calls go together, and when, is decided in `buffering.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qtasks.tasks.many import Sent
from qtasks.tasks.results import AsyncResult

if TYPE_CHECKING:
    from qtasks.tasks.calling import Caller

T = TypeVar("T")


class BufferedCall(Generic[T]):
    """A call on its way to the broker, which is durable once this is done and not before.

    `result()` waits for that and gives the handle that `delay` would have given, or raises what `delay`
    would have raised; so does `await`. Much is as with a `Future`, of which each has one if it is asked for.
    """

    __slots__ = ("_caller", "_error", "_future", "_handle", "_lock", "_sent")

    def __init__(self, sent: Sent, caller: Caller, lock: threading.Lock) -> None:
        self._sent: Sent | None = sent  # until it is done: whoever keeps this need not keep the message
        self._handle: AsyncResult[T] = sent.result
        self._caller = caller
        self._lock = lock
        self._error: Exception | None = None
        self._future: Future[AsyncResult[T]] | None = None

    @property
    def id(self) -> str:
        """The task id, which is known at once."""
        return self._handle.id

    def done(self) -> bool:
        """Say whether it is known what became of the call."""
        return self._sent is None

    def result(self, timeout: float | None = None) -> AsyncResult[T]:
        """Wait until the call is durable; `timeout` is in seconds. `TimeoutError` says that it is not yet."""
        if self._sent is None and self._error is None:
            return self._handle
        return self.future().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Give what `result` would raise; None for a call that is durable."""
        return self.future().exception(timeout)

    def __await__(self) -> Generator[Any, None, AsyncResult[T]]:
        return asyncio.wrap_future(self.future()).__await__()

    def future(self) -> Future[AsyncResult[T]]:
        """Give it as a future of `concurrent.futures`, for `wait` and callbacks; it cannot be cancelled."""
        with self._lock:
            if self._future is None:
                self._future = Future()
                self._future.set_running_or_notify_cancel()
                if self._sent is None:
                    self._tell()
            return self._future

    def __repr__(self) -> str:
        return f"<BufferedCall {self.id}>"

    def _end(self, error: Exception | None) -> bool:
        """Know what became of it, under the lock; say whether somebody waits to be told."""
        self._error, self._sent = error, None
        return self._future is not None

    def _tell(self) -> None:
        assert self._future is not None
        if self._error is None:
            self._future.set_result(self._handle)
        else:
            self._future.set_exception(self._error)
