"""Results that an app keeps itself on a SQLite file: what is kept, for whom, and for how long."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qtasks import ConfigurationError, QTasks
from qtasks.clock import ManualClock, SystemClock
from qtasks.errors import StoreError, StoreUnusable
from qtasks.home.result_store import KeptResults, open_results
from qtasks.home.result_tables import SqliteTable
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.tasks.recording import Record, ResultBackend
from tests.support.homes import SOON_S, remote_settings
from tests.support.postgres import Postgres

FAR = 2_000_000_000_000
RUNNING = ResultView(task_id="tsk_1", state="RUNNING", attempts=1, created_at=5)
DONE = ResultView(task_id="tsk_1", state="SUCCEEDED", value=b"42", attempts=1, created_at=5, finished_at=9)
FAILED = replace(DONE, state="FAILED", value=None, error=b'{"error":{"type":"ValueError"}}')
QUEUED = ResultView(task_id="tsk_1", state="QUEUED", created_at=5)


def record(view: ResultView, *, value_until: int = FAR, forget_at: int = FAR) -> Record:
    return Record(view, value_until, forget_at)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where results are kept: on both kinds of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'results.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_store()


@pytest.fixture
def kept(url: str, clock: ManualClock) -> Iterator[ResultBackend]:
    results = open_results(url, clock)
    yield results
    results.close()


@pytest.fixture
def on_file(tmp_path: Path, clock: ManualClock) -> Iterator[KeptResults]:
    results = KeptResults(SqliteTable(tmp_path / "results.db"), clock)
    yield results
    results.close()


@pytest.mark.parametrize("view", [QUEUED, RUNNING, DONE, FAILED])
def test_what_is_stored_comes_back_as_it_was(kept: ResultBackend, view: ResultView) -> None:
    kept.store([record(view)])

    assert kept.result("tsk_1") == view


def test_an_id_that_nobody_knows_is_unknown(kept: ResultBackend) -> None:
    assert kept.result("tsk_1", 60_000) == ResultView(task_id="tsk_1", state="UNKNOWN")


@pytest.mark.parametrize(
    ("earlier", "later", "left"),
    [
        (RUNNING, QUEUED, RUNNING),  # it ran before its call had returned
        (QUEUED, RUNNING, RUNNING),
        (RUNNING, FAILED, FAILED),
        (FAILED, RUNNING, RUNNING),  # a dead letter that is replayed
        (DONE, RUNNING, DONE),  # delivered a second time
        (DONE, FAILED, DONE),
        (replace(RUNNING, attempts=2), replace(RUNNING, state="RETRYING"), replace(RUNNING, attempts=2)),
    ],
)
def test_success_is_final_and_all_else_follows_the_attempts(
    kept: ResultBackend, earlier: ResultView, later: ResultView, left: ResultView
) -> None:
    kept.store([record(earlier)])
    kept.store([record(later)])

    assert kept.result("tsk_1") == left


def test_a_value_goes_before_the_task_is_forgotten(kept: ResultBackend, clock: ManualClock) -> None:
    now = clock.now()
    kept.store([record(DONE, value_until=now + 1000, forget_at=now + 2000)])

    clock.advance(1000)
    assert kept.result("tsk_1") == replace(DONE, value=None)
    clock.advance(1000)
    assert kept.result("tsk_1").state == "UNKNOWN"


def test_what_is_forgotten_leaves_the_file_with_the_next_store(
    on_file: KeptResults, clock: ManualClock, tmp_path: Path
) -> None:
    for number in range(150):
        view = replace(DONE, task_id=f"tsk_{number}")
        on_file.store([record(view, forget_at=clock.now() + 1000)])
    clock.advance(1000)
    for number in (1, 2):
        on_file.store([record(replace(DONE, task_id=f"new_{number}"))])

    with sqlite3.connect(tmp_path / "results.db") as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM task_results").fetchall()
    connection.close()
    assert count == 2


def test_a_task_that_was_called_off_is_not_tried_again_but_may_have_succeeded(kept: ResultBackend) -> None:
    kept.store([record(RUNNING)])
    kept.cancelled("tsk_1")
    kept.store([record(replace(RUNNING, state="RETRYING"))])
    assert kept.result("tsk_1").state == "CANCELLED"

    kept.store([record(DONE)])
    kept.cancelled("tsk_1")
    assert kept.result("tsk_1") == DONE


def test_a_forgotten_value_is_gone_and_the_state_stays(kept: ResultBackend) -> None:
    kept.store([record(DONE)])

    assert kept.forget("tsk_1")
    assert not kept.forget("tsk_1")
    assert kept.result("tsk_1") == replace(DONE, value=None)


def test_of_some_tasks_those_count_that_have_finished_or_are_unknown(kept: ResultBackend) -> None:
    kept.store([record(replace(view, task_id=name)) for name, view in (("a", DONE), ("b", RUNNING))])
    kept.store([record(replace(view, task_id=name)) for name, view in (("c", FAILED), ("d", QUEUED))])

    assert kept.settled(["d", "c", "b", "a", "nobody"]) == ["c", "a", "nobody"]
    assert kept.settled(["b", "d"]) == []
    assert kept.settled([], 60_000) == []


def test_progress_is_kept_until_the_task_has_finished(kept: ResultBackend, clock: ManualClock) -> None:
    report = ProgressReport(30, 100, "Importing")
    kept.store([record(RUNNING)])
    kept.report_progress({"tsk_1": report, "nobody": report})
    assert kept.result("tsk_1").progress == replace(report, reported_at=clock.now())

    kept.store([record(replace(RUNNING, state="RETRYING"))])
    assert kept.result("tsk_1").progress is not None
    kept.store([record(DONE)])
    kept.report_progress({"tsk_1": report})
    assert kept.result("tsk_1") == DONE


def test_a_wait_on_a_thread_ends_with_the_task(tmp_path: Path) -> None:
    kept = KeptResults(SqliteTable(tmp_path / "results.db"), SystemClock())
    kept.store([record(RUNNING)])
    found: list[ResultView] = []
    waiting = threading.Thread(target=lambda: found.append(kept.result("tsk_1", 10_000)))
    waiting.start()

    kept.store([record(DONE)])
    waiting.join(SOON_S)

    assert found == [DONE]
    kept.close()


class CountingClock(ManualClock):
    """Passes the time by itself, and counts how often somebody slept."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[int] = []

    async def sleep(self, ms: int) -> None:
        self.slept.append(ms)
        self.advance(ms)


async def test_a_wait_on_a_loop_sleeps_between_looks_and_ends_in_time(tmp_path: Path) -> None:
    clock = CountingClock()
    kept = KeptResults(SqliteTable(tmp_path / "results.db"), clock)
    kept.store([record(RUNNING)])

    view = await kept.aresult("tsk_1", 1000)

    assert view.state == "RUNNING"
    assert clock.slept == [10, 20, 40, 80, 160, 200, 200, 200, 90]
    kept.close()


def test_many_processes_write_the_same_new_file(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_results, args=(path, name)) for name in ("a", "b", "c")]
    for each in writers:
        each.start()
    for each in writers:
        each.join(30)
    assert [each.exitcode for each in writers] == [0, 0, 0]

    kept = KeptResults(SqliteTable(path), SystemClock())
    states = {kept.result(f"{name}{n}").state for name in "abc" for n in range(50)}
    kept.close()
    assert states == {"SUCCEEDED"}


def write_results(path: Path, name: str) -> None:
    kept = KeptResults(SqliteTable(path), SystemClock())
    for number in range(50):
        kept.store([record(replace(DONE, task_id=f"{name}{number}"))])
    kept.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_the_file_anew(kept: ResultBackend) -> None:
    kept.store([record(DONE)])

    child = os.fork()
    if not child:
        try:
            kept.store([record(replace(DONE, task_id="tsk_2"))])
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert kept.result("tsk_2").state == "SUCCEEDED"


def test_the_file_is_for_its_user_alone(on_file: KeptResults, tmp_path: Path) -> None:
    on_file.store([record(DONE)])

    assert stat.S_IMODE((tmp_path / "results.db").stat().st_mode) == 0o600


def test_a_database_of_another_kind_is_left_alone(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    connection.close()

    with pytest.raises(StoreUnusable, match=r"other\.db is a database of another kind; name another file"):
        KeptResults(SqliteTable(path), clock).store([record(DONE)])


def test_a_file_that_cannot_be_opened_says_where_it_was_to_be(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(StoreError, match=r"results cannot be kept in .*nowhere/results\.db: unable to open"):
        KeptResults(SqliteTable(tmp_path / "nowhere" / "results.db"), clock).store([record(DONE)])


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://host/db?schema=A-B", "schema='A-B' is not possible; it is up to 48 small letters"),
        ("redis://host", "QTASKS_RESULTS names 'redis', which keeps no results; use sqlite:///results.db"),
        ("sqlite:///:memory:", "results in memory would be lost; use a file, sqlite:///results.db"),
    ],
)
def test_what_keeps_no_results_is_refused(clock: ManualClock, url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        open_results(url, clock)


def test_a_broker_that_keeps_results_itself_needs_no_other_place(tmp_path: Path) -> None:
    assert QTasks(settings=remote_settings("http://127.0.0.1:1"), results="redis://host")._results is None
