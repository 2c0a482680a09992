"""Results that the app keeps itself, on a SQLite file of its own: for hosted QStash, which keeps none.

Any number of processes of one machine may use the file at once. It is opened at the first use.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import orjson

from qtasks.broker.store.queries import load_queries
from qtasks.clock import Clock
from qtasks.errors import ConfigurationError, StoreError, StoreUnusable
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.settings import database_path
from qtasks.tasks.forks import call_after_fork
from qtasks.tasks.recording import FINISHED_MS, Record, ResultBackend

T = TypeVar("T")

APPLICATION_ID = 0x71747273  # "qtrs", in the header of the file
BUSY_S = 5.0
FIRST_PAUSE_MS = 10
LAST_PAUSE_MS = 200


def open_results(url: str, clock: Clock) -> ResultBackend:
    """Give what keeps results at this URL; raises `ConfigurationError` if there is no such thing."""
    scheme = url.partition(":")[0].lower()
    if url.endswith(":memory:"):
        raise ConfigurationError("results in memory would be lost; use a file, sqlite:///results.db")
    if scheme == "sqlite":
        return SqliteResults(database_path(url), clock)
    if scheme in ("postgresql", "postgres"):
        raise ConfigurationError(
            "results on postgresql:// come with the extra [postgres] in a later version; "
            "use sqlite:///results.db"
        )
    raise ConfigurationError(
        f"QTASKS_RESULTS names {scheme!r}, which keeps no results; use sqlite:///results.db"
    )


class SqliteResults:
    """A `ResultBackend` on one connection, which threads take turns with."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._queries = load_queries("sqlite", Path(__file__).parent / "sql")
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        call_after_fork(self._forget)

    def store(self, records: Sequence[Record]) -> None:
        """Write down, durably, and clear away a little of what has been kept long enough."""
        rows = [
            {
                "task_id": each.view.task_id,
                "state": each.view.state,
                "value": each.view.value,
                "error": each.view.error,
                "attempts": each.view.attempts,
                "created_at": each.view.created_at,
                "finished_at": each.view.finished_at,
                "value_until": each.value_until,
                "forget_at": each.forget_at,
            }
            for each in records
        ]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(self._queries["put_result"], rows)
            connection.execute(self._queries["forget_results"], {"now": self._clock.now()})

        self._write(write)

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        return self._wait(lambda: self._look(task_id), lambda view: view.is_settled, wait_ms)

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._await(lambda: self._look(task_id), lambda view: view.is_settled, wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown, waiting for the first of them."""
        return self._wait(lambda: self._look_for_settled(task_ids), bool, wait_ms if task_ids else 0)

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._await(lambda: self._look_for_settled(task_ids), bool, wait_ms if task_ids else 0)

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Write down how far tasks have come; one that has finished meanwhile is passed over."""
        now = self._clock.now()
        rows = [
            {"task_id": task_id, "progress": orjson.dumps(replace(report, reported_at=now).to_json())}
            for task_id, report in reports.items()
        ]
        self._write(lambda connection: connection.executemany(self._queries["report_progress"], rows))

    def cancelled(self, task_id: str) -> None:
        """Write down that a task was called off, unless it has finished."""
        now = self._clock.now()
        self._change("cancel_result", {"task_id": task_id, "now": now, "forget_at": now + FINISHED_MS})

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._change("drop_result", {"task_id": task_id}) > 0

    def _change(self, query: str, values: Mapping[str, object]) -> int:
        return self._use(lambda connection: connection.execute(self._queries[query], values).rowcount)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _pauses(self, wait_ms: int) -> Iterator[int]:
        """Say how long to wait between looks: whoever writes may be another process, and tells nobody."""
        ends_at = self._clock.monotonic() + wait_ms
        pause_ms = FIRST_PAUSE_MS
        while (left_ms := ends_at - self._clock.monotonic()) > 0:
            yield min(pause_ms, left_ms)
            pause_ms = min(2 * pause_ms, LAST_PAUSE_MS)

    def _look(self, task_id: str) -> ResultView:
        query = self._queries["find_result"]
        row = self._use(lambda connection: connection.execute(query, {"task_id": task_id}).fetchone())
        now = self._clock.now()
        if row is None:
            return ResultView(task_id=task_id, state="UNKNOWN")
        state, value, error, progress, attempts, created_at, finished_at, value_until, forget_at = row
        if forget_at <= now:
            return ResultView(task_id=task_id, state="UNKNOWN")
        return ResultView(
            task_id=task_id,
            state=state,
            value=value if now < value_until else None,
            error=error,
            progress=None if progress is None else ProgressReport.from_json(orjson.loads(progress)),
            attempts=attempts,
            created_at=created_at,
            finished_at=finished_at,
        )

    def _look_for_settled(self, task_ids: Sequence[str]) -> list[str]:
        values = {"task_ids": orjson.dumps(list(task_ids)).decode(), "now": self._clock.now()}
        query = self._queries["find_unsettled"]
        rows = self._use(lambda connection: connection.execute(query, values).fetchall())
        under_way = {task_id for (task_id,) in rows}
        return [each for each in task_ids if each not in under_way]

    def _wait(self, look: Callable[[], T], is_answer: Callable[[T], bool], wait_ms: int) -> T:
        pauses = self._pauses(wait_ms)
        while True:
            found = look()
            if is_answer(found) or not (pause_ms := next(pauses, 0)):
                return found
            threading.Event().wait(pause_ms / 1000)

    async def _await(self, look: Callable[[], T], is_answer: Callable[[T], bool], wait_ms: int) -> T:
        pauses = self._pauses(wait_ms)
        while True:
            found = await asyncio.to_thread(look)
            if is_answer(found) or not (pause_ms := next(pauses, 0)):
                return found
            await self._clock.sleep(pause_ms)

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                work(connection)

        self._use(write)

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _open(self._path, self._queries)
                return work(self._connection)
            except sqlite3.Error as error:
                raise StoreError(f"results cannot be kept in {self._path}: {error}") from error

    def _forget(self) -> None:
        """A forked child must not touch its parent's connection, nor close it."""
        self._lock = threading.Lock()
        if self._connection is not None:
            _LEFT.append(self._connection)
            self._connection = None


_LEFT: list[sqlite3.Connection] = []
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
