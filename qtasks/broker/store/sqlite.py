"""The store on SQLite: one connection that writes, shared by group commit, and a few that read.

Whoever calls `run` first commits for all who wait meanwhile: a lone caller pays no thread hop, and
a crowd pays one fsync for many. The process must own the file (see `home/ownership.py`); two
writing processes are never allowed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from qtasks.broker.store.arrivals import Arrival
from qtasks.broker.store.at_once import Commits
from qtasks.broker.store.binding import bind_as_is
from qtasks.broker.store.by_turn import ByTurn
from qtasks.broker.store.changes import Changes, Errand
from qtasks.broker.store.checkpoints import MOST_LOG_BYTES, Checkpoints
from qtasks.broker.store.database import Params, Row, Work
from qtasks.broker.store.group import GROUP, Group, Take, Ticket, do_together
from qtasks.broker.store.migrate import APPLICATION_ID, migrate_sqlite
from qtasks.broker.store.queries import (
    ROWS_AT_ONCE,
    altering,
    by_position,
    by_rows,
    load_queries,
    statements,
)
from qtasks.broker.store.surroundings import Recall
from qtasks.clock import Clock, stopwatch_ns
from qtasks.errors import BrokerFailed, StoreBusy, StoreError, StoreFull, StoreUnusable

T = TypeVar("T")

log = logging.getLogger("qtasks.store")

BUSY_MS = 5000
BUSY_PAUSE_MS = 10
READERS = 2
NEXT_TO_NOTHING = 64 * 1024  # bytes of free room
UNUSABLE = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; name another file",
    sqlite3.SQLITE_READONLY: "cannot be written; check the rights of the file and of its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and can be written",
}


class SqliteSession:
    """A `Session` on one connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        queries: dict[str, str],
        along: Callable[[Arrival], bool] = lambda arrival: False,
        recall: Recall | None = None,
    ) -> None:
        self._connection = connection
        self._queries = queries
        self._along = along
        self.recall = recall
        self._alters = frozenset() if recall is None else altering(tuple(queries.items()))
        """The queries after which what is recalled may not hold any more, if they change a row."""
        self.announced = False

    def one(self, query: str, params: Params) -> Row | None:
        row: Row | None = self._connection.execute(self._queries[query], params).fetchone()
        return row

    def all(self, query: str, params: Params) -> list[Row]:
        return self._connection.execute(self._queries[query], params).fetchall()

    def run(self, query: str, params: Params) -> int:
        count = self._connection.execute(self._queries[query], params).rowcount
        if query in self._alters and count and self.recall is not None:
            self.recall.forget()
        return count

    def insert_many(self, query: str, rows: Sequence[Params]) -> None:
        alters = query in self._alters
        for text in statements(self._queries[query]):
            positional, values = by_position(text)
            for row in rows if alters else self._at_once(text, rows):
                count = self._connection.execute(positional, values(row)).rowcount
                if alters and count and self.recall is not None:
                    self.recall.forget()

    def _at_once(self, text: str, rows: Sequence[Params]) -> Sequence[Params]:
        """Insert as many rows as statements for several take; give those that are left.

        Each row of executemany lets go of the interpreter and has to win it back: many at once need not.
        """
        if len(rows) < ROWS_AT_ONCE[-1]:
            return rows
        first = 0
        for count in ROWS_AT_ONCE:
            at_once = by_rows(text, count) if len(rows) - first >= count else None
            while at_once is not None and len(rows) - first >= count:
                many, values = at_once
                chunk = map(values, rows[first : first + count])
                self._connection.execute(many, tuple(chain.from_iterable(chunk)))
                first += count
        return rows[first:]

    update_many = insert_many
    delete_many = insert_many

    def claim_along(self, arrival: Arrival) -> bool:
        return self._along(arrival)

    def announce(self) -> None:
        self.announced = True


class SqliteDatabase:
    """A `Database` on one SQLite file that this process owns.

    `durability` is "full" (fsync before a commit returns) or "relaxed" (a power cut may lose the
    newest commits). `max_pages` bounds the file's size, for tests of a full disk.
    """

    is_shared = False
    outbox = None
    risks: Sequence[str] = ()

    def __init__(self, path: str, *, durability: str = "full", max_pages: int | None = None) -> None:
        self._path = path
        self._queries = load_queries("sqlite")
        self._group = Group(self._commit)
        self._commits = Commits()
        self._is_checkpointing = False
        self._failure: str | None = None
        self._changes = Changes()
        with _translated(path, self._fail):
            self._writer = _open(path, durability, max_pages)
        self._checkpoints = Checkpoints(self._writer, path)
        self._recall = Recall()
        self._session = SqliteSession(self._writer, self._queries, self._claim_along, self._recall)
        self._errand: Errand[Any] | None = None
        """What is done along in the transaction under way."""
        self._readers: deque[sqlite3.Connection] = deque()
        self._reading = threading.Semaphore(READERS)
        self._executor = ThreadPoolExecutor(READERS + 1, thread_name_prefix="qtasks-store")
        self._by_turn = ByTurn(self._group, self._executor, self._do_at_once)

    @property
    def failure(self) -> str | None:
        """What broke the store for good, if anything did."""
        return self._failure

    def run(self, work: Work[T]) -> T:
        return self._group.run(work)

    def look(self, work: Work[T]) -> T:
        self._check_alive()
        with self._reading:
            return self._look(work)

    def _look(self, work: Work[T]) -> T:
        with _translated(self._path, self._fail):
            connection = self._readers.pop() if self._readers else _open_reader(self._path)
            try:
                connection.execute("BEGIN")
                return work(SqliteSession(connection, self._queries))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._readers.append(connection)

    async def write(self, work: Work[T], *, is_small: bool = False) -> T:
        self._check_alive()  # before its threads are asked, which end with it
        return await self._by_turn.run(work, may_be_here=is_small and self._commits.may_be_here())

    async def read(self, work: Work[T], *, is_small: bool = False) -> T:
        self._check_alive()
        if is_small and self._commits.are_quick and self._reading.acquire(blocking=False):
            try:
                return self._look(work)
            finally:
                self._reading.release()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.look, work)

    async def changed(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> bool:
        return await self._changes.wait(wait_ms, errand, wake)

    def lead(self, clock: Clock) -> Clock:
        return clock

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        """Take part: one process owns the file, so there are no others."""

    def leave(self) -> None:
        """Take part no more."""

    def checkpoint_soon(self) -> None:
        """Have what the log holds copied into the file after the next commit, as room is short.

        The log can begin anew then, and takes up no more of the disk.
        """
        self._checkpoints.soon()

    def close(self) -> None:
        self._executor.shutdown()
        with suppress(BrokerFailed):
            # As a work like any other, so that it comes after all that were begun before.
            self.run(lambda session: self._fail("it is closed"))
        for reader in self._readers:  # before the writer: the last to close checkpoints
            reader.close()
        self._writer.close()

    def _do_at_once(self, tickets: Sequence[Ticket]) -> bool:
        """Commit on an event loop; False if nothing was done, as that would have to wait, or is too much."""
        if len(tickets) > GROUP or not self._group.run_at_once(tickets, partial(self._commit, waits=False)):
            return False
        if self._failure is None and not self._is_checkpointing and self._checkpoints.is_due():
            self._is_checkpointing = True
            self._executor.submit(self._checkpoint)
        if not all(isinstance(each.error, StoreBusy) for each in tickets):
            return True
        for each in tickets:  # another program writes: a thread waits for it
            each.error = None
        return False

    def _checkpoint(self) -> None:
        self._is_checkpointing = False
        self.run(lambda session: None)  # what fails in it breaks the store for good, or is tried again

    def _commit(self, take: Take, *, waits: bool = True) -> None:
        """Run a group in one transaction: all its effects are durable together, or none is.

        Unless it `waits`, it takes no time beyond its own: not for other programs, nor for a checkpoint.
        """
        group: list[Ticket] = []
        try:
            self._check_alive()
            with _translated(self._path, self._fail, writing=True):
                self._begin(waits)
                try:
                    while taken := take():
                        group += taken
                        self._perform(taken, is_alone=len(group) == 1)
                    if self._session.announced:
                        self._run_along()
                    began_at = stopwatch_ns()
                    self._writer.execute("COMMIT")
                    self._commits.took(stopwatch_ns() - began_at)
                finally:
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                self._tell()  # first of all: what has just come may begin meanwhile
                if waits:
                    self._checkpoints.after_commit()
        except BaseException as error:
            self._recall.forget()
            errand, self._errand = self._errand, None
            if errand is not None:
                errand.end(error)
            for ticket in group or take():
                ticket.error = ticket.error or error

    def _tell(self) -> None:
        """Say what was committed to who waits for it."""
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.end()
        if self._session.announced or errand is not None:
            self._session.announced = False
            self._changes.tell()

    def _begin(self, waits: bool) -> None:
        """Begin to write; if another program does, wait for it, but not for ever."""
        pauses = BUSY_MS // BUSY_PAUSE_MS if waits else 0
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not pauses:
                    raise
            pauses -= 1
            threading.Event().wait(BUSY_PAUSE_MS / 1000)

    def _claim_along(self, arrival: Arrival) -> bool:
        """Offer what has just come to who waits for work; say whether it was taken care of."""
        if self._errand is not None or not self._run_along(arrival):
            return False
        self._session.announced = False  # whoever did it has seen all there was
        return True

    def _run_along(self, arrival: Arrival | None = None) -> bool:
        """Do the errand of who waits, if somebody does; if it fails by itself, nothing else does."""
        if self._errand is not None:
            self._errand.is_outdated = True
            return False
        errand = self._errand = self._changes.take()
        if errand is None:
            return False
        result: object = None
        self._writer.execute("SAVEPOINT errand")
        try:
            result = errand.perform(self._session, arrival)
        except Exception:
            if not self._writer.in_transaction:
                raise  # SQLite gave up the transaction: nobody's work is kept
            log.exception("what was to be done along failed")
            self._undo("ROLLBACK TO errand")
        self._writer.execute("RELEASE errand")
        return result is not None

    def _perform(self, group: Sequence[Ticket], *, is_alone: bool) -> None:
        if is_alone:
            group[0].result = group[0].work(self._session)
            return
        for ticket in self._merged(group):
            errand = self._errand
            self._writer.execute("SAVEPOINT work")
            try:
                ticket.result = ticket.work(self._session)
            except Exception as error:
                meaning = _meaning(error, self._path, writing=True)
                if not self._writer.in_transaction or isinstance(meaning, BrokerFailed):
                    raise  # SQLite gave up the transaction (no room, I/O): nobody's work is kept
                ticket.error = meaning or error
                self._undo("ROLLBACK TO work")
                if self._errand is not None and self._errand is not errand:
                    self._errand.undo()
            self._writer.execute("RELEASE work")

    def _merged(self, group: Sequence[Ticket]) -> Sequence[Ticket]:
        """Do what can be done together; give the rest of the group, or all of it if that failed."""
        self._writer.execute("SAVEPOINT work")
        try:
            left = do_together(self._session, group)
        except Exception:
            if not self._writer.in_transaction:
                raise
            self._undo("ROLLBACK TO work")
            left = group
        self._writer.execute("RELEASE work")
        return left

    def _undo(self, rollback: str) -> None:
        self._recall.forget()
        self._writer.execute(rollback)

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise BrokerFailed(f"the store {self._path} cannot be used: {self._failure}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason  # the first one says most


def _open(path: str, durability: str, max_pages: int | None) -> sqlite3.Connection:
    with suppress(OSError):  # it exists, or SQLite says better what is wrong with its path
        # For this user alone: bodies hold the arguments of tasks. SQLite's other files follow it. Never
        # one that exists: closing it would drop the locks of any connection of this process.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=BUSY_MS / 1000
    )
    try:
        # No pragma may touch a file that is not ours; the migration then says why it is refused.
        if _is_ours_or_empty(connection):
            _set_up(connection, durability)
        migrate_sqlite(connection, path)
        if max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {max_pages}")
        connection.execute("PRAGMA busy_timeout = 0")  # `_begin` waits, and nothing else need
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, durability: str) -> None:
    bind_as_is()
    synchronous = "FULL" if durability == "full" else "NORMAL"
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # `Checkpoints` makes them, and sees their errors
    connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG_BYTES}")


def _is_ours_or_empty(connection: sqlite3.Connection) -> bool:
    if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return True
    marks = ("SELECT count(*) FROM sqlite_schema", "PRAGMA application_id", "PRAGMA user_version")
    return not any(connection.execute(each).fetchone()[0] for each in marks)


def _open_reader(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA temp_store = MEMORY")  # sorting needs no room on a disk
    return connection


@contextmanager
def _translated(path: str, fail: Callable[[str], None], *, writing: bool = False) -> Iterator[None]:
    """Turn the database's errors into ours; an I/O error ends the store's life (promise P04)."""
    try:
        yield
    except sqlite3.Error as error:
        meaning = _meaning(error, path, writing=writing)
        if meaning is None:
            raise
        if isinstance(meaning, BrokerFailed):
            fail(str(error))
        raise meaning from error


def _meaning(error: BaseException, path: str, *, writing: bool) -> StoreError | BrokerFailed | None:
    """Say what an error of SQLite means for the caller; None for a mistake of our own.

    A file that cannot be opened is unusable. If `writing` to one that was open, its disk has failed.
    """
    if not isinstance(error, sqlite3.Error):
        return None
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL or (extended == sqlite3.SQLITE_IOERR_SHMSIZE and _is_full(path)):
        return StoreFull(f"no room left for {path}; nothing was stored. Make room on its disk and repeat")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(
            f"another program has held the lock of {path} for {BUSY_MS // 1000} s; nothing was stored. "
            "Close it (a database browser, a backup) and repeat"
        )
    if code in UNUSABLE and not writing:
        return StoreUnusable(f"{path} {UNUSABLE[code]}")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, *UNUSABLE):
        return BrokerFailed(
            f"the store {path} failed: {error}; the broker has stopped, nothing more is accepted"
        )
    return None


def _is_full(path: str) -> bool:
    """Say whether the disk has no room even for the index of the log, which is 32 KiB at a time.

    SQLite tells of that as of any other I/O error.
    """
    disk = os.statvfs(os.path.dirname(path) or ".")
    return bool(disk.f_bavail * disk.f_frsize < NEXT_TO_NOTHING)
