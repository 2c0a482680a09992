"""What a broker says of a task id, and its JSON: `GET /qtasks/v1/results/{task id}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import orjson

from qtasks.errors import InvalidValue
from qtasks.protocol import json_fields as json

FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
SETTLED = FINAL_STATES | {"UNKNOWN"}  # nothing to wait for
NOTE_LENGTH = 500
LARGEST_AMOUNT = 2**53
MOST_IDS = 1000
"""Of tasks that one question is about."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a task has come: `done` of `total`, if it knows how much there is, and what it is about.

    `reported_at` is when the broker heard of it; None on the way there.
    """

    done: float
    total: float | None = None
    note: str | None = None
    reported_at: int | None = None

    @classmethod
    def of(cls, done: object, total: object = None, note: object = None) -> Self:
        """Make a report of what a caller gave; raises `InvalidValue`. A long note is cut off."""
        if note is not None and not isinstance(note, str):
            raise InvalidValue(f"note must be a text, not {note!r:.32}")
        text = None if note is None else note[:NOTE_LENGTH].encode("utf-8", "replace").decode()
        return cls(_amount("done", done), None if total is None else _amount("total", total), text or None)

    def to_json(self) -> dict[str, object]:
        """Make the JSON object for orjson."""
        return json.write_fields(self, _PROGRESS)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read the JSON object; raises `DecodeError`."""
        return cls(**json.read_fields(members, _PROGRESS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """Where a task is, or how it ended. Instants are Unix milliseconds.

    `value` and `error` are JSON texts: what the task returned, and a document
    `{"error": {"type", "message", "traceback"}}`. Both are None unless the task has finished so and
    the broker still keeps them. `progress` is there only until it has finished.
    """

    task_id: str
    state: str
    value: bytes | None = None
    error: bytes | None = None
    attempts: int = 0
    created_at: int | None = None
    finished_at: int | None = None
    progress: ProgressReport | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in FINAL_STATES

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to wait for: nobody knows the task, or it has finished."""
        return self.state in SETTLED

    def to_json(self) -> dict[str, object]:
        """Make the answer's JSON object for orjson; `result` is there only if a value is kept."""
        members = json.write_fields(self, _RESULT)
        if self.value is not None:
            members["result"] = orjson.Fragment(self.value)
        if self.error is not None:
            members["error"] = orjson.loads(self.error).get("error")
        if self.progress is not None:
            members["progress"] = self.progress.to_json()
        return members

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read the answer's JSON object; raises `DecodeError`."""
        value = orjson.dumps(members["result"]) if "result" in members else None
        error = orjson.dumps({"error": members["error"]}) if members.get("error") else None
        report = members.get("progress")
        progress = ProgressReport.from_json(report) if isinstance(report, dict) else None
        return cls(value=value, error=error, progress=progress, **json.read_fields(members, _RESULT))


_RESULT = (
    json.text("task_id", "taskId", required=True),
    json.text("state", "state", required=True),
    json.number("attempts", "attempts"),
    json.number("created_at", "createdAt"),
    json.number("finished_at", "finishedAt"),
)

_PROGRESS = (
    json.quantity("done", "done", required=True),
    json.quantity("total", "total"),
    json.text("note", "note"),
    json.number("reported_at", "reportedAt"),
)


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_AMOUNT:
        raise InvalidValue(f"{name} must be a number, not {value!r:.32}")
    return value
