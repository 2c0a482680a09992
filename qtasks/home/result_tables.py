"""The table in which an app keeps results itself: on a SQLite file of its own, or in a PostgreSQL schema.

What is written there, and what questions it answers, is said in `result_store.py`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qtasks.broker.store.queries import load_queries
from qtasks.errors import StoreError, StoreUnusable
from qtasks.tasks.forks import call_after_fork

if TYPE_CHECKING:
    import psycopg

FOLDER = Path(__file__).parent / "sql"
APPLICATION_ID = 0x71747273  # "qtrs", in the header of the file
BUSY_S = 5.0

Rows = Sequence[Mapping[str, object]]


class ResultTable(Protocol):
    """Runs the texts of `sql/task_results*.sql`; for any thread. Raises `StoreError`."""

    def write(self, *changes: tuple[str, Rows]) -> int:
        """Make changes in one transaction, each for all its rows; say how many rows the last one changed."""
        ...

    def all(self, query: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Give every row."""
        ...

    def close(self) -> None:
        """Let go; the next use begins anew."""
        ...


class SqliteTable:
    """On one connection, which threads take turns with. Opened at the first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queries = load_queries("sqlite", FOLDER)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        call_after_fork(self._forget)

    def write(self, *changes: tuple[str, Rows]) -> int:
        with self._used() as connection, _transaction(connection):
            changed = 0
            for query, rows in changes:
                changed = connection.executemany(self._queries[query], rows).rowcount
            return changed

    def all(self, query: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        with self._used() as connection:
            return connection.execute(self._queries[query], values).fetchall()

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _open(self._path, self._queries)
                yield self._connection
            except sqlite3.Error as error:
                raise StoreError(f"results cannot be kept in {self._path}: {error}") from error

    def _forget(self) -> None:
        """A forked child must not touch its parent's connection, nor close it."""
        self._lock = threading.Lock()
        if self._connection is not None:
            _LEFT.append(self._connection)
            self._connection = None


class PostgresTable:
    """On one connection, in the schema that the URL names; one that is lost is made again at the next use."""

    def __init__(self, url: str) -> None:
        from qtasks.broker.store.postgres import psycopg_text
        from qtasks.broker.store.postgres_links import Place

        self._place = Place.parse(url)
        self._queries = {
            name: psycopg_text(text).encode() for name, text in load_queries("postgres", FOLDER).items()
        }
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        call_after_fork(self._forget)

    def write(self, *changes: tuple[str, Rows]) -> int:
        with self._used() as cursor:
            changed = 0
            for query, rows in changes:
                cursor.executemany(self._queries[query], rows)
                changed = cursor.rowcount
            return changed

    def all(self, query: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        with self._used() as cursor:
            return cursor.execute(self._queries[query], values).fetchall()

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def _used(self) -> Iterator[psycopg.Cursor[Any]]:
        from qtasks.broker.store.postgres_links import link, meaning_of

        with self._lock:
            try:
                if self._connection is None:
                    connection = link(self._place)
                    self._make(connection)
                    self._connection = connection
                with self._connection.transaction(), self._connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL search_path TO {self._place.schema}".encode())
                    yield cursor
            except Exception as error:
                if self._connection is not None and self._connection.broken:
                    self._connection = None
                raise meaning_of(error, self._place) or error from error

    def _make(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute(f"SELECT pg_advisory_xact_lock({self._place.lock})".encode())
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._place.schema}".encode())
            connection.execute(f"SET LOCAL search_path TO {self._place.schema}".encode())
            for query in ("make_table", "make_index"):
                connection.execute(self._queries[query])

    def _forget(self) -> None:
        """A forked child has no right to the connection of its parent, and must not end it either."""
        self._lock = threading.Lock()
        if self._connection is not None:
            _LEFT.append(self._connection)
            self._connection = None


_LEFT: list[object] = []
"""Connections of the parent, which a forked child keeps from being closed: that would drop its locks."""


def _open(path: Path, queries: dict[str, str]) -> sqlite3.Connection:
    with suppress(OSError):  # it exists, or SQLite says better what is wrong with its path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # results are for this user alone
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
    try:
        _check_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with _transaction(connection):
            connection.execute(queries["make_table"])
            connection.execute(queries["make_index"])
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if owner != APPLICATION_ID and (owner or tables):
        raise StoreUnusable(
            f"{path} is a database of another kind; name another file, "
            "for example QTASKS_RESULTS=sqlite:///results.db"
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
