"""The stores of a simulation: how lives open them, how nodes die in them, and how they fail.

`UnsteadyDatabase` is a store behind a network: slow, cut off now and then, and silent about what it did.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qtasks.broker.store import upkeep
from qtasks.broker.store.changes import Changes, Errand
from qtasks.broker.store.database import Database, Session, Work
from qtasks.broker.store.postgres import PostgresDatabase, psycopg_text
from qtasks.broker.store.postgres_links import link
from qtasks.broker.store.presence import Presence
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import Clock
from qtasks.errors import StoreUnreachable

T = TypeVar("T")

LATENCIES_MS = (0, 0, 0, 1, 3, 40)
NEWS_LOST = 0.1


class Store(Protocol):
    """What a simulation needs of a kind of store."""

    nodes: int
    """How many may share it."""

    def open(self) -> Database:
        """Open it for one life of a node."""
        ...

    def let_go(self, database: Database) -> None:
        """End the use that a life made of it."""
        ...

    def observer(self) -> Database:
        """Give a way to look at it that never fails."""
        ...

    def beat(self, database: Database) -> None:
        """Let a node say that it lives, and notice who does not."""
        ...

    def age(self, silent: Mapping[str, bool]) -> None:
        """Say which nodes have been silent for too long; the others have just been heard."""
        ...

    def contradictions(self) -> list[str]:
        """Say which of its rows contradict each other."""
        ...

    def close(self) -> None:
        """Let go of what is left."""
        ...


class SqliteStore:
    """A file, which one node at a time owns."""

    nodes = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: Database | None = None

    def open(self) -> Database:
        self._database = SqliteDatabase(str(self._path), durability="relaxed")
        return self._database

    def let_go(self, database: Database) -> None:
        database.close()

    def observer(self) -> Database:
        assert self._database is not None
        return self._database

    def beat(self, database: Database) -> None:
        """Nobody else would hear it."""

    def age(self, silent: Mapping[str, bool]) -> None:
        """There is no other node."""

    def contradictions(self) -> list[str]:
        return upkeep.check(self._path, is_quick=True)

    def close(self) -> None:
        """The node closes it."""


class PostgresStore:
    """A schema of a server, shared by up to three nodes; who lives is said by the simulation alone."""

    nodes = 3

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[PostgresDatabase] = []
        self._observer = self.open()
        self._connection = link(self._observer.place)
        self._connection.execute(f"SET search_path TO {self._observer.place.schema}".encode())

    def open(self) -> PostgresDatabase:
        return self._idle.pop() if self._idle else PostgresDatabase(self._url, steps_by_hand=True)

    def let_go(self, database: Database) -> None:
        """Keep its connections, which cost more than all else in a simulation."""
        assert isinstance(database, PostgresDatabase)
        database.presence = Presence(database.place, lambda: None, by_hand=True)
        self._idle.append(database)

    def observer(self) -> Database:
        return self._observer

    def beat(self, database: Database) -> None:
        assert isinstance(database, PostgresDatabase)
        database.presence.step(self._connection, beats=True)

    def age(self, silent: Mapping[str, bool]) -> None:
        gone = [name for name, is_silent in silent.items() if is_silent]
        self._connection.execute(
            f"UPDATE {self._observer.place.schema}.nodes SET seen_at = CASE WHEN id = ANY(%s) THEN 0 "
            "ELSE CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) END".encode(),
            [gone],
        )

    def contradictions(self) -> list[str]:
        return upkeep.contradictions(
            lambda text, params: self._connection.execute(psycopg_text(text).encode(), params).fetchall()
        )

    def empty(self) -> None:
        """Forget all, so that the next simulation finds the store as new."""
        schema = self._observer.place.schema
        found = self._connection.execute(
            b"SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename <> 'schema_version'",
            [schema],
        )
        tables = ", ".join(f"{schema}.{row[0]}" for row in found)
        self._connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())

    def close(self) -> None:
        self._connection.close()
        for each in (self._observer, *self._idle):
            each.close()


@dataclass(slots=True)
class Weather:
    """How one node's way to its store is: what is drawn with `rng`, and who hears of commits."""

    rng: random.Random
    tell: Callable[[], None]
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while the node is stopped."""
    is_cut: bool = False
    loss: float = 0.0
    """How often a call fails, half of these after the commit."""

    def latency_ms(self) -> int:
        """Draw how long a message to or from the store is under way."""
        return self.rng.choice(LATENCIES_MS)


class UnsteadyDatabase:
    """A `Database` as one node sees it."""

    outbox = None

    def __init__(self, inner: Database, weather: Weather) -> None:
        self.inner = inner
        self.is_shared = inner.is_shared
        self.risks = inner.risks
        self.changes = Changes()
        self._weather = weather

    @property
    def failure(self) -> str | None:
        return self.inner.failure

    def run(self, work: Work[T]) -> T:
        self._reach()
        result = self._commit(work)
        self._reach()
        return result

    def look(self, work: Work[T]) -> T:
        self._reach()
        return self.inner.look(work)

    async def write(self, work: Work[T], *, is_small: bool = False) -> T:
        await self._travel()
        self._reach()
        result = self._commit(work)
        await self._travel()
        self._reach()
        return result

    async def read(self, work: Work[T], *, is_small: bool = False) -> T:
        await self._travel()
        return self.look(work)

    async def changed(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> bool:
        has_news = await self.changes.wait(wait_ms, errand, wake)
        await self._weather.awake.wait()
        return has_news

    def lead(self, clock: Clock) -> Clock:
        return clock

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        self._reach()
        self.inner.join(node, others_died)

    def leave(self) -> None:
        self._reach()
        self.inner.leave()

    def close(self) -> None:
        self.inner.close()

    def hear(self) -> None:
        """Be told that somebody has committed work; now and then that is lost on the way."""
        if not self._weather.is_cut and self._weather.rng.random() >= NEWS_LOST:
            self.changes.tell()

    def _commit(self, work: Work[T]) -> T:
        announced: list[bool] = []
        errands: list[Errand[Any]] = []

        def noting(session: Session) -> T:
            result = work(session)
            announced.append(is_announced(session))
            errand = self.changes.take() if announced[-1] else None
            if errand is not None:
                errands.append(errand)
                errand.perform(session)
            return result

        try:
            result = self.inner.run(noting)
            if errands:
                self._reach()  # the answer to both may be lost
        except Exception as error:
            for errand in errands:
                errand.end(error)
            raise
        for errand in errands:
            errand.end()
        if any(announced):
            self.changes.tell()
            self._weather.tell()
        return result

    async def _travel(self) -> None:
        latency_ms = self._weather.latency_ms()
        if latency_ms:
            await asyncio.sleep(latency_ms / 1000)
        await self._weather.awake.wait()

    def _reach(self) -> None:
        weather = self._weather
        if weather.is_cut or (weather.loss and weather.rng.random() < weather.loss / 2):
            raise StoreUnreachable("the connection is lost")


def is_announced(session: Any) -> bool:
    """Say whether a session is to wake the dispatchers once it is committed."""
    return bool(session.announced)
