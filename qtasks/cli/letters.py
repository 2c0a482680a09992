"""What a dead letter tells a person: the task, the error, and the place in the code. Pure.

Those that died of the same error on the same line are one `Ailment`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from qtasks.protocol.shapes import DeadLetter

_FRAME = re.compile(r'^  File "([^"]+)", line ([0-9]+), in (.+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a message is dead: the `error` without its message, and `place` in the code if it is known."""

    what: str
    """The task's name, or the destination of a message that is no task."""
    error: str
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Ailment:
    """Dead letters of one cause, the newest of which is shown."""

    cause: Cause
    count: int
    newest: DeadLetter
    first_at: int
    last_at: int

    def to_json(self) -> dict[str, object]:
        """Make an object for programs."""
        return {
            "what": self.cause.what,
            "error": self.cause.error,
            "place": self.cause.place,
            "message": message_of(self.newest),
            "count": self.count,
            "newest": self.newest.dlq_id,
            "firstCreatedAt": self.first_at,
            "lastCreatedAt": self.last_at,
        }


def cause_of(letter: DeadLetter) -> Cause:
    """Say why a letter is dead, by the error document that our tasks answer with, else by the status."""
    what = task_of(letter) or letter.message.url
    document = _document(letter)
    if document is not None:
        frames = _FRAME.findall(str(document.get("traceback") or ""))
        place = "{}:{} in {}".format(*frames[-1]) if frames else None
        return Cause(what, str(document.get("type")), place)
    if letter.response_status:
        return Cause(what, f"HTTP {letter.response_status}")
    return Cause(what, letter.error or "no answer")


def message_of(letter: DeadLetter) -> str:
    """Give the message of the error, in one line."""
    document = _document(letter)
    if document is not None:
        return str(document.get("message") or "").partition("\n")[0]
    answer = letter.response_body.decode(errors="replace").strip().partition("\n")[0]
    return answer or letter.error or ""


def trace_of(letter: DeadLetter) -> str | None:
    """Give the traceback that a task answered with."""
    document = _document(letter)
    trace = document.get("traceback") if document else None
    return str(trace) if trace else None


def task_of(letter: DeadLetter) -> str | None:
    """Give the name of the task that a letter calls; None if it is no task, or is hidden."""
    members = _object(letter.message.body)
    name = members.get("task") if members and "v" in members and "kwargs" in members else None
    return name if isinstance(name, str) else None


def grouped(letters: Iterable[DeadLetter]) -> list[Ailment]:
    """Bring letters of one cause together, the most frequent first; letters come newest first."""
    found: dict[Cause, Ailment] = {}
    for each in letters:
        cause, at = cause_of(each), each.message.created_at
        known = found.get(cause)
        if known is None:
            found[cause] = Ailment(cause, 1, each, at, at)
        else:
            first_at, last_at = min(known.first_at, at), max(known.last_at, at)
            found[cause] = Ailment(cause, known.count + 1, known.newest, first_at, last_at)
    return sorted(found.values(), key=lambda each: -each.count)


def _document(letter: DeadLetter) -> dict[str, object] | None:
    members = _object(letter.response_body)
    document = members.get("error") if members else None
    return document if isinstance(document, dict) and "type" in document else None


def _object(text: bytes) -> dict[str, object] | None:
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return members if isinstance(members, dict) else None
