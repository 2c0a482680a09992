"""What is known of a task on every database: progress, what has settled, what outlives a result."""

from __future__ import annotations

from typing import Any

import pytest

from qtasks.broker.store import cancelling, results
from qtasks.protocol.results import NOTE_LENGTH, ProgressReport
from tests.support.store import Verbs

KEPT: dict[str, Any] = {"result_ttl_ms": 5000}
WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}


# --- progress -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "total", "note"),
    [
        (3, 10, "Importing"),
        (0.25, 1, None),
        (0, None, None),
        (7, None, "é" * NOTE_LENGTH),
        (10**15, 0.5, "x"),
    ],
)
def test_progress_comes_back_as_it_was_told(
    store: Verbs, done: float, total: float | None, note: str | None
) -> None:
    store.enqueue(task_id="tsk_1")
    store.claim_one()

    assert store.report("tsk_1", done, total, note)

    assert store.result("tsk_1").progress == ProgressReport(done, total, note, store.clock.now())
    assert store.result("tsk_1").state == "RUNNING"


def test_the_newest_progress_counts(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1")
    store.report("tsk_1", 1, 10, "early")
    store.clock.advance(250)

    store.report("tsk_1", 2)

    assert store.result("tsk_1").progress == ProgressReport(2, reported_at=store.clock.now())


def test_a_task_that_waits_for_its_retry_shows_how_far_it_had_come(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1")
    claim = store.claim_one()
    store.report("tsk_1", 4)

    store.fail(claim)

    found = store.result("tsk_1")
    assert (found.state, found.progress and found.progress.done) == ("RETRYING", 4)


@pytest.mark.parametrize("ttl", [None, 5000])
def test_the_end_of_a_task_is_the_end_of_its_progress(store: Verbs, ttl: int | None) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=ttl)
    claim = store.claim_one()
    store.report("tsk_1", 4)

    store.deliver(claim)

    assert (store.result("tsk_1").state, store.result("tsk_1").progress) == ("SUCCEEDED", None)
    assert not store.report("tsk_1", 5)


def test_a_task_that_nobody_knows_has_no_progress(store: Verbs) -> None:
    assert not store.report("tsk_1", 1)
    assert store.reports() == 0


def test_progress_of_several_tasks_is_told_at_once(store: Verbs) -> None:
    for task_id in ("tsk_1", "tsk_2"):
        store.enqueue(task_id=task_id)
    reports = {"tsk_1": ProgressReport(1), "tsk_gone": ProgressReport(2), "tsk_2": ProgressReport(3)}

    known = store.database.run(lambda session: results.report_progress(session, reports, store.clock.now()))

    assert known == ["tsk_1", "tsk_2"]
    assert store.reports() == 2


# --- what has settled -----------------------------------------------------------------------------


def test_what_there_is_nothing_to_wait_for_has_settled(store: Verbs) -> None:
    for n, ttl in enumerate((5000, None, 5000, 5000)):
        store.enqueue(b"", task_id=f"tsk_{n}", result_ttl_ms=ttl, **WIDE)
    kept, unkept, dead = store.claim(3)
    store.deliver(kept)
    store.deliver(unkept)
    store.kill(dead)

    assert store.settled(*(f"tsk_{n}" for n in range(5))) == ["tsk_0", "tsk_1", "tsk_2", "tsk_4"]
    assert store.settled() == []


def test_what_runs_or_waits_has_not_settled(store: Verbs) -> None:
    store.enqueue(task_id="tsk_running", **WIDE)
    store.claim_one()
    store.enqueue(task_id="tsk_retrying", **WIDE)
    store.fail(store.claim_one())
    store.enqueue(task_id="tsk_queued", **WIDE)

    assert store.settled("tsk_running", "tsk_retrying", "tsk_queued") == []


def test_a_task_called_off_has_settled(store: Verbs) -> None:
    message_id = store.enqueue(task_id="tsk_1")

    store.database.run(lambda session: cancelling.cancel(session, [message_id], store.clock.now()))

    assert store.settled("tsk_1") == ["tsk_1"]


def test_the_message_of_a_task_is_found_while_it_is_under_way(store: Verbs) -> None:
    message_id = store.enqueue(task_id="tsk_1")

    def found() -> list[str]:
        return store.database.look(lambda session: results.pending_messages(session, "tsk_1"))

    assert found() == [message_id]
    store.deliver(store.claim_one())
    assert found() == []


# --- what outlives a result -----------------------------------------------------------------------


def test_a_forgotten_result_leaves_the_state_and_its_instants(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", **KEPT)
    store.fail(store.claim_one(), after_ms=0)
    store.clock.advance(1000)
    store.deliver(store.claim_one())
    before = store.result("tsk_1")

    assert store.forget("tsk_1")

    after = store.result("tsk_1")
    assert (after.state, after.value) == ("SUCCEEDED", None)
    assert (after.attempts, after.created_at, after.finished_at) == (
        before.attempts,
        before.created_at,
        before.finished_at,
    )
    assert not store.forget("tsk_1")


def test_a_forgotten_error_is_gone(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", max_retries=0, **KEPT)
    store.kill(store.claim_one())
    assert store.result("tsk_1").error

    store.forget("tsk_1")

    found = store.result("tsk_1")
    assert (found.state, found.error, found.attempts) == ("FAILED", None, 1)


def test_a_task_that_has_not_finished_has_nothing_to_forget(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", **KEPT)
    claim = store.claim_one()

    assert not store.forget("tsk_1")

    store.settle_all()
    store.deliver(claim)
    assert store.result("tsk_1").state == "SUCCEEDED"


def test_attempts_that_were_handed_back_do_not_count(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1")
    store.hand_back(store.claim_one())
    store.fail(store.claim_one(), after_ms=0)
    store.deliver(store.claim_one())

    assert store.result("tsk_1").attempts == 2
