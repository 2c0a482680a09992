"""What an app writes down of its tasks where the broker keeps no results, and the seam to write it to.

Pure but for the seam: from a message that was accepted, or an answer that the executor gives, to the
state that callers see. The store on SQLite is in `home/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.answers import CONTINUED, Answer
from qtasks.tasks.envelope import Envelope

RESULT_TTL_MS = 86_400_000
UNFINISHED_MS = 30 * 86_400_000  # how long a task may wait or run before nobody remembers it
FINISHED_MS = 3 * 86_400_000  # how long it is known at least that a task has finished, as with a broker


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a task from now on: its value until `value_until`, all of it until `forget_at`."""

    view: ResultView
    value_until: int
    forget_at: int


class ResultBackend(Protocol):
    """Keeps what an app knows of its tasks, for all its processes; for any thread."""

    def store(self, records: Sequence[Record]) -> None:
        """Write down, durably; that a task has succeeded is never taken back."""
        ...

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        ...

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        ...

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown, waiting for the first of them."""
        ...

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        ...

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Write down how far tasks have come; one that has finished meanwhile is passed over."""
        ...

    def cancelled(self, task_id: str) -> None:
        """Write down that a task was called off, unless it has finished."""
        ...

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        ...

    def close(self) -> None:
        """Close what is open; the next question opens it again."""
        ...


def accepted(messages: Sequence[Outgoing], now: int) -> list[Record]:
    """Record messages that the broker has just taken; what has run meanwhile is known already."""
    found = []
    for each in messages:
        start_at = each.options.start_at or now
        if each.options.task_id is not None:
            state = "SCHEDULED" if start_at > now else "QUEUED"
            view = ResultView(task_id=each.options.task_id, state=state, created_at=now)
            found.append(Record(view, 0, max(now, start_at) + UNFINISHED_MS))
    return found


def started(envelope: Envelope, retried: int, now: int) -> Record:
    """Record an attempt that begins; `retried` counts the message's retries, from 0."""
    return _unfinished(envelope, "RUNNING", envelope.spent + retried + 1, now)


def ended(envelope: Envelope, retried: int, answer: Answer, now: int) -> Record:
    """Record what an attempt came to, by the answer that the broker gets."""
    attempt = envelope.spent + retried + 1
    if any(name == CONTINUED for name, _ in answer.headers):
        return _unfinished(envelope, "RETRYING", attempt, now)
    if 200 <= answer.status < 300:
        return _finished(envelope, "SUCCEEDED", attempt, now, value=answer.body)
    if answer.status == 489 or (envelope.retries is not None and attempt > envelope.retries):
        return _finished(envelope, _failed_state(answer.body), attempt, now, error=answer.body)
    return _unfinished(envelope, "RETRYING", attempt, now)


def _failed_state(document: bytes) -> str:
    return "EXPIRED" if orjson.loads(document)["error"]["type"] == "Expired" else "FAILED"


def _unfinished(envelope: Envelope, state: str, attempt: int, now: int) -> Record:
    view = ResultView(task_id=envelope.id, state=state, attempts=attempt, created_at=envelope.enqueued_at)
    return Record(view, 0, now + UNFINISHED_MS)


def _finished(
    envelope: Envelope,
    state: str,
    attempt: int,
    now: int,
    *,
    value: bytes | None = None,
    error: bytes | None = None,
) -> Record:
    ttl_ms = RESULT_TTL_MS if envelope.result_ttl_ms is None else envelope.result_ttl_ms
    view = ResultView(
        task_id=envelope.id,
        state=state,
        value=value if ttl_ms else None,
        error=error,
        attempts=attempt,
        created_at=envelope.enqueued_at,
        finished_at=now,
    )
    return Record(view, now + ttl_ms, now + max(ttl_ms, FINISHED_MS))
