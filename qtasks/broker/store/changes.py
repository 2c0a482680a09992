"""Wakes the one loop that waits for work, as soon as somebody has committed some.

Whoever waits may leave an errand: a work that is done along, in the very transaction that brings the news.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from qtasks.broker.store.arrivals import Arrival
from qtasks.broker.store.database import Session
from qtasks.errors import StoreError

T = TypeVar("T")

log = logging.getLogger("qtasks.store")


class Errand(Generic[T]):
    """A work for whoever announces something next, in its transaction and on its thread.

    It is told what has just arrived there, if that is why it is done. It is done once, or not at all. Its
    outcome is known once that transaction has ended; `then` is told of it first, on that thread, if it was
    committed.
    """

    def __init__(
        self,
        work: Callable[[Session, Arrival | None], T],
        then: Callable[[T], None] = lambda result: None,
    ) -> None:
        self._work = work
        self._then = then
        self._future: Future[T] = Future()
        self._results: list[T] = []
        self.is_outdated = False
        """Whether more was announced in that transaction after it was done."""

    def withdraw(self) -> bool:
        """Have it done by nobody; False if somebody has begun it, and `outcome` will tell."""
        return self._future.cancel()

    async def outcome(self) -> T:
        """Give what came of it; raises what kept it from being committed."""
        return self._future.result() if self._future.done() else await asyncio.wrap_future(self._future)

    def begin(self) -> bool:
        """Promise an outcome; False if it was withdrawn."""
        return self._future.set_running_or_notify_cancel()

    def perform(self, session: Session, arrival: Arrival | None = None) -> T:
        """Do it, in a transaction that is to be committed; gives what came of it."""
        result = self._work(session, arrival)
        self._results = [result]
        return result

    def undo(self) -> None:
        """Take note that what it did was rolled back."""
        self._results = []

    def end(self, error: BaseException | None = None) -> None:
        """Say that its transaction was committed, or what broke it."""
        if error is None and self._results:
            try:
                self._then(self._results[0])
            except Exception:  # a wall: it has been committed all the same
                log.exception("what follows was not done")
            self._future.set_result(self._results[0])
            return
        if not isinstance(error, Exception):  # it failed alone, or Ctrl-C came, which is not for us
            error = StoreError("what was to be done along was not done")
        self._future.set_exception(error)


class Changes:
    """Wakes the one loop that waits for work; told from any thread, cheap when nobody waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = False
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._errand: Errand[Any] | None = None

    def tell(self) -> None:
        """Say that there is work."""
        with self._lock:
            waiter = None if self._told else self._waiter
            self._told = True
            if waiter is not None:
                waiter[0].call_soon_threadsafe(waiter[1].set)

    def take(self) -> Errand[Any] | None:
        """Give the errand of whoever waits, to be done and ended by the caller, who tells after that."""
        with self._lock:
            errand, self._errand = self._errand, None
            return errand if errand is not None and not self._told and errand.begin() else None

    async def wait(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> bool:
        """Return when it has been said since the last time, when `wake` is set, or after `wait_ms`.

        Says whether it has been. The errand stands for as long, and is not done twice. News set the event.
        """
        event = asyncio.Event() if wake is None else wake
        with self._lock:
            if self._told:
                self._told = False
                return True
            self._waiter = (asyncio.get_running_loop(), event)
            self._errand = errand
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiter = self._errand = None
                # Only a wait that ends because it was told has used the news up; a cancelled one may
                # meet them, and then the next must return at once.
                is_told = self._told
                if event.is_set():
                    self._told = False
        return is_told
