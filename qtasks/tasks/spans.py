"""Spans by OpenTelemetry, after its messaging conventions: one for what is sent, one for each attempt.

Loaded only where its API is installed, see `tracing.py`. What travels is the W3C trace context alone:
baggage is not ours to sign. No span holds an argument.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.environment_variables import OTEL_PYTHON_TRACER_PROVIDER
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qtasks.protocol.shapes import Enqueued
from qtasks.tasks.envelope import Envelope, Trace
from qtasks.tasks.outcomes import Ending
from qtasks.tasks.tracing import NoteAnswers, NoteEnding, Untraced
from qtasks.version import VERSION

NAMED_OUTSIDE = OTEL_PYTHON_TRACER_PROVIDER in os.environ
W3C = TraceContextTextMapPropagator()
Attributes = dict[str, str | int]


class Spans:
    """Makes spans through `provider`, by default the one that the process has set, now or later."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("qtasks", VERSION, tracer_provider=provider)
        self._untraced = Untraced()

    @property
    def _is_idle(self) -> bool:
        """Whether nobody wants spans: the API alone is installed, so making them would cost for nothing."""
        if self._provider is not None:
            return False
        if getattr(trace, "_TRACER_PROVIDER", self) is None and not NAMED_OUTSIDE:
            return True  # what `get_tracer_provider` would find as well, but for each task in the environment
        return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def enqueuing(self, task: str, queue: str | None) -> AbstractContextManager[NoteAnswers]:
        return self._untraced.enqueuing(task, queue) if self._is_idle else self._one(task, queue)

    def enqueuing_many(self, task: str | None, queue: str | None) -> AbstractContextManager[NoteAnswers]:
        return self._untraced.enqueuing_many(task, queue) if self._is_idle else self._many(task, queue)

    def executing(
        self, envelope: Envelope, *, task: str, message_id: str, attempt: int
    ) -> AbstractContextManager[NoteEnding]:
        if self._is_idle:
            return self._untraced.executing(envelope, task=task, message_id=message_id, attempt=attempt)
        attributes = _attributes("process", envelope.queue) | {
            "messaging.message.id": message_id,
            "messaging.qtasks.task": task,
            "messaging.qtasks.task_id": envelope.id,
            "messaging.qtasks.attempt": attempt,
        }
        return self._attempt(envelope, attributes)

    def trace(self) -> Trace | None:
        if trace.get_current_span() is trace.INVALID_SPAN:
            return self._untraced.trace()
        carrier: dict[str, str] = {}
        W3C.inject(carrier)
        if not carrier:
            return self._untraced.trace()
        return Trace(carrier["traceparent"], carrier.get("tracestate"))

    @contextmanager
    def _one(self, task: str, queue: str | None) -> Iterator[NoteAnswers]:
        attributes = _attributes("send", queue) | {"messaging.qtasks.task": task}
        with self._span("send", queue, SpanKind.PRODUCER, attributes) as span:
            landed: list[Enqueued] = []
            yield landed.extend
            if landed and landed[0].message_id:
                span.set_attribute("messaging.message.id", landed[0].message_id)
            else:  # a `collect` block or an outbox has it, and it is sent later
                span.update_name(_name("create", queue))
                span.set_attributes(_attributes("create", queue))

    @contextmanager
    def _many(self, task: str | None, queue: str | None) -> Iterator[NoteAnswers]:
        # What a `collect` block sends was made before, and bears the contexts of other spans.
        kind = SpanKind.CLIENT if task is None else SpanKind.PRODUCER
        attributes = _attributes("send", queue) | ({} if task is None else {"messaging.qtasks.task": task})
        count = 0

        def note(answers: Sequence[Enqueued]) -> None:
            nonlocal count
            count += len(answers)

        with self._span("send", queue, kind, attributes) as span:
            yield note
            span.set_attribute("messaging.batch.message_count", count)

    @contextmanager
    def _attempt(self, envelope: Envelope, attributes: Attributes) -> Iterator[NoteEnding]:
        """Span an attempt: a child of the call's span, whatever the broker, and linked to it."""
        ambient = trace.get_current_span()
        parent = _context(envelope.trace)
        links = [Link(trace.get_current_span(parent).get_span_context())] if parent else []
        if ambient.is_recording():  # the server's span of the request; one that has ended led to nothing here
            links += [Link(ambient.get_span_context())]
        with self._span("process", envelope.queue, SpanKind.CONSUMER, attributes, parent, links) as span:

            def note(ending: Ending, type_: str | None, error: BaseException | None) -> None:
                span.set_attribute("messaging.qtasks.ending", ending.value)
                if type_ is not None:
                    _fail(span, type_)
                if error is not None:
                    span.record_exception(error)

            yield note

    @contextmanager
    def _span(
        self,
        operation: str,
        queue: str | None,
        kind: SpanKind,
        attributes: Attributes,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        """Make a span the current one. What is raised is not recorded: its text may tell arguments."""
        name = _name(operation, queue)
        span = self._tracer.start_span(name, parent, kind, attributes, links)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except BaseException as error:
                _fail(span, type(error).__name__)
                raise


def _context(found: Trace | None) -> Context:
    """Read where a call was made; an empty context if it does not say, or nothing that can be read."""
    if found is None:
        return Context()
    return W3C.extract({"traceparent": found.parent, "tracestate": found.state or ""}, Context())


def _name(operation: str, queue: str | None) -> str:
    return operation if queue is None else f"{operation} {queue}"


def _attributes(operation: str, queue: str | None) -> Attributes:
    attributes: Attributes = {
        "messaging.system": "qtasks",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    return attributes if queue is None else attributes | {"messaging.destination.name": queue}


def _fail(span: Span, type_: str) -> None:
    span.set_attribute("error.type", type_)
    span.set_status(StatusCode.ERROR)
