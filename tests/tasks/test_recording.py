"""What an app writes down of its tasks: from an answer to the state that callers see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from qtasks import Reject
from qtasks.protocol.headers import Options
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.answers import CONTINUED, Answer
from qtasks.tasks.envelope import Envelope, pack, unpack
from qtasks.tasks.recording import Record, accepted, ended, started
from tests.support.tasks import Workshop

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
ENVELOPE = Envelope(
    task="note", id="tsk_1", args=[], kwargs={}, destination="d", enqueued_at=5, retries=2, result_ttl_ms=9000
)
ERROR = b'{"error":{"type":"ValueError","message":"no","traceback":null}}'
EXPIRED = b'{"error":{"type":"Expired","message":"late","traceback":null}}'


def test_an_envelope_tells_what_the_broker_does_not() -> None:
    assert unpack(pack(ENVELOPE)) == ENVELOPE


def test_an_accepted_message_is_queued_or_scheduled() -> None:
    options = Options(task_id="tsk_1")
    later = replace(options, task_id="tsk_2", start_at=NOW + 1000)

    now, then = accepted([Outgoing("d", b"", options), Outgoing("d", b"", later)], NOW)

    assert now == Record(ResultView(task_id="tsk_1", state="QUEUED", created_at=NOW), 0, NOW + 30 * DAY_MS)
    assert (then.view.state, then.forget_at) == ("SCHEDULED", NOW + 1000 + 30 * DAY_MS)


def test_an_attempt_that_begins_is_running() -> None:
    assert started(ENVELOPE, 1, NOW).view == ResultView(
        task_id="tsk_1", state="RUNNING", attempts=2, created_at=5
    )


@pytest.mark.parametrize(
    ("status", "body", "retried", "state"),
    [
        (200, b"42", 0, "SUCCEEDED"),
        (500, ERROR, 0, "RETRYING"),
        (504, ERROR, 1, "RETRYING"),
        (503, ERROR, 1, "RETRYING"),
        (500, ERROR, 2, "FAILED"),
        (503, ERROR, 2, "FAILED"),
        (489, ERROR, 0, "FAILED"),
        (489, EXPIRED, 0, "EXPIRED"),
    ],
)
def test_an_answer_says_how_an_attempt_ended(status: int, body: bytes, retried: int, state: str) -> None:
    view = ended(ENVELOPE, retried, Answer(status, body), NOW).view

    assert (view.state, view.attempts, view.created_at) == (state, retried + 1, 5)
    assert view.value == (body if state == "SUCCEEDED" else None)
    assert view.error == (body if state in ("FAILED", "EXPIRED") else None)
    assert view.finished_at == (None if state == "RETRYING" else NOW)


def test_what_goes_on_in_another_message_is_not_over_and_counts_on() -> None:
    goes_on = Answer(200, b"null", ((CONTINUED, "msg_2"),))
    following = replace(ENVELOPE, number=1, spent=2)

    assert ended(ENVELOPE, 1, goes_on, NOW).view.state == "RETRYING"
    assert started(following, 0, NOW).view.attempts == 3
    assert ended(following, 0, Answer(500, ERROR), NOW).view.state == "FAILED"


@pytest.mark.parametrize(
    ("ttl_ms", "value", "value_until", "forget_at"),
    [
        (9000, b"42", NOW + 9000, NOW + 3 * DAY_MS),
        (0, None, NOW, NOW + 3 * DAY_MS),
        (7 * DAY_MS, b"42", NOW + 7 * DAY_MS, NOW + 7 * DAY_MS),
        (None, b"42", NOW + DAY_MS, NOW + 3 * DAY_MS),
    ],
)
def test_a_result_is_kept_as_long_as_its_task_says(
    ttl_ms: int | None, value: bytes | None, value_until: int, forget_at: int
) -> None:
    record = ended(replace(ENVELOPE, result_ttl_ms=ttl_ms), 0, Answer(200, b"42"), NOW)

    assert (record.view.value, record.value_until, record.forget_at) == (value, value_until, forget_at)


@dataclass
class Notes:
    """Remembers what was written down, or is as broken as a full disk."""

    is_broken: bool = False
    states: list[tuple[str, int]] = field(default_factory=list)

    def store(self, records: Sequence[Record]) -> None:
        if self.is_broken:
            raise OSError("no room")
        self.states += [(each.view.state, each.view.attempts) for each in records]

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        raise NotImplementedError

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        raise NotImplementedError

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        raise NotImplementedError

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        raise NotImplementedError

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        raise NotImplementedError

    def cancelled(self, task_id: str) -> None:
        raise NotImplementedError

    def forget(self, task_id: str) -> bool:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


async def returns() -> int:
    return 42


async def rejects() -> None:
    raise Reject("never")


def fails() -> None:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("task", "retried", "changes", "states"),
    [
        ("returns", 0, {}, [("RUNNING", 1), ("SUCCEEDED", 1)]),
        ("fails", 1, {}, [("RUNNING", 2), ("RETRYING", 2)]),
        ("fails", 2, {}, [("RUNNING", 3), ("FAILED", 3)]),
        ("rejects", 0, {}, [("RUNNING", 1), ("FAILED", 1)]),
        ("unknown", 0, {}, [("RETRYING", 1)]),
        ("unknown", 2, {}, [("FAILED", 3)]),
        ("returns", 0, {"args": ["too many"]}, [("FAILED", 1)]),
        ("returns", 0, {"expires_at": 1}, [("EXPIRED", 1)]),
        ("returns", 0, {"destination": "https://other.example/run"}, []),
    ],
)
async def test_the_executor_writes_down_what_becomes_of_each_attempt(
    task: str, retried: int, changes: dict[str, Any], states: list[tuple[str, int]]
) -> None:
    notes = Notes()
    shop = Workshop(results=notes)
    for each in (returns, rejects, fails):
        shop.task(each)
    envelope = shop.envelope(task, **{"retries": 2, **changes})

    await shop.executor.execute(shop.delivery(envelope, retried=retried))

    assert notes.states == states


async def test_a_second_delivery_of_what_still_runs_changes_nothing() -> None:
    notes = Notes()
    shop = Workshop(results=notes)
    answers: list[int] = []

    async def twice() -> None:
        answers.append((await shop.run("twice")).status)

    shop.task(twice)
    await shop.run("twice")

    assert answers == [409]
    assert notes.states == [("RUNNING", 1), ("SUCCEEDED", 1)]


async def test_a_task_counts_although_it_could_not_be_written_down(caplog: pytest.LogCaptureFixture) -> None:
    shop = Workshop(results=Notes(is_broken=True))
    shop.task(returns)

    answer = await shop.run("returns")

    assert (answer.status, answer.body) == (200, b"42")
    assert [each.message for each in caplog.records] == ["cannot write down how a task goes"] * 2


async def test_without_a_place_for_results_nothing_is_written() -> None:
    shop = Workshop()
    shop.task(returns)

    assert (await shop.run("returns")).status == 200
