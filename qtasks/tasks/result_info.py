"""What a caller sees of a task at one moment: `TaskInfo`, with its `RemoteError` or its `Progress`.

Made of what the broker answers; asking is in `results.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar, cast

import orjson

from qtasks.protocol.results import ProgressReport, ResultView

T_co = TypeVar("T_co", covariant=True)

TaskState = Literal[
    "QUEUED",
    "SCHEDULED",
    "RUNNING",
    "RETRYING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "EXPIRED",
    "UNKNOWN",
]


@dataclass(frozen=True, slots=True)
class RemoteError:
    """The exception that a task ended with, as text: it was raised in another process."""

    type: str
    message: str
    traceback: str | None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task says it has come: `done` of `total`, None if it does not know how much there is."""

    done: float
    total: float | None
    note: str | None
    at: datetime
    """When the broker heard of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo(Generic[T_co]):
    """One look at a task. Instants are aware, in UTC."""

    id: str
    state: TaskState
    attempts: int
    """How many were started, a running one included."""
    created_at: datetime | None
    """None for an id that nobody knows."""
    finished_at: datetime | None
    result: T_co | None
    """What it returned; also None if it has not finished, or its result is not kept."""
    error: RemoteError | None
    """Why it failed or was called off; None if it has not, or that is not kept."""
    progress: Progress | None
    """None for one that has finished, or has not told."""
    is_final: bool
    """Whether nothing more will happen to it."""


def make_info(view: ResultView, decode: Callable[[object], object]) -> TaskInfo[Any]:
    """Read the broker's answer; raises `DecodeError` if the value does not fit the task any more."""
    return TaskInfo(
        id=view.task_id,
        state=cast(TaskState, view.state),
        attempts=view.attempts,
        created_at=_instant(view.created_at),
        finished_at=_instant(view.finished_at),
        result=None if view.value is None else decode(orjson.loads(view.value)),
        error=remote_error(view),
        progress=None if view.progress is None else _progress(view.progress),
        is_final=view.is_final,
    )


def remote_error(view: ResultView) -> RemoteError | None:
    """Read the error document, which may be that of a destination that is none of ours."""
    if view.error is None:
        return None
    error = orjson.loads(view.error).get("error")
    facts: dict[str, Any] = error if isinstance(error, dict) else {}
    return RemoteError(
        str(facts.get("type", "Unknown")),
        str(facts.get("message", "the reason is not kept")),
        facts.get("traceback"),
    )


def _progress(report: ProgressReport) -> Progress:
    return Progress(report.done, report.total, report.note, _known_instant(report.reported_at or 0))


def _instant(ms: int | None) -> datetime | None:
    return None if ms is None else _known_instant(ms)


def _known_instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
