"""The seam to tracing: what is told of calls on their way out and of executions, and what travels.

`Untraced` makes no spans and only passes on the trace that a task was called in; `spans.py` makes them
with OpenTelemetry. Both say how a trace travels: as W3C `traceparent`, in the signed envelope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from importlib.util import find_spec
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from qtasks.protocol.shapes import Enqueued
from qtasks.tasks.envelope import Envelope, Trace
from qtasks.tasks.outcomes import Ending

N = TypeVar("N")
NoteAnswers = Callable[[Sequence[Enqueued]], None]
"""Is told what the broker has answered. If it never is, the calls were left to a `collect` block."""
NoteEnding = Callable[[Ending, str | None, BaseException | None], None]
"""Is told how an attempt ended, the type of what failed, and the error itself if it may be shown."""


class Tracing(Protocol):
    """Makes spans, none of which ever holds an argument."""

    def enqueuing(self, task: str, queue: str | None) -> AbstractContextManager[NoteAnswers]:
        """Span one call, which is made and sent within."""
        ...

    def enqueuing_many(self, task: str | None, queue: str | None) -> AbstractContextManager[NoteAnswers]:
        """Span the calls that are made and sent within or, with no task, were made before."""
        ...

    def executing(
        self, envelope: Envelope, *, task: str, message_id: str, attempt: int
    ) -> AbstractContextManager[NoteEnding]:
        """Span one attempt; what the task calls within belongs to the same trace."""
        ...

    def trace(self) -> Trace | None:
        """Say where in which trace we are: what a call that is made now takes along."""
        ...


def find_tracing() -> Tracing:
    """Give OpenTelemetry's spans if its API is installed; else only pass traces on."""
    if find_spec("opentelemetry") is None:
        return Untraced()
    try:
        from qtasks.tasks.spans import Spans
    except ImportError:  # the name is shared by many packages, and the API is none of those here
        return Untraced()
    return Spans()


class Untraced:
    """Makes no spans: calls of a running task go on in the trace in which that was called."""

    def enqueuing(self, task: str, queue: str | None) -> AbstractContextManager[NoteAnswers]:
        return _NOTHING_TO_NOTE

    def enqueuing_many(self, task: str | None, queue: str | None) -> AbstractContextManager[NoteAnswers]:
        return _NOTHING_TO_NOTE

    def executing(
        self, envelope: Envelope, *, task: str, message_id: str, attempt: int
    ) -> AbstractContextManager[NoteEnding]:
        return _NO_ENDING_TO_NOTE if envelope.trace is None else _Within(envelope.trace)

    def trace(self) -> Trace | None:
        return trace_here()


_TRACE: ContextVar[Trace | None] = ContextVar("qtasks_trace", default=None)


def trace_here() -> Trace | None:
    """Give the trace in which the task was called that is running here."""
    return _TRACE.get()


class _Nothing(Generic[N]):
    """A block without a span, around which nothing happens; cheaper than `nullcontext`."""

    __slots__ = ("_note",)

    def __init__(self, note: N) -> None:
        self._note = note

    def __enter__(self) -> N:
        return self._note

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Within:
    """A block whose calls belong to a trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __enter__(self) -> NoteEnding:
        self._token: Token[Trace | None] = _TRACE.set(self._trace)
        return _note_no_ending

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _TRACE.reset(self._token)


def note_nothing(answers: Sequence[Enqueued]) -> None:
    """No span, so nobody wants to know."""


def _note_no_ending(ending: Ending, type_: str | None, error: BaseException | None) -> None:
    """No span, so nobody wants to know."""


_NOTHING_TO_NOTE: AbstractContextManager[NoteAnswers] = _Nothing(note_nothing)
_NO_ENDING_TO_NOTE: AbstractContextManager[NoteEnding] = _Nothing(_note_no_ending)
