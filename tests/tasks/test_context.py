"""What a running task learns of its own call: as its first argument, and from `current` anywhere."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from qtasks.clock import ManualClock
from qtasks.errors import OutsideTask, TaskDefinitionError
from qtasks.tasks.context import Context, current
from qtasks.tasks.envelope import pack, unpack
from tests.support.tasks import NOW, Workshop, error_of

KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine"])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def shop(clock: ManualClock) -> Workshop:
    return Workshop(clock=clock)


def both(body: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """Make a plain function or a coroutine function of a body."""

    def plain(context: Context, *args: Any) -> Any:
        return body(context, *args)

    async def coroutine(context: Context, *args: Any) -> Any:
        return body(context, *args)

    return plain if kind == "plain" else coroutine


def instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@KINDS
async def test_a_bound_task_gets_its_context_before_its_arguments(shop: Workshop, kind: str) -> None:
    seen: list[tuple[Context, Any]] = []
    shop.task(both(lambda context, *args: seen.append((context, args)), kind), "note", bind=True)
    envelope = shop.envelope("note", 1, "b", queue="mail", start_at=NOW + 5, timeout_ms=2000)

    answer = await shop.executor.execute(shop.delivery(envelope, message_id="msg_7", retried=2))

    [(context, args)] = seen
    assert (answer.status, args) == (200, (1, "b"))
    assert (context.task, context.task_id, context.message_id) == ("note", "tsk_1", "msg_7")
    assert (context.retried, context.attempt, context.queue) == (2, 3, "mail")
    assert (context.enqueued_at, context.scheduled_at) == (instant(NOW), instant(NOW + 5))
    assert context.deadline == instant(NOW + 2000)


@KINDS
async def test_any_task_finds_its_context(shop: Workshop, kind: str) -> None:
    def deep() -> str:
        return current().task_id

    def plain() -> str:
        return deep()

    async def coroutine() -> str:
        return deep()

    shop.task(plain if kind == "plain" else coroutine, "ask")

    answer = await shop.run("ask", id="tsk_42")

    assert answer.body == b'"tsk_42"'


async def test_what_a_task_starts_finds_its_context(shop: Workshop) -> None:
    async def child() -> str:
        return current().task_id

    async def ask() -> list[str]:
        return [await asyncio.create_task(child()), await asyncio.to_thread(lambda: current().task_id)]

    shop.task(ask)

    assert (await shop.run("ask", id="tsk_9")).body == b'["tsk_9","tsk_9"]'


@KINDS
async def test_tasks_at_the_same_time_have_contexts_of_their_own(shop: Workshop, kind: str) -> None:
    meeting = asyncio.Barrier(3)
    loop = asyncio.get_running_loop()

    def plain() -> str:
        asyncio.run_coroutine_threadsafe(meeting.wait(), loop).result(10)
        return current().task_id

    async def coroutine() -> str:
        await meeting.wait()
        return current().task_id

    shop.task(plain if kind == "plain" else coroutine, "ask")
    deliveries = [shop.delivery(shop.envelope("ask", id=f"tsk_{n}"), message_id=f"msg_{n}") for n in range(3)]

    async with asyncio.timeout(10):
        answers = await asyncio.gather(*map(shop.executor.execute, deliveries))

    assert [each.body for each in answers] == [b'"tsk_0"', b'"tsk_1"', b'"tsk_2"']


async def test_a_call_without_a_limit_or_a_wait_has_no_instants_for_them(
    shop: Workshop,
) -> None:
    def note(context: Context) -> None:
        shop.ran.append((context.scheduled_at, context.deadline, context.queue, context.remaining()))

    shop.task(note, bind=True)

    await shop.run("note")

    assert shop.ran == [(None, None, None, math.inf)]


@KINDS
async def test_what_remains_shrinks_to_nothing_as_time_goes_by(
    shop: Workshop, clock: ManualClock, kind: str
) -> None:
    def body(context: Context) -> list[float]:
        found = [context.remaining()]
        for ms in (500, 1000, 1000):
            clock.advance(ms)
            found.append(context.remaining())
        return found

    shop.task(both(body, kind), "note", bind=True)

    answer = await shop.run("note", timeout_ms=2000)

    assert answer.body == b"[2.0,1.5,0.5,0.0]"


async def test_the_time_of_a_plain_function_begins_when_it_has_a_thread(clock: ManualClock) -> None:
    shop = Workshop(clock=clock, threads=1)
    is_running, may_end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(is_running.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)

    def note(context: Context) -> float:
        return context.remaining()

    shop.task(hold)
    shop.task(note, bind=True)
    first = asyncio.create_task(shop.run("hold"))
    await is_running.wait()
    envelope = shop.envelope("note", timeout_ms=60_000)
    second = asyncio.create_task(shop.executor.execute(shop.delivery(envelope, message_id="msg_2")))
    await asyncio.sleep(0)
    clock.advance(30_000)
    may_end.set()
    await first

    assert (await second).body == b"60.0"


@KINDS
@pytest.mark.parametrize(
    ("countdown", "headers"),
    [(None, ()), (30, (("Retry-After", "30"),)), ("1m", (("Retry-After", "60"),))],
)
async def test_a_task_asks_for_a_retry_through_its_context(
    shop: Workshop, kind: str, countdown: Any, headers: Any
) -> None:
    shop.task(both(lambda context: context.retry(countdown=countdown), kind), "note", bind=True)

    answer = await shop.run("note")

    assert (answer.status, answer.headers) == (503, headers)
    assert (error_of(answer)["type"], error_of(answer)["message"]) == ("Retry", "retry requested")


async def test_a_retry_says_what_it_was_asked_for(shop: Workshop) -> None:
    def note() -> None:
        try:
            raise ConnectionError("the line is dead")
        except ConnectionError as error:
            current().retry(error, countdown=5)

    shop.task(note, retry_on=())

    error = error_of(await shop.run("note"))

    assert error["message"] == "retry requested after ConnectionError: the line is dead"
    assert "ConnectionError: the line is dead" in error["traceback"]


async def test_a_retry_that_would_wait_too_long_is_an_error_of_the_task(shop: Workshop) -> None:
    shop.task(both(lambda context: context.retry(countdown="367d"), "plain"), "note", bind=True)

    answer = await shop.run("note")

    assert (answer.status, error_of(answer)["type"]) == (500, "ValueError")
    assert "from 0 seconds up to 366 days" in error_of(answer)["message"]


def test_there_is_no_context_outside_a_task() -> None:
    with pytest.raises(OutsideTask, match=r"no task is running here.*task\.function\(context, \.\.\.\)"):
        current()


@KINDS
async def test_the_context_ends_with_its_task(shop: Workshop, kind: str) -> None:
    shop.task(both(lambda context: shop.ran.append(context), kind), "note", bind=True)

    await shop.run("note")

    assert len(shop.ran) == 1
    with pytest.raises(OutsideTask):
        current()


async def test_a_bound_task_that_is_called_plainly_takes_the_context_that_is_there(shop: Workshop) -> None:
    def inner(context: Context, number: int) -> str:
        return f"{context.task_id} {number}"

    def outer() -> str:
        task = shop.registry.find("inner")
        assert task is not None
        return str(task(5))

    shop.task(inner, bind=True)
    shop.task(outer)
    task = shop.registry.find("inner")
    assert task is not None

    assert (await shop.run("outer", id="tsk_8")).body == b'"tsk_8 5"'
    with pytest.raises(OutsideTask):
        task(5)


def test_the_context_is_no_argument_of_calls(shop: Workshop) -> None:
    def note(context: Context, number: int) -> None: ...

    shop.task(note, bind=True)
    task = shop.registry.find("note")
    assert task is not None

    assert task.signature.encode((1,), {}) == ([1], {})
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        task.signature.encode((1, 2), {})


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        (True, r"none\(\) needs a first positional parameter, for the context"),
        (1, "task none: bind=1 is not possible; it is True or False"),
    ],
)
def test_a_binding_that_cannot_be_is_refused(shop: Workshop, bind: Any, text: str) -> None:
    def none() -> None: ...

    with pytest.raises(TaskDefinitionError, match=text):
        shop.task(none, bind=bind)


def test_a_context_that_nothing_fills_in_is_refused_and_the_option_named(shop: Workshop) -> None:
    def note(context: Context) -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"note\(\) takes a Context: .*@task\(bind=True\)"):
        shop.task(note)


def test_queue_and_instant_travel_in_the_envelope_if_there_are_any(shop: Workshop) -> None:
    full = unpack(pack(shop.envelope("note", queue="mail", start_at=NOW)))

    assert (full.queue, full.start_at) == ("mail", NOW)
    assert b'"queue"' not in pack(shop.envelope("note"))
