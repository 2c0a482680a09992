"""The store on PostgreSQL, shared by any number of nodes: one writes at a time, all may read.

Every write takes one advisory lock for its transaction, so verbs see the store as they do on SQLite, and
what they count is exact over all nodes. Group commit makes one transaction, one lock and one fsync of
what waits in a process. What is lost and found of connections stands in `postgres_links.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from qtasks.broker.store.changes import Changes, Errand
from qtasks.broker.store.database import Params, Row, Work
from qtasks.broker.store.group import Group, Ticket, do_together
from qtasks.broker.store.migrate_postgres import migrate_postgres
from qtasks.broker.store.outbox import WORD, Outbox
from qtasks.broker.store.postgres_checks import find_risks
from qtasks.broker.store.postgres_links import Place, link, meaning_of, store_link
from qtasks.broker.store.presence import Presence
from qtasks.broker.store.queries import load_queries
from qtasks.clock import Clock
from qtasks.errors import BrokerFailed, StoreError
from qtasks.sql_texts import PARAMETER

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

log = logging.getLogger("qtasks.store")

READERS = 2


class PostgresSession:
    """A `Session` on one connection."""

    def __init__(self, connection: psycopg.Connection[Any], queries: dict[str, str]) -> None:
        self._cursor = connection.cursor(binary=True)
        self._queries = queries
        self.announced = False

    def one(self, query: str, params: Params) -> Row | None:
        row: Row | None = self._cursor.execute(self._queries[query].encode(), params).fetchone()
        return row

    def all(self, query: str, params: Params) -> list[Row]:
        return self._cursor.execute(self._queries[query].encode(), params).fetchall()

    def run(self, query: str, params: Params) -> int:
        return self._cursor.execute(self._queries[query].encode(), params).rowcount

    def insert_many(self, query: str, rows: Sequence[Params]) -> None:
        if len(rows) == 1:
            self._cursor.execute(self._queries[query].encode(), rows[0])
            return
        at_once = self._queries.get(f"{query}_many")
        if at_once is not None and rows:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            self._cursor.execute(at_once.encode(), columns)
        elif rows:
            self._cursor.executemany(self._queries[query].encode(), rows)

    update_many = insert_many
    delete_many = insert_many

    def announce(self) -> None:
        self.announced = True


class PostgresDatabase:
    """A `Database` in one schema of a PostgreSQL database; raises `StoreError` if it cannot be used.

    `url` is libpq's, and may name several hosts; `?schema=` chooses the schema (default `qtasks`), and
    `?pooler=on` leaves out what a transaction pooler does not carry: wake-ups become polling. A test that
    moves time by hand makes its own `presence` step.
    """

    is_shared = True

    def __init__(self, url: str, *, steps_by_hand: bool = False) -> None:
        self.place = Place.parse(url)
        self._queries = postgres_queries()
        self._changes = Changes()
        self._failure: str | None = None
        self.risks: tuple[str, ...] = ()
        with link(self.place) as connection:
            migrate_postgres(connection, self.place)
            self._look_for_risks(connection)
        self._group = Group(self._commit)
        self._writer: psycopg.Connection[Any] | None = None
        self._readers: list[psycopg.Connection[Any]] = []
        self._reading = threading.Semaphore(READERS)
        self._executor = ThreadPoolExecutor(READERS + 1, thread_name_prefix="qtasks-store")
        leaving = load_queries("postgres")["outbox_leave"].format(
            schema=self.place.schema, channel=self.place.channel, word=WORD
        )
        self.outbox = Outbox(leaving, self._identify, self._patience)
        tells = {WORD: self.outbox.changes.tell}
        self.presence = Presence(self.place, self._changes.tell, tells, by_hand=steps_by_hand)

    @property
    def failure(self) -> str | None:
        """That it was closed, if so: what a network does to it is not for good."""
        return self._failure

    def run(self, work: Work[T]) -> T:
        return self._group.run(work)

    def look(self, work: Work[T]) -> T:
        self._check_alive()
        with self._reading:
            connection = self._begin_reading()
            try:
                result = work(PostgresSession(connection, self._queries))
                connection.execute(b"COMMIT")
            except BaseException as error:
                self._give_back(connection, is_good=_roll_back(connection))
                raise _translated(error, self.place) from error
            self._give_back(connection, is_good=True)
            return result

    async def write(self, work: Work[T]) -> T:
        self._check_alive()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.run, work)

    async def read(self, work: Work[T]) -> T:
        self._check_alive()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.look, work)

    async def changed(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> None:
        await self._changes.wait(self._patience(wait_ms), errand, wake)

    def lead(self, clock: Clock) -> Clock:
        """Give a clock that shows the database's time (promise P16)."""
        return self.presence.lead(clock)

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        self.presence.join(node, others_died)

    def leave(self) -> None:
        self.presence.leave()

    def close(self) -> None:
        self._executor.shutdown()
        self.presence.close(self._wake_up)
        with suppress(BrokerFailed):
            self.run(lambda session: self._fail("it is closed"))
        for each in (self._writer, *self._readers):
            if each is not None:
                each.close()

    def _patience(self, wait_ms: int) -> int:
        """Say how long news may be waited for: if they are not heard, it is time to look before."""
        return wait_ms if self.presence.is_hearing else min(wait_ms, self.place.poll_ms)

    def _identify(self) -> str:
        row = self.look(lambda session: session.one("identity", {}))
        assert row is not None
        return str(row[0])

    def _wake_up(self) -> None:
        with suppress(StoreError):
            self.run(lambda session: session.announce())

    def _begin_reading(self) -> psycopg.Connection[Any]:
        begin = self.place.begin_reading
        connection = self._begun(self._readers.pop(), begin) if self._readers else None
        return connection or self._newly_begun(store_link, begin)

    def _begin_writing(self) -> psycopg.Connection[Any]:
        begin = self.place.begin_writing(self.presence.node)
        writer = self._writer = self._writer and self._begun(self._writer, begin)
        if writer is None:
            writer = self._writer = self._newly_begun(self._new_writer, begin)
        return writer

    def _begun(self, connection: psycopg.Connection[Any], begin: bytes) -> psycopg.Connection[Any] | None:
        """Begin on a connection that was idle; None if it was lost meanwhile, as nothing is lost by that."""
        try:
            connection.execute(begin)
        except BaseException as error:
            if connection.closed:
                log.info("an idle connection was lost", extra={"reason": str(error).strip()})
                return None
            connection.close()
            raise _translated(error, self.place) from error
        return connection

    def _newly_begun(
        self, make: Callable[[Place], psycopg.Connection[Any]], begin: bytes
    ) -> psycopg.Connection[Any]:
        connection = make(self.place)
        try:
            connection.execute(begin)
        except BaseException as error:
            connection.close()
            raise _translated(error, self.place) from error
        return connection

    def _give_back(self, connection: psycopg.Connection[Any], *, is_good: bool) -> None:
        if is_good:
            self._readers.append(connection)
        else:
            connection.close()

    def _commit(self, group: Sequence[Ticket]) -> None:
        """Commit a group together or, if one of it fails, each alone: there are no savepoints here."""
        try:
            self._check_alive()
            self._together(group)
        except BaseException as error:
            if (
                len(group) == 1
                or isinstance(error, StoreError | BrokerFailed)
                or not isinstance(error, Exception)
            ):
                for ticket in group:
                    ticket.error = ticket.error or error
                return
            for ticket in group:
                self._commit([ticket])

    def _together(self, group: Sequence[Ticket]) -> None:
        errand: Errand[Any] | None = None
        try:
            writer = self._begin_writing()
            session = PostgresSession(writer, self._queries)
            for ticket in do_together(session, group) if len(group) > 1 else group:
                ticket.result = ticket.work(session)
            errand = self._changes.take() if session.announced else None
            if errand is not None:
                errand.perform(session)
            writer.execute(self.place.notify_and_commit if session.announced else b"COMMIT")
        except BaseException as error:
            if self._writer is not None and not _roll_back(self._writer):
                self._writer.close()
                self._writer = None
            meaning = _translated(error, self.place)
            if errand is not None:
                errand.end(meaning)
                if isinstance(meaning, Exception) and not isinstance(meaning, StoreError | BrokerFailed):
                    log.exception("what was to be done along failed")
                    self._together(group)  # which has done nothing wrong
                    return
            raise meaning from error
        if errand is not None:
            errand.end()
        if session.announced:
            self._changes.tell()

    def _new_writer(self, place: Place) -> psycopg.Connection[Any]:
        """Connect to whichever server writes now: after a failover that is another one."""
        writer = store_link(place)
        self._look_for_risks(writer)
        return writer

    def _look_for_risks(self, connection: psycopg.Connection[Any]) -> None:
        risks = find_risks(connection)
        for risk in risks:
            if risk not in self.risks:
                log.warning("what was accepted may be lost", extra={"store": str(self.place), "risk": risk})
        self.risks = risks

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise BrokerFailed(f"the store {self.place} cannot be used: {self._failure}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason


@cache
def postgres_queries() -> dict[str, str]:
    """Give the texts of this dialect, with parameters as psycopg writes them.

    >>> psycopg_text("SELECT :a WHERE x LIKE '%' AND y = CAST(:b AS TEXT)")
    "SELECT %(a)s WHERE x LIKE '%%' AND y = CAST(%(b)s AS TEXT)"
    """
    return {
        name: psycopg_text(text, "b" if name.endswith("_many") else "s")
        for name, text in load_queries("postgres").items()
    }


def psycopg_text(text: str, form: str = "s") -> str:
    """Write `:name` as `%(name)s`; the form "b" sends it as binary, which spares arrays their text."""
    return PARAMETER.sub(rf"%(\1){form}", text.replace("%", "%%"))


def _roll_back(connection: psycopg.Connection[Any]) -> bool:
    """Undo what was begun; False if the connection is of no more use."""
    if connection.closed:
        return False
    try:
        connection.execute(b"ROLLBACK")
    except Exception:  # whatever it says, a new one will know better
        return False
    return True


def _translated(error: BaseException, place: Place) -> BaseException:
    return meaning_of(error, place) or error
