"""What the app answers to a delivery: statuses, markers and the error document. Pure.

Which outcome gets which of them is said in `outcomes.py`.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from types import TracebackType

import orjson

from qtasks.values import dataclass

UNCOUNTED = "Qtasks-Uncounted"
CONTINUED = "Qtasks-Continued"
"""Names the message in which a call goes on: what was delivered is not its end."""
NON_RETRYABLE = ("Upstash-NonRetryable-Error", "true")
MESSAGE_LIMIT = 4096
TRACEBACK_LIMIT = 16384
LEFT_OUT_CHARS = 80  # what the line takes that says so


@dataclass(frozen=True, slots=True)
class Answer:
    """What the app answers: an HTTP status, headers and a JSON body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def uncounted(status: int, why: str, message: str, after_s: float) -> Answer:
    """Answer that this attempt was not made: our broker does not count it."""
    return problem(status, "NotNow", message, (UNCOUNTED, why), ("Retry-After", f"{after_s:g}"))


def problem(
    status: int, type_: str, message: str, *headers: tuple[str, str], reason: str | None = None
) -> Answer:
    """Answer with an error that is no exception of the task's; `reason` is for programs to know it by."""
    return Answer(status, error_document(type_, message, None, reason), headers)


def error_document(type_: str, message: str, trace: str | None, reason: str | None = None) -> bytes:
    """Make the error document: what a caller, a dead letter queue or a person reads of a failure."""
    error = {
        "type": type_,
        "message": _sendable(message[:MESSAGE_LIMIT]),
        "traceback": None if trace is None else _sendable(_end_of(trace)),
    }
    return orjson.dumps({"error": error if reason is None else {**error, "reason": reason}})


def type_of(answer: Answer) -> str:
    """Give the type of the error that an answer tells of."""
    type_: str = orjson.loads(answer.body)["error"]["type"]
    return type_


def describe(error: BaseException, type_: str, redact: Sequence[str]) -> bytes:
    """Make the error document of an exception, without our own frames and without any of `redact`."""
    lines = traceback.format_exception(error.with_traceback(_own_frames(error)))
    texts = [_text(error), "".join(lines)]
    for secret in redact:
        texts = [text.replace(secret, "***") for text in texts]
    return error_document(type_, *texts)


def _end_of(trace: str) -> str:
    """Keep the end of a traceback, in whole lines: the exception itself and where it came from."""
    if len(trace) <= TRACEBACK_LIMIT:
        return trace
    kept = trace[LEFT_OUT_CHARS - TRACEBACK_LIMIT :]
    kept = kept.partition("\n")[2] or kept
    return f"... {len(trace) - len(kept)} characters before this are left out ...\n{kept}"


def _sendable(text: str) -> str:
    """Replace lone surrogates, which JSON cannot carry."""
    return text.encode("utf-8", "replace").decode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its own code, and it may do anything
        return f"<{type(error).__name__} that cannot be printed>"


def _own_frames(error: BaseException) -> TracebackType | None:
    """Leave out our own frames at the top: the reader looks for theirs."""
    trace = error.__traceback__
    while (
        trace is not None
        and trace.tb_next
        and trace.tb_frame.f_globals.get("__name__", "").startswith("qtasks.")
    ):
        trace = trace.tb_next
    return trace
