"""Results that the app keeps itself, for hosted QStash, which keeps none: on SQLite or PostgreSQL.

Any number of processes may do so at once, on a file those of one machine. It is opened at the first use.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import orjson

from qtasks.clock import Clock
from qtasks.errors import ConfigurationError
from qtasks.home.result_tables import PostgresTable, ResultTable, SqliteTable
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.settings import database_path
from qtasks.tasks.recording import FINISHED_MS, Record, ResultBackend

T = TypeVar("T")

FIRST_PAUSE_MS = 10
LAST_PAUSE_MS = 200


def open_results(url: str, clock: Clock) -> ResultBackend:
    """Give what keeps results at this URL; raises `ConfigurationError` if there is no such thing."""
    scheme = url.partition(":")[0].lower()
    if url.endswith(":memory:"):
        raise ConfigurationError("results in memory would be lost; use a file, sqlite:///results.db")
    if scheme == "sqlite":
        return KeptResults(SqliteTable(database_path(url)), clock)
    if scheme in ("postgresql", "postgres"):
        return KeptResults(PostgresTable(url), clock)
    raise ConfigurationError(
        f"QTASKS_RESULTS names {scheme!r}, which keeps no results; use sqlite:///results.db or postgresql://…"
    )


class KeptResults:
    """A `ResultBackend` on a table of the app's own."""

    def __init__(self, table: ResultTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock

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
        self._table.write(("put_result", rows), ("forget_results", [{"now": self._clock.now()}]))

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
        self._table.write(("report_progress", rows))

    def cancelled(self, task_id: str) -> None:
        """Write down that a task was called off, unless it has finished."""
        now = self._clock.now()
        row = {"task_id": task_id, "now": now, "forget_at": now + FINISHED_MS}
        self._table.write(("cancel_result", [row]))

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._table.write(("drop_result", [{"task_id": task_id}])) > 0

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        self._table.close()

    def _pauses(self, wait_ms: int) -> Iterator[int]:
        """Say how long to wait between looks: whoever writes may be another process, and tells nobody."""
        ends_at = self._clock.monotonic() + wait_ms
        pause_ms = FIRST_PAUSE_MS
        while (left_ms := ends_at - self._clock.monotonic()) > 0:
            yield min(pause_ms, left_ms)
            pause_ms = min(2 * pause_ms, LAST_PAUSE_MS)

    def _look(self, task_id: str) -> ResultView:
        rows = self._table.all("find_result", {"task_id": task_id})
        now = self._clock.now()
        if not rows:
            return ResultView(task_id=task_id, state="UNKNOWN")
        state, value, error, progress, attempts, created_at, finished_at, value_until, forget_at = rows[0]
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
        under_way = {task_id for (task_id,) in self._table.all("find_unsettled", values)}
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
