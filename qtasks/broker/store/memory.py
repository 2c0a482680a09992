"""The store in the memory of this process, for tests: SQLite as well, on one connection and no thread.

It says the same as the store in a file, and forgets all when it is closed. A broker that is to keep
what it accepts never runs on it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from qtasks.broker.store.changes import Changes, Errand
from qtasks.broker.store.database import Work
from qtasks.broker.store.migrate import migrate_sqlite
from qtasks.broker.store.queries import load_queries
from qtasks.broker.store.sqlite import SqliteSession
from qtasks.clock import Clock
from qtasks.errors import BrokerFailed

T = TypeVar("T")

NAME = ":memory:"


class MemoryDatabase:
    """A `Database` that nothing else can see. Works run one after the other, on the thread that asks."""

    is_shared = False
    outbox = None
    risks: Sequence[str] = ()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes = Changes()
        self._connection = sqlite3.connect(NAME, isolation_level=None, check_same_thread=False)
        migrate_sqlite(self._connection, NAME)
        self._session = SqliteSession(self._connection, load_queries("sqlite"))
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """That it is closed, if it is: nothing else can break it."""
        return self._failure

    def run(self, work: Work[T]) -> T:
        with self._lock:
            result = self._perform(work, "COMMIT")
            announced, self._session.announced = self._session.announced, False
        if announced:
            self._changes.tell()
        return result

    def look(self, work: Work[T]) -> T:
        with self._lock:
            return self._perform(work, "ROLLBACK")

    async def write(self, work: Work[T], *, is_small: bool = False) -> T:
        return self.run(work)  # there is no disk to wait for

    async def read(self, work: Work[T], *, is_small: bool = False) -> T:
        return self.look(work)

    def lead(self, clock: Clock) -> Clock:
        return clock

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        """Take part: nobody else can."""

    def leave(self) -> None:
        """Take part no more."""

    async def changed(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> bool:
        return await self._changes.wait(
            wait_ms, wake=wake
        )  # without the errand: works run on one thread, and share nothing

    def close(self) -> None:
        with self._lock:
            self._failure = self._failure or "it is closed"
            self._connection.close()

    def _perform(self, work: Work[T], end: str) -> T:
        if self._failure is not None:
            raise BrokerFailed(f"the store in memory cannot be used: {self._failure}")
        self._connection.execute("BEGIN")
        try:
            result = work(self._session)
        except BaseException:
            self._session.announced = False
            end = "ROLLBACK"
            raise
        finally:
            self._connection.execute(end)
        return result
