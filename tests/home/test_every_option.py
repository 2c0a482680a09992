"""Each option of a task does what it says, in each home of the broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qtasks import Context, Flow, QTasks, Queue, Reject, TaskFailed, TaskTimeout, Unique
from qtasks.tasks.options import DECLARED
from tests.support.every_home import HOMES, OURS, MakeApp
from tests.support.homes import SOON_S, until, until_found


@pytest.fixture(params=HOMES)
async def make(request: pytest.FixtureRequest, store: Path) -> MakeApp:
    return partial(HOMES[request.param], store)


@pytest.fixture
async def app(make: MakeApp) -> AsyncIterator[QTasks]:
    async with make(defaults={"retry_delay": 0.001}) as tasks:
        yield tasks


def test_every_option_has_a_test() -> None:
    tests = [name for name in globals() if name.startswith("test_")]

    missing = [each for each in DECLARED if not any(f"_{each}_option_" in name for name in tests)]

    assert missing == ["schedule"]  # which has a file of its own: test_periodic_homes.py


async def ended(result: Any) -> TaskFailed:
    """Wait for a task that fails."""
    with pytest.raises(TaskFailed) as caught:
        await result.aget(SOON_S)
    return caught.value


async def finished(result: Any) -> None:
    await until_state(result, "SUCCEEDED")


async def until_state(result: Any, *states: str) -> str:
    view = await until_found(lambda: result._source.aresult(result.id), lambda found: found.state in states)
    return str(view.state)


# --- what a task is called, and where it waits --------------------------------------------------------


async def test_the_name_option_is_what_messages_call_the_task(app: QTasks) -> None:
    @app.task(name="mail.welcome")
    def function() -> str:
        return "hello"

    assert await (await app.asend("mail.welcome")).aget(SOON_S) == "hello"


async def test_the_aliases_option_finds_a_task_by_its_old_name(app: QTasks) -> None:
    @app.task(name="mail.welcome", aliases=["mail.greet"])
    def function() -> str:
        return "hello"

    assert await (await app.asend("mail.greet")).aget(SOON_S) == "hello"


async def test_the_version_option_is_that_of_the_arguments(app: QTasks) -> None:
    @app.task(version=2)
    def function(number: int) -> int:
        return number

    function.upgrade(from_version=1)(lambda text: {"number": int(text)})
    calls = [await function.adelay(7), await app.asend(function.name, 8)]

    assert [await each.aget(SOON_S) for each in calls] == [7, 8]


async def test_the_bind_option_hands_over_the_context(app: QTasks) -> None:
    @app.task(bind=True)
    def function(context: Context, number: int) -> str:
        return f"{context.attempt} {number}"

    assert await (await function.adelay(5)).aget(SOON_S) == "1 5"


async def test_the_queue_option_says_where_calls_wait(app: QTasks) -> None:
    @app.task(bind=True, queue="mail")
    def function(context: Context) -> str | None:
        return context.queue

    assert await (await function.adelay()).aget(SOON_S) == "mail"
    assert await (await function.with_options(queue="slow").adelay()).aget(SOON_S) == "slow"


async def test_the_label_option_goes_with_the_message(app: QTasks) -> None:
    @app.task(label=["blue", "tall"])
    def function() -> None: ...

    sent = app._caller._sent(function, (), {}, None, None, None).message

    assert sent.options.labels == ("blue", "tall")


# --- retries ------------------------------------------------------------------------------------------


async def test_the_retries_option_bounds_the_attempts(app: QTasks) -> None:
    ran: list[int] = []

    @app.task(retries=2)
    def function() -> None:
        ran.append(1)
        raise ValueError("no")

    error = await ended(await function.adelay())

    assert (len(ran), error.type, error.message) == (3, "ValueError", "no")


@pytest.mark.parametrize(
    "delay",
    [0.001, "0.001s", [0.001, 0.002], "retried + 1", lambda attempt, error: 0.001 * attempt],
    ids=["seconds", "span", "ladder", "expression", "function"],
)
async def test_the_retry_delay_option_takes_every_form(make: MakeApp, delay: Any) -> None:
    async with make() as app:

        @app.task(bind=True, retry_delay=delay, retries=3)
        def function(context: Context) -> int:
            if context.attempt < 3:
                raise ValueError("not yet")
            return context.attempt

        assert await (await function.adelay()).aget(SOON_S) == 3


async def test_the_retry_delay_option_as_a_function_knows_attempt_and_error(app: QTasks) -> None:
    asked: list[tuple[int, str]] = []

    def delay(attempt: int, error: BaseException) -> float:
        asked.append((attempt, str(error)))
        return 0.001

    @app.task(bind=True, retry_delay=delay, retries=2)
    def function(context: Context) -> None:
        raise ValueError(f"attempt {context.attempt}")

    await ended(await function.adelay())

    assert asked == [(1, "attempt 1"), (2, "attempt 2")]


async def test_the_retry_jitter_option_shortens_a_wait_by_chance(make: MakeApp) -> None:
    """All of a day is left to chance, which falls below a hundredth of a second in this test."""
    from qtasks.ids import Ids

    class Lucky(Ids):
        def fraction(self) -> float:
            return 0.9999999

    async with make(ids=Lucky()) as app:

        @app.task(bind=True, retry_delay="1d", retry_jitter=True)
        def function(context: Context) -> int:
            if context.attempt == 1:
                raise ValueError("not yet")
            return context.attempt

        assert await (await function.adelay()).aget(SOON_S) == 2


async def test_the_retry_on_option_names_what_is_tried_again(app: QTasks) -> None:
    ran: list[int] = []

    @app.task(retry_on=OSError, retries=5)
    def function() -> None:
        ran.append(1)
        raise OSError("again") if len(ran) < 3 else ValueError("no more")

    error = await ended(await function.adelay())

    assert (len(ran), error.type) == (3, "ValueError")


async def test_the_no_retry_on_option_has_the_last_word(app: QTasks) -> None:
    ran: list[int] = []

    @app.task(retry_on=OSError, no_retry_on=FileNotFoundError, retries=5)
    def function() -> None:
        ran.append(1)
        raise FileNotFoundError("gone")

    assert ((await ended(await function.adelay())).type, len(ran)) == ("FileNotFoundError", 1)


# --- time ---------------------------------------------------------------------------------------------


async def test_the_timeout_option_cancels_a_coroutine(app: QTasks) -> None:
    cancelled: list[bool] = []

    @app.task(timeout=0.05, retries=0)
    async def function() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    error = await ended(await function.adelay())

    assert (error.type, error.message, cancelled) == (
        "TimeoutError",
        "the task did not finish within 0.05 s",
        [True],
    )


async def test_the_timeout_option_says_where_a_thread_was(app: QTasks) -> None:
    go_on = threading.Event()

    @app.task(timeout=0.05, retries=0)
    def function() -> None:
        go_on.wait(SOON_S)

    error = await ended(await function.adelay())
    go_on.set()

    assert error.message.startswith("the task did not finish within 0.05 s; its thread cannot be stopped")
    assert "go_on.wait(SOON_S)" in error.message
    assert "_serve" not in error.message


async def test_the_expires_option_calls_off_what_is_too_late(make: MakeApp) -> None:
    async with make(queues={"narrow": Queue(parallelism=1)}) as app:
        go_on, ran = asyncio.Event(), []

        @app.task(queue="narrow")
        async def first() -> None:
            await go_on.wait()

        @app.task(queue="narrow", expires=0.1)
        async def late() -> None:
            ran.append("late")

        blocking = await first.adelay()
        await until_state(blocking, "RUNNING")
        result = await late.adelay()
        await asyncio.sleep(0.15)
        go_on.set()
        error = await ended(result)

        # Said by our broker, or by the app to one that does not know.
        assert error.message in ("expired", "the task expired before it could run")
        assert (error.state, ran) == ("EXPIRED", [])


async def test_the_result_ttl_option_of_zero_keeps_no_value(app: QTasks) -> None:
    @app.task(result_ttl=0)
    def function() -> int:
        return 5

    result = await function.adelay()
    await finished(result)

    assert (await result._source.aresult(result.id)).value is None


# --- keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OURS, indirect=True)
async def test_the_dedup_window_option_remembers_a_task_id_for_so_long(app: QTasks) -> None:
    ran: list[int] = []

    @app.task(dedup_window=1)
    def function() -> None:
        ran.append(1)

    for _ in range(2):
        await finished(await function.aapply_async(task_id="once"))
    first = len(ran)
    await asyncio.sleep(1.1)
    await finished(await function.aapply_async(task_id="once"))
    await until(lambda: len(ran) == 2)

    assert first == 1


@pytest.mark.parametrize("make", OURS, indirect=True)
async def test_the_unique_option_gives_the_handle_of_the_call_on_its_way(app: QTasks) -> None:
    go_on = asyncio.Event()
    ran: list[int] = []

    @app.task(unique=True)
    async def function(number: int, size: int = 3) -> int:
        ran.append(number)
        await go_on.wait()
        return number

    first = await function.adelay(1)
    await until(lambda: ran == [1])
    same = await function.adelay(number=1, size=3)
    other = await function.adelay(2)
    go_on.set()
    values = [await each.aget(SOON_S) for each in (first, same, other)]
    after = await function.adelay(1)

    assert (same.id == first.id, values, await after.aget(SOON_S)) == (True, [1, 1, 2], 1)
    assert after.id != first.id


@pytest.mark.parametrize("make", OURS, indirect=True)
async def test_the_unique_option_until_started_lets_the_next_one_wait(app: QTasks) -> None:
    go_on = asyncio.Event()
    ran: list[str] = []

    @app.task(unique=Unique("{user}", until="started"))
    async def function(user: str, note: str) -> None:
        ran.append(note)
        await go_on.wait()

    await function.adelay("ada", "running")
    await until(lambda: ran == ["running"])
    second = await function.adelay("ada", "waiting")
    go_on.set()
    await finished(second)

    assert ran == ["running", "waiting"]


@pytest.mark.parametrize("make", OURS, indirect=True)
async def test_the_unique_option_with_a_window_outlasts_the_call(app: QTasks) -> None:
    @app.task(unique=Unique(until="1h"))
    async def function(number: int) -> int:
        return number

    first = await function.adelay(1)
    await finished(first)
    second = await function.adelay(1)

    assert second.id == first.id


@pytest.mark.parametrize("make", OURS, indirect=True)
async def test_the_unique_option_holds_within_one_batch(app: QTasks) -> None:
    @app.task(unique=True)
    async def function(number: int) -> int:
        return number

    one, two, three = await function.adelay_many([function.call(1), function.call(1), function.call(2)])
    async with app.collect():
        four, five = await function.adelay(7), await function.adelay(7)

    assert (one.id == two.id, one.id == three.id, four.id == five.id) == (True, False, True)
    assert await five.aget(SOON_S) == 7


class Gauge:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    async def visit(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.02)
        self.inside -= 1


async def test_the_exclusive_option_runs_one_at_a_time_for_each_key(app: QTasks) -> None:
    gauges = {"a": Gauge(), "b": Gauge()}
    both = Gauge()

    @app.task(exclusive="{account}")
    async def function(account: str, number: int) -> None:
        await asyncio.gather(gauges[account].visit(), both.visit())

    calls = [function.call(account, n) for n in range(4) for account in gauges]
    for each in await function.adelay_many(calls):
        await each.aget(SOON_S)

    assert ([each.most for each in gauges.values()], both.most) == ([1, 1], 2)


async def test_the_flow_option_bounds_what_runs_at_once(app: QTasks) -> None:
    gauge = Gauge()

    @app.task(bind=True, flow=Flow(parallelism=2, key="tenant:{tenant}"))
    async def function(context: Context, tenant: int, number: int) -> str | None:
        await gauge.visit()
        return context.queue

    results = await function.adelay_many(function.call(7, n) for n in range(6))

    assert ({await each.aget(SOON_S) for each in results}, gauge.most) == ({None}, 2)


async def test_the_flow_option_bounds_how_many_start_in_a_period(app: QTasks) -> None:
    ran: list[int] = []

    @app.task(flow=Flow(rate=2, period="1h"))
    async def function(number: int) -> None:
        ran.append(number)

    results = await function.adelay_many(function.call(n) for n in range(3))
    await until(lambda: len(ran) == 2)
    await asyncio.sleep(0.05)

    assert len(ran) == 2
    assert [(await each._source.aresult(each.id)).state for each in results].count("QUEUED") == 1


# --- what is told of ends -----------------------------------------------------------------------------


async def test_the_on_success_option_is_called_with_the_result(app: QTasks) -> None:
    told: list[Any] = []

    async def hook(context: Context, result: object) -> None:
        told.append((context.task_id, result))

    @app.task(on_success=hook)
    async def function() -> int:
        return 5

    result = await function.adelay()
    await finished(result)

    assert told == [(result.id, 5)]


async def test_the_on_retry_option_is_called_before_each_further_attempt(app: QTasks) -> None:
    told: list[Any] = []

    @app.task(bind=True, on_retry=lambda context, error: told.append((context.attempt, str(error))))
    def function(context: Context) -> None:
        if context.attempt < 3:
            raise ValueError("not yet")

    await finished(await function.adelay())

    assert told == [(1, "not yet"), (2, "not yet")]


async def test_the_on_exhausted_option_is_called_when_no_attempt_is_left(app: QTasks) -> None:
    told: list[str] = []

    @app.task(
        retries=1,
        on_exhausted=lambda context, error: told.append(f"exhausted {context.attempt}"),
        on_failure=lambda context, error: told.append(f"failure {context.attempt}"),
    )
    def function() -> None:
        raise ValueError("no")

    await ended(await function.adelay())

    assert told == ["exhausted 2", "failure 2"]


async def test_the_on_failure_option_alone_is_called_for_what_is_refused(app: QTasks) -> None:
    told: list[str] = []

    @app.task(
        on_exhausted=lambda context, error: told.append("exhausted"),
        on_failure=lambda context, error: told.append(str(error)),
    )
    def function() -> None:
        raise Reject("never")

    await ended(await function.adelay())

    assert told == ["never"]


async def test_the_on_failure_option_hears_of_a_timeout(app: QTasks) -> None:
    told: list[type] = []

    @app.task(timeout=0.02, retries=0, on_failure=lambda context, error: told.append(type(error)))
    async def function() -> None:
        await asyncio.Event().wait()

    await ended(await function.adelay())

    assert told == [TaskTimeout]


async def test_the_log_args_option_is_off_unless_asked_for(app: QTasks) -> None:
    off = app.task(name="off")(lambda_free)
    on = app.task(name="on", log_args=True)(lambda_free)

    assert (off.options.log_args, on.options.log_args) == (False, True)


def lambda_free() -> None:
    """A function of a module."""
