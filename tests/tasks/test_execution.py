"""What is answered to one execution: the outcome table, and what a task cannot do to its process."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from qtasks.clock import ManualClock
from qtasks.errors import Reject, Retry
from qtasks.tasks.answers import Answer
from qtasks.tasks.options import Layers
from tests.support.tasks import Workshop, error_of

SOON_S = 10
SHORT_MS = 30


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def both(body: Callable[[], Any]) -> list[Callable[[], Any]]:
    """Make a plain function and a coroutine function of the same body."""

    def plain() -> Any:
        return body()

    async def coroutine() -> Any:
        return body()

    return [plain, coroutine]


def throwing(error: BaseException) -> Callable[[], Any]:
    def body() -> None:
        raise error

    return body


async def outcome(shop: Workshop, function: Callable[..., Any], *args: Any, **changes: Any) -> Answer:
    """Run a function as a task."""
    shop.task(function)
    async with asyncio.timeout(SOON_S):
        return await shop.run(function.__name__, *args, **changes)


KINDS = pytest.mark.parametrize("kind", [0, 1], ids=["plain", "coroutine"])


# --- returned -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", [1, "a"], {"a": None}])
async def test_what_a_task_returns_is_answered_as_json(shop: Workshop, kind: int, value: Any) -> None:
    answer = await outcome(shop, both(lambda: value)[kind])

    assert (answer.status, orjson.loads(answer.body), answer.headers) == (200, value, ())


async def test_arguments_arrive_as_they_were_annotated(shop: Workshop) -> None:
    def note(at: datetime, span: timedelta) -> str:
        shop.ran.append((at, span))
        return "ok"

    shop.task(note)
    at, span = datetime(2024, 5, 1, 12, tzinfo=UTC), timedelta(seconds=90)
    task = shop.registry.find("note")
    assert task is not None
    args, kwargs = task.signature.encode((at,), {"span": span})

    await shop.run("note", *args, kwargs=kwargs)

    assert shop.ran == [(at, span)]


async def test_a_coroutine_runs_on_the_loop_of_the_app(shop: Workshop) -> None:
    async def note() -> None:
        shop.ran.append(asyncio.get_running_loop())

    await outcome(shop, note)

    assert shop.ran == [asyncio.get_running_loop()]


async def test_a_plain_function_runs_on_a_thread_that_does_not_hold_up_the_end(shop: Workshop) -> None:
    def note() -> None:
        thread = threading.current_thread()
        shop.ran.append((thread.daemon, thread.name.startswith("qtasks-task-")))

    await outcome(shop, note)

    assert shop.ran == [(True, True)]


async def test_as_many_plain_functions_run_at_once_as_there_are_threads_and_no_more() -> None:
    shop = Workshop(threads=2)
    lock, pair = threading.Lock(), threading.Barrier(2)
    inside, most = 0, 0

    def meet() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        pair.wait(SOON_S)
        with lock:
            inside -= 1
        pair.wait(SOON_S)

    shop.task(meet)
    envelope = shop.envelope("meet")
    runs = [shop.executor.execute(shop.delivery(envelope, message_id=f"msg_{n}")) for n in range(6)]

    async with asyncio.timeout(SOON_S):
        assert {each.status for each in await asyncio.gather(*runs)} == {200}
    assert most == 2


async def test_a_plain_function_that_takes_long_leaves_the_loop_free(shop: Workshop) -> None:
    may_end = threading.Event()

    def slow() -> bool:
        return may_end.wait(SOON_S)

    asyncio.get_running_loop().call_soon(may_end.set)
    answer = await outcome(shop, slow)

    assert orjson.loads(answer.body) is True


async def test_a_coroutine_that_a_decorator_hides_is_told_apart_from_a_result(shop: Workshop) -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @traced
    async def note() -> int:
        return 1

    answer = await outcome(shop, note)

    assert (answer.status, error_of(answer)["type"]) == (489, "TaskDefinitionError")
    assert "note is async inside a decorator that is not" in error_of(answer)["message"]


# --- raised ---------------------------------------------------------------------------------------


@KINDS
async def test_a_task_that_raises_is_answered_with_what_it_raised(shop: Workshop, kind: int) -> None:
    answer = await outcome(shop, both(throwing(LookupError("no such order")))[kind])

    assert (answer.status, answer.headers) == (500, ())
    error = error_of(answer)
    assert (error["type"], error["message"]) == ("LookupError", "no such order")


@KINDS
async def test_a_traceback_shows_the_task_s_own_lines_and_none_of_ours(shop: Workshop, kind: int) -> None:
    answer = await outcome(shop, both(throwing(LookupError("no such order")))[kind])

    trace = error_of(answer)["traceback"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.rstrip().endswith("LookupError: no such order")
    assert "test_execution.py" in trace
    assert "in body\n    raise error" in trace
    assert "qtasks/tasks" not in trace


async def test_a_traceback_shows_the_cause(shop: Workshop) -> None:
    def fails() -> None:
        try:
            raise KeyError("order")
        except KeyError as error:
            raise LookupError("no such order") from error

    trace = error_of(await outcome(shop, fails))["traceback"]

    assert "KeyError: 'order'" in trace
    assert "direct cause" in trace


@KINDS
@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        StopIteration(7),
        StopAsyncIteration(),
        asyncio.CancelledError(),
        TimeoutError("my own"),
        MemoryError(),
        RecursionError("too deep"),
        ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
        BaseException("odd"),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_whatever_a_task_raises_is_its_own_failure(
    shop: Workshop, kind: int, error: BaseException
) -> None:
    answer = await outcome(shop, both(throwing(error))[kind])

    assert answer.status == 500
    assert shop.executor.running == 0


@KINDS
async def test_a_task_that_has_failed_oddly_can_run_again(shop: Workshop, kind: int) -> None:
    errors = iter([SystemExit(1), asyncio.CancelledError()])

    def body() -> str:
        error = next(errors, None)
        if error is not None:
            raise error
        return "done"

    function = both(body)[kind]
    await outcome(shop, function)
    await shop.run(function.__name__)

    assert (await shop.run(function.__name__)).status == 200


@KINDS
async def test_an_error_that_cannot_be_printed_is_a_failure_like_any_other(shop: Workshop, kind: int) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    answer = await outcome(shop, both(throwing(Unprintable()))[kind])

    assert (answer.status, error_of(answer)["type"]) == (500, "Unprintable")


async def test_an_error_of_any_length_is_answered_in_bounds(shop: Workshop) -> None:
    answer = await outcome(shop, both(throwing(ValueError("x" * 1_000_000)))[0])

    assert len(answer.body) < 40_000
    assert error_of(answer)["message"].startswith("xxx")


async def test_a_long_traceback_keeps_its_end(shop: Workshop) -> None:
    def fails(depth: int = 200) -> None:
        if depth:
            eval("fails(depth - 1)", {"fails": fails, "depth": depth})  # frames that are all different
        raise LookupError("at the bottom")

    trace = error_of(await outcome(shop, fails))["traceback"]

    assert len(trace) <= 16_384
    assert trace.rstrip().endswith("LookupError: at the bottom")


@pytest.mark.parametrize("text", ["J\u00fcrgen \u2603", "\ud800", "a\x00b", "\x1b[31m", "\U0001f600"])
async def test_an_error_of_any_characters_can_be_sent(
    shop: Workshop, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "qtasks.task")  # what is captured may have to travel between processes

    answer = await outcome(shop, both(throwing(ValueError(text)))[0])

    assert answer.status == 500
    assert error_of(answer)["type"] == "ValueError"


SECRETS = ("sig_very_secret_key", "token-of-the-broker")


@KINDS
async def test_secrets_do_not_leave_in_an_error(kind: int) -> None:
    shop = Workshop(redact=(*SECRETS, ""))
    error = ValueError(f"cannot reach https://broker?qstash_token={SECRETS[1]} with {SECRETS[0]}")

    answer = await outcome(shop, both(throwing(error))[kind])

    assert not any(each.encode() in answer.body for each in SECRETS)
    assert error_of(answer)["message"] == "cannot reach https://broker?qstash_token=*** with ***"
    assert "***" in error_of(answer)["traceback"]


async def test_secrets_do_not_leave_at_the_cut_of_a_long_error() -> None:
    shop = Workshop(redact=SECRETS)
    error = ValueError("x" * (4096 - 10) + SECRETS[0])

    answer = await outcome(shop, both(throwing(error))[0])

    assert SECRETS[0][:8].encode() not in answer.body


# --- control flow ---------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    ("after", "header"),
    [(30, "30"), (0, "0"), (0.5, "0.5"), (timedelta(minutes=5), "300"), (86_400, "86400")],
)
async def test_a_task_can_ask_to_be_run_again_later(
    shop: Workshop, kind: int, after: float | timedelta, header: str
) -> None:
    answer = await outcome(shop, both(throwing(Retry("rate limited", after=after)))[kind])

    assert (answer.status, answer.headers) == (503, (("Retry-After", header),))
    assert error_of(answer)["message"] == "rate limited"


async def test_a_retry_without_a_time_leaves_the_time_to_the_broker(shop: Workshop) -> None:
    answer = await outcome(shop, both(throwing(Retry()))[0])

    assert (answer.status, answer.headers) == (503, ())


@KINDS
async def test_a_task_can_ask_never_to_be_run_again(shop: Workshop, kind: int) -> None:
    answer = await outcome(shop, both(throwing(Reject("card is stolen")))[kind])

    assert (answer.status, answer.headers) == (489, (("Upstash-NonRetryable-Error", "true"),))
    assert (error_of(answer)["type"], error_of(answer)["message"]) == ("Reject", "card is stolen")


class Lost(ConnectionError):
    """A connection that will not come back."""


@KINDS
@pytest.mark.parametrize(
    ("options", "error", "status"),
    [
        ({}, ValueError("x"), 500),
        ({"retry_on": ConnectionError}, ConnectionError("x"), 500),
        ({"retry_on": ConnectionError}, Lost("x"), 500),
        ({"retry_on": [ConnectionError, ValueError]}, ValueError("x"), 500),
        ({"retry_on": ConnectionError}, ValueError("x"), 489),
        ({"retry_on": ()}, ValueError("x"), 489),
        ({"no_retry_on": ValueError}, ValueError("x"), 489),
        ({"no_retry_on": ValueError}, KeyError("x"), 500),
        ({"retry_on": ConnectionError, "no_retry_on": Lost}, ConnectionError("x"), 500),
        ({"retry_on": ConnectionError, "no_retry_on": Lost}, Lost("x"), 489),
        ({"retry_on": Lost, "no_retry_on": ConnectionError}, Lost("x"), 489),
        ({"retry_on": ValueError}, Retry("again"), 503),
        ({"retry_on": Exception}, Reject("never"), 489),
    ],
)
async def test_exception_types_decide_whether_a_task_is_worth_another_attempt(
    shop: Workshop, kind: int, options: dict[str, Any], error: Exception, status: int
) -> None:
    function = both(throwing(error))[kind]
    shop.task(function, **options)

    answer = await shop.run(function.__name__)

    expected = (("Upstash-NonRetryable-Error", "true"),) if status == 489 else ()
    assert (answer.status, answer.headers) == (status, expected)
    assert error_of(answer)["type"] == type(error).__name__


async def test_a_task_that_is_out_of_time_counts_as_a_timeout_error(shop: Workshop) -> None:
    async def wait() -> None:
        await asyncio.sleep(SOON_S)

    shop.task(wait, no_retry_on=TimeoutError)
    shop.task(wait, "patient", retry_on=TimeoutError)

    answers = [await shop.run(name, timeout_ms=SHORT_MS) for name in ("wait", "patient")]

    assert [(each.status, error_of(each)["type"]) for each in answers] == [
        (489, "TimeoutError"),
        (504, "TimeoutError"),
    ]


async def test_what_the_app_says_of_exceptions_holds_for_tasks_that_say_nothing() -> None:
    shop = Workshop(layers=Layers(app={"no_retry_on": (ValueError,)}))
    function = both(throwing(ValueError("x")))[0]
    shop.task(function)
    shop.task(function, "stubborn", no_retry_on=())

    answers = [await shop.run(name) for name in (function.__name__, "stubborn")]

    assert [each.status for each in answers] == [489, 500]


# --- calls that cannot be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, 2, 3), {}),
        (("x",), {}),
        ((1,), {"amount": 2}),
        ((1,), {"unknown": 2}),
        ((None,), {}),
        (({"a": 1},), {}),
    ],
    ids=["missing", "too many", "wrong type", "twice", "unknown", "null", "object"],
)
async def test_arguments_that_do_not_fit_are_refused_for_good_and_nothing_runs(
    shop: Workshop, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    def charge(amount: int) -> None:
        shop.ran.append(amount)

    answer = await outcome(shop, charge, *args, kwargs=kwargs)

    assert (answer.status, shop.ran) == (489, [])
    assert answer.headers == (("Upstash-NonRetryable-Error", "true"),)
    assert error_of(answer)["type"] == "DecodeError"
    assert "charge" in error_of(answer)["message"]


@KINDS
async def test_a_result_that_cannot_travel_is_a_failure_for_good(shop: Workshop, kind: int) -> None:
    answer = await outcome(shop, both(object)[kind])

    assert (answer.status, answer.headers) == (489, (("Upstash-NonRetryable-Error", "true"),))
    assert error_of(answer)["type"] == "EncodeError"
    assert "its result cannot be sent" in error_of(answer)["message"]


# --- time -----------------------------------------------------------------------------------------


async def test_a_coroutine_that_takes_too_long_is_cancelled_and_answered(shop: Workshop) -> None:
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            shop.ran.append("cancelled")

    answer = await outcome(shop, slow, timeout_ms=SHORT_MS)

    assert (answer.status, shop.ran, shop.executor.running) == (504, ["cancelled"], 0)
    error = error_of(answer)
    assert (error["type"], error["message"]) == ("TimeoutError", "the task did not finish within 0.03 s")


class Stuck:
    """A plain function that runs until it is let go; by its start, `SHORT_MS` of the clock have passed."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.may_end = threading.Event()
        self.ends = 0

    def __call__(self) -> None:
        self.clock.advance(SHORT_MS)
        self.may_end.wait(SOON_S)
        self.ends += 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_a_plain_function_that_takes_too_long_is_answered_and_goes_on(clock: ManualClock) -> None:
    shop, stuck = Workshop(clock=clock), Stuck(clock)

    def slow() -> None:
        stuck()

    answer = await outcome(shop, slow, timeout_ms=SHORT_MS)

    assert (answer.status, error_of(answer)["type"]) == (504, "TimeoutError")
    assert (shop.executor.running, stuck.ends) == (1, 0)
    stuck.may_end.set()


async def test_what_still_runs_after_its_time_is_not_started_beside_itself(clock: ManualClock) -> None:
    shop, stuck = Workshop(clock=clock), Stuck(clock)

    def slow() -> None:
        stuck()

    await outcome(shop, slow, timeout_ms=SHORT_MS)

    again = await shop.run("slow")
    stuck.may_end.set()

    assert (again.status, dict(again.headers)["Qtasks-Uncounted"]) == (409, "running")


async def test_waiting_for_a_free_thread_does_not_count_as_running() -> None:
    shop = Workshop(threads=1)
    may_end = threading.Event()

    def slow() -> None:
        may_end.wait(SOON_S)

    def quick() -> str:
        return "done"

    shop.task(slow)
    shop.task(quick)
    first = asyncio.ensure_future(shop.run("slow"))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(
        shop.executor.execute(shop.delivery(shop.envelope("quick", timeout_ms=SHORT_MS), message_id="msg_2"))
    )

    done, _ = await asyncio.wait({second}, timeout=3 * SHORT_MS / 1000)
    may_end.set()

    assert not done
    assert [(await first).status, (await second).status] == [200, 200]


async def test_a_task_without_a_limit_is_waited_for(shop: Workshop) -> None:
    async def note() -> str:
        return "done"

    assert (await outcome(shop, note, timeout_ms=None)).status == 200


# --- one at a time --------------------------------------------------------------------------------


async def test_a_message_that_is_running_here_is_sent_back_without_spending_an_attempt(
    shop: Workshop,
) -> None:
    may_end = asyncio.Event()

    async def slow() -> None:
        shop.ran.append("started")
        await may_end.wait()

    shop.task(slow)
    first = asyncio.ensure_future(shop.run("slow"))
    await asyncio.sleep(0)

    again = await shop.run("slow")
    may_end.set()

    assert (again.status, dict(again.headers)) == (409, {"Qtasks-Uncounted": "running", "Retry-After": "5"})
    assert ((await first).status, shop.ran) == (200, ["started"])


async def test_a_message_that_has_ended_may_run_again(shop: Workshop) -> None:
    async def note() -> None:
        shop.ran.append("ran")

    await outcome(shop, note)
    await shop.run("note")

    assert (shop.ran, shop.executor.running) == (["ran", "ran"], 0)


async def test_different_messages_run_side_by_side(shop: Workshop) -> None:
    barrier = asyncio.Barrier(3)

    async def meet() -> None:
        await barrier.wait()

    shop.task(meet)
    envelope = shop.envelope("meet")
    runs = [shop.executor.execute(shop.delivery(envelope, message_id=f"msg_{n}")) for n in range(3)]

    async with asyncio.timeout(SOON_S):
        assert {each.status for each in await asyncio.gather(*runs)} == {200}


async def test_an_app_that_is_shutting_down_sends_back_without_spending_an_attempt(shop: Workshop) -> None:
    async def note() -> None:
        shop.ran.append("ran")

    shop.executor.is_draining = True
    answer = await outcome(shop, note)

    assert (answer.status, dict(answer.headers)) == (
        503,
        {"Qtasks-Uncounted": "draining", "Retry-After": "1"},
    )
    assert shop.ran == []


async def test_an_app_that_is_shutting_down_lets_what_runs_end(shop: Workshop) -> None:
    may_end = asyncio.Event()

    async def slow() -> str:
        await may_end.wait()
        return "done"

    shop.task(slow)
    running = asyncio.ensure_future(shop.run("slow"))
    await asyncio.sleep(0)

    shop.executor.is_draining = True
    may_end.set()

    assert (await running).status == 200


async def test_a_delivery_that_is_cancelled_cancels_its_coroutine(shop: Workshop) -> None:
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            shop.ran.append("cancelled")

    shop.task(slow)
    running = asyncio.ensure_future(shop.run("slow"))
    await asyncio.sleep(0)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (shop.ran, shop.executor.running) == (["cancelled"], 0)
