"""Spans of calls and attempts: their names, kinds, parents and links, and what they never hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from qtasks import Reject, Retry
from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import ManualClock
from qtasks.errors import BrokerUnreachable, EncodeError
from qtasks.ids import Ids
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.calling import Caller
from qtasks.tasks.envelope import EnvelopeSigner, Trace, unpack
from qtasks.tasks.many import BATCH
from qtasks.tasks.options import NO_LAYERS
from qtasks.tasks.packing import Packer
from qtasks.tasks.registry import Registry
from qtasks.tasks.spans import Spans
from qtasks.tasks.task import Task, make_task
from qtasks.tasks.tracing import Untraced
from tests.support.tasks import SECRET, URL, NoResults, Workshop

KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine"])


class Post:
    """A sender that keeps what it is given; `is_lost` loses the answers."""

    def __init__(self) -> None:
        self.got: list[Outgoing] = []
        self.is_lost = False

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        self.got += messages
        if self.is_lost:
            raise BrokerUnreachable("no answer")
        return [Enqueued(f"msg_{len(self.got)}") for _ in messages]

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return self.send(messages)

    @property
    def traces(self) -> list[Trace | None]:
        """Where the calls say that they were made."""
        return [unpack(each.body).trace for each in self.got]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def caller(post: Post, provider: TracerProvider) -> Caller:
    return make_caller(post, Spans(provider))


@pytest.fixture
def shop(provider: TracerProvider) -> Workshop:
    return Workshop(tracing=Spans(provider), redact=[SECRET])


def make_caller(post: Post, tracing: Any) -> Caller:
    clock = ManualClock()
    packer = Packer(
        signer=lambda: EnvelopeSigner([SECRET]),
        destination=URL,
        queues={},
        layers=NO_LAYERS,
        clock=clock,
        ids=Ids.seeded(1),
        trace=tracing.trace,
    )
    return Caller(post, NoResults(), packer, clock, tracing)


def make_add(caller: Caller, **options: Any) -> Task[..., Any, Any]:
    def add(a: int, b: int = 0) -> int:
        return a + b

    return make_task(add, Registry(), lambda: caller, {"name": "add", **options})


def written(span: ReadableSpan | trace.Span | None) -> str:
    """Write a span's context as `traceparent`."""
    assert span is not None
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# --- calls ------------------------------------------------------------------------------------------


def test_a_call_is_a_span_of_a_producer(caller: Caller, post: Post, exporter: InMemorySpanExporter) -> None:
    make_add(caller, queue="sums").delay(1, b=2)

    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "send sums",
        SpanKind.PRODUCER,
        StatusCode.UNSET,
    )
    assert attributes(span) == {
        "messaging.system": "qtasks",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "sums",
        "messaging.message.id": "msg_1",
        "messaging.qtasks.task": "add",
    }
    assert post.traces == [Trace(written(span))]


async def test_an_async_call_is_one_too(caller: Caller, post: Post, exporter: InMemorySpanExporter) -> None:
    await make_add(caller).adelay(1)

    [span] = exporter.get_finished_spans()
    assert span.name == "send default"
    assert post.traces == [Trace(written(span))]


def test_a_call_belongs_to_the_span_in_which_it_is_made(
    caller: Caller, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with provider.get_tracer("test").start_as_current_span("request") as request:
        make_add(caller).delay(1)

    sent = exporter.get_finished_spans()[0]
    assert sent.parent == request.get_span_context()


def test_a_call_that_waits_at_a_key_names_no_destination(
    caller: Caller, exporter: InMemorySpanExporter
) -> None:
    make_add(caller, exclusive="{a}").delay(4711)

    [span] = exporter.get_finished_spans()
    assert span.name == "send"
    assert "messaging.destination.name" not in attributes(span)
    assert "4711" not in span.to_json()


def test_a_call_that_fails_shows_its_kind_of_error_and_no_argument(
    caller: Caller, exporter: InMemorySpanExporter
) -> None:
    wrong: Any = "a-private-name"

    with pytest.raises(EncodeError):
        make_add(caller).delay(wrong)

    [span] = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "EncodeError"
    assert "a-private-name" not in span.to_json()


def test_many_calls_are_one_span(caller: Caller, post: Post, exporter: InMemorySpanExporter) -> None:
    add = make_add(caller)

    add.delay_many(add.call(n) for n in range(BATCH + 1))

    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("send default", SpanKind.PRODUCER)
    assert attributes(span)["messaging.batch.message_count"] == BATCH + 1
    assert "messaging.message.id" not in attributes(span)
    assert set(post.traces) == {Trace(written(span))}


async def test_many_async_calls_are_one_span(caller: Caller, exporter: InMemorySpanExporter) -> None:
    add = make_add(caller)

    await add.adelay_many([add.call(1), add.call(2)])

    [span] = exporter.get_finished_spans()
    assert attributes(span)["messaging.batch.message_count"] == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_calls_of_a_block_are_created_first_and_sent_at_its_end(
    caller: Caller, post: Post, exporter: InMemorySpanExporter, is_async: bool
) -> None:
    add = make_add(caller)

    if is_async:
        async with caller.collection():
            await add.adelay(1)
            await add.adelay(2)
    else:
        with caller.collection():
            add.delay(1)
            add.delay(2)

    first, second, sent = exporter.get_finished_spans()
    assert [first.name, second.name, sent.name] == ["create default", "create default", "send"]
    assert attributes(first)["messaging.operation.type"] == "create"
    assert (first.kind, sent.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
    assert attributes(sent)["messaging.batch.message_count"] == 2
    assert post.traces == [Trace(written(first)), Trace(written(second))]


def test_calls_whose_answer_is_lost_are_errors(
    caller: Caller, post: Post, exporter: InMemorySpanExporter
) -> None:
    post.is_lost = True
    add = make_add(caller)

    with pytest.raises(BrokerUnreachable):
        add.delay(1)
    with pytest.raises(BrokerUnreachable):
        add.delay_many([add.call(1)])

    assert [attributes(each)["error.type"] for each in exporter.get_finished_spans()] == [
        "BrokerUnreachable"
    ] * 2


# --- attempts ---------------------------------------------------------------------------------------


@KINDS
async def test_an_attempt_is_a_child_of_its_call_and_linked_to_it(
    shop: Workshop, provider: TracerProvider, exporter: InMemorySpanExporter, kind: str
) -> None:
    def plain() -> None:
        shop.ran.append(written(trace.get_current_span()))

    async def coroutine() -> None:
        shop.ran.append(written(trace.get_current_span()))

    shop.task(plain if kind == "plain" else coroutine, "note")
    call = provider.get_tracer("test").start_span("send")

    answer = await shop.run("note", queue="sums", trace=Trace(written(call)))

    [span] = exporter.get_finished_spans()
    assert answer.status == 200
    assert (span.name, span.kind, span.status.status_code) == (
        "process sums",
        SpanKind.CONSUMER,
        StatusCode.UNSET,
    )
    assert span.parent is not None
    assert span.parent.span_id == call.get_span_context().span_id
    assert [each.context.span_id for each in span.links] == [call.get_span_context().span_id]
    assert attributes(span) == {
        "messaging.system": "qtasks",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "sums",
        "messaging.message.id": "msg_1",
        "messaging.qtasks.task": "note",
        "messaging.qtasks.task_id": "tsk_1",
        "messaging.qtasks.attempt": 1,
        "messaging.qtasks.ending": "success",
    }
    assert shop.ran == [written(span)]
    assert not trace.get_current_span().is_recording()


async def test_every_attempt_is_linked_to_the_call(
    shop: Workshop, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    shop.task(_throwing(ValueError()), "note")
    call = provider.get_tracer("test").start_span("send")
    envelope = shop.envelope("note", trace=Trace(written(call)))

    for retried in range(2):
        await shop.executor.execute(shop.delivery(envelope, retried=retried))

    first, second = exporter.get_finished_spans()
    assert [attributes(each)["messaging.qtasks.attempt"] for each in (first, second)] == [1, 2]
    assert first.context != second.context
    assert [each.context.span_id for each in (*first.links, *second.links)] == [
        call.get_span_context().span_id
    ] * 2


async def test_the_server_s_span_of_the_request_is_linked_as_well(
    shop: Workshop, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    shop.task(_throwing(ValueError()), "note")
    tracer = provider.get_tracer("test")
    call = tracer.start_span("send")

    with tracer.start_as_current_span("POST /run") as request:
        await shop.run("note", trace=Trace(written(call)))

    span = exporter.get_finished_spans()[0]
    assert span.parent is not None
    assert span.parent.trace_id == call.get_span_context().trace_id
    assert [each.context.span_id for each in span.links] == [
        call.get_span_context().span_id,
        request.get_span_context().span_id,
    ]


@pytest.mark.parametrize("found", [None, Trace("nonsense"), Trace("00-" + "0" * 32 + "-" + "0" * 16 + "-01")])
async def test_a_call_that_names_no_trace_begins_one(
    shop: Workshop, exporter: InMemorySpanExporter, found: Trace | None
) -> None:
    shop.task(_throwing(ValueError()), "note")

    await shop.run("note", trace=found)

    [span] = exporter.get_finished_spans()
    assert (span.parent, span.links) == (None, ())


@pytest.mark.parametrize(
    ("error", "changes", "ending"),
    [
        (ValueError("broken"), {}, "retry"),
        (ValueError("broken"), {"retries": 0}, "exhausted"),
        (Reject("never"), {}, "failure"),
    ],
)
async def test_an_attempt_that_fails_shows_the_error(
    shop: Workshop,
    exporter: InMemorySpanExporter,
    error: BaseException,
    changes: dict[str, Any],
    ending: str,
) -> None:
    shop.task(_throwing(error), "note")

    await shop.run("note", **changes)

    [span] = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == type(error).__name__
    assert attributes(span)["messaging.qtasks.ending"] == ending
    [event] = span.events
    assert (event.attributes or {})["exception.message"] == str(error)


async def test_an_attempt_that_asks_for_a_retry_has_not_failed(
    shop: Workshop, exporter: InMemorySpanExporter
) -> None:
    shop.task(_throwing(Retry("busy")), "note")

    await shop.run("note")

    [span] = exporter.get_finished_spans()
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())
    assert attributes(span)["messaging.qtasks.ending"] == "retry"


async def test_an_error_that_tells_a_secret_is_not_recorded(
    shop: Workshop, exporter: InMemorySpanExporter
) -> None:
    shop.task(_throwing(ValueError(f"401 for {SECRET}")), "note")

    await shop.run("note")

    [span] = exporter.get_finished_spans()
    assert attributes(span)["error.type"] == "ValueError"
    assert SECRET not in span.to_json()


async def test_an_attempt_that_is_called_off_is_an_error(
    shop: Workshop, exporter: InMemorySpanExporter
) -> None:
    begun = asyncio.Event()

    async def note() -> None:
        begun.set()
        await asyncio.sleep(60)

    shop.task(note)
    running = asyncio.create_task(shop.run("note"))
    await begun.wait()
    running.cancel()
    await asyncio.wait({running})

    [span] = exporter.get_finished_spans()
    assert attributes(span)["error.type"] == "CancelledError"


async def test_no_argument_is_in_a_span(shop: Workshop, exporter: InMemorySpanExporter) -> None:
    def note(name: str) -> None:
        raise ValueError("broken")

    shop.task(note, log_args=True)

    await shop.run("note", "a-private-name")

    assert "a-private-name" not in exporter.get_finished_spans()[0].to_json()


# --- what travels -----------------------------------------------------------------------------------

HERE = Trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=abc")


@KINDS
@pytest.mark.parametrize("tracing", [Untraced(), Spans()], ids=["untraced", "without a provider"])
async def test_a_task_hands_the_trace_on_to_the_calls_that_it_makes(
    post: Post, tracing: Any, kind: str
) -> None:
    shop = Workshop(tracing=tracing)
    add = make_add(make_caller(post, tracing))

    def plain() -> None:
        add.delay(1)

    async def coroutine() -> None:
        await add.adelay(1)

    shop.task(plain if kind == "plain" else coroutine, "note")

    await shop.run("note", trace=HERE)
    add.delay(2)

    assert post.traces == [HERE, None]


async def test_the_state_of_a_trace_travels_too(
    shop: Workshop, caller: Caller, post: Post, exporter: InMemorySpanExporter
) -> None:
    add = make_add(caller)

    def note() -> None:
        add.delay(1)

    shop.task(note)

    await shop.run("note", trace=HERE)

    sent, _ = exporter.get_finished_spans()
    assert post.traces == [Trace(written(sent), "vendor=abc")]


def _throwing(error: BaseException) -> Any:
    def note() -> None:
        raise error

    return note
