"""An app's tasks in one process with their broker: called every way there is, and how they end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

import pytest

from qtasks import (
    ArgumentsError,
    EncodeError,
    QTasks,
    Reject,
    ResultError,
    ResultTimeout,
    Retry,
    TaskFailed,
)
from qtasks.client import calls
from qtasks.errors import WaitRefused
from tests.support.homes import SOON_S, ask_owner, embedded, until_found


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass(frozen=True)
class Line:
    price: Decimal
    size: Size


@dataclass(frozen=True)
class Order:
    id: UUID
    made_at: datetime
    due_on: date
    patience: timedelta
    seal: bytes
    lines: list[Line]
    note: str | None = None


ORDER = Order(
    id=UUID("6f8f1f0a-95a8-4a05-a9a1-5a0d8f2f3c11"),
    made_at=datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    due_on=date(2028, 2, 29),
    patience=timedelta(days=3, microseconds=1),
    seal=b"\x00\xff",
    lines=[Line(Decimal("0.10"), Size.SMALL), Line(Decimal("1E+3"), Size.LARGE)],
)


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    """An app that runs, on the loop of the test."""
    tasks = embedded(store)
    async with tasks.lifespan():
        yield tasks


def list_folder(store: Path) -> list[Path]:
    """List what has been made in the store's folder."""
    return list(store.parent.iterdir())


# --- ways to call -----------------------------------------------------------------------------------


async def test_a_call_inside_a_running_loop_is_executed(app: QTasks) -> None:
    @app.task
    async def add(a: int, b: int = 1) -> int:
        return a + b

    result = add.delay(1, b=2)

    assert await result.aget(SOON_S) == 3


async def test_a_call_that_is_awaited_is_executed(app: QTasks) -> None:
    @app.task
    async def add(a: int, b: int = 1) -> int:
        return a + b

    result = await add.adelay(1)

    assert await result.aget(SOON_S) == 2


async def test_a_plain_thread_calls_a_task_and_waits_for_its_result(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    assert await asyncio.to_thread(lambda: double.delay(21).get(SOON_S)) == 42


async def test_a_coroutine_function_runs_on_the_app_s_own_loop(app: QTasks) -> None:
    found: list[object] = []

    @app.task
    async def look() -> None:
        found.append(asyncio.get_running_loop())

    await look.delay().aget(SOON_S)

    assert found == [asyncio.get_running_loop()]


async def test_a_plain_function_runs_on_a_thread_of_its_own(app: QTasks) -> None:
    found: list[threading.Thread] = []

    @app.task
    def look() -> None:
        found.append(threading.current_thread())

    await look.delay().aget(SOON_S)

    [thread] = found
    assert thread is not threading.current_thread()
    assert thread.daemon


async def test_a_plain_function_may_wait_for_what_the_loop_does(app: QTasks) -> None:
    loop = asyncio.get_running_loop()

    @app.task
    def ask() -> str:
        return asyncio.run_coroutine_threadsafe(answer(), loop).result(SOON_S)

    async def answer() -> str:
        return "from the loop"

    assert await ask.delay().aget(SOON_S) == "from the loop"


async def test_no_more_plain_functions_run_at_once_than_there_are_threads(store: Path) -> None:
    tasks = embedded(store, threads=2)
    lock, most, running = threading.Lock(), 0, 0

    @tasks.task
    def work() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1

    async with tasks.lifespan():
        await asyncio.gather(*(work.delay().aget(SOON_S) for _ in range(8)))

    assert most == 2


async def test_a_task_may_call_another_task(app: QTasks) -> None:
    @app.task
    async def inner(number: int) -> int:
        return number + 1

    @app.task
    async def outer() -> str:
        return (await inner.adelay(1)).id

    inner_id = await outer.delay().aget(SOON_S)

    assert await app.result(inner_id).aget(SOON_S) == 2


async def test_calling_a_task_plainly_is_calling_the_function(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tasks.task(queue="mail")
    async def later(text: str) -> str:
        return text

    assert add(1, 2) == 3
    assert await later("now") == "now"
    assert (add.__name__, add.__doc__) == ("add", "Add two numbers.")
    assert list_folder(store) == []


# --- values there and back --------------------------------------------------------------------------


async def test_arguments_and_result_come_back_as_what_they_were(app: QTasks) -> None:
    seen: list[Order] = []

    @app.task
    async def confirm(order: Order) -> Order:
        seen.append(order)
        return order

    came_back = await confirm.delay(ORDER).aget(SOON_S)

    assert seen == [ORDER]
    assert came_back == ORDER
    assert came_back.made_at.utcoffset() == timedelta(hours=5, minutes=30)
    assert str(came_back.lines[1].price) == "1E+3"


async def test_a_task_without_annotations_takes_and_gives_plain_json(app: QTasks) -> None:
    @app.task
    def echo(value):  # type: ignore[no-untyped-def]  # it is what this test is about
        return value

    value = {"a": [1, 2.5, None, True, "é"], "b": {}}

    assert await echo.delay(value).aget(SOON_S) == value


async def test_a_result_of_none_is_a_result(app: QTasks) -> None:
    @app.task
    async def nothing() -> None:
        return None

    result = nothing.delay()

    assert await result.aget(SOON_S) is None  # type: ignore[func-returns-value]  # None is the point
    assert result.successful()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda task: task.delay(), r"missing.*'a'"),
        (lambda task: task.delay(1, 2, 3), "takes 2 positional arguments but 3 were given"),
        (lambda task: task.delay(1, c=3), "unexpected keyword argument 'c'"),
        (lambda task: task.delay("one"), "a: expected int, got str"),
        (lambda task: task.apply_async([1], countdown=1, eta=datetime.now(UTC)), "either countdown or eta"),
        (lambda task: task.apply_async([1], countdown=-1), "countdown=-1"),
        (lambda task: task.apply_async([1], eta=datetime(2030, 1, 1)), "has no time zone"),  # noqa: DTZ001
    ],
)
def test_a_call_that_cannot_be_is_refused_before_anything_is_made(
    store: Path, call: Callable[[object], object], text: str
) -> None:
    tasks = embedded(store)

    @tasks.task
    def add(a: int, b: int = 1) -> int:
        return a + b

    with pytest.raises((ArgumentsError, EncodeError), match=text):
        call(add)

    assert list_folder(store) == []


# --- when -------------------------------------------------------------------------------------------


async def test_a_countdown_is_waited_for(app: QTasks) -> None:
    @app.task
    async def now() -> float:
        return time.time()

    before = time.time()
    result = now.apply_async(countdown=0.2)

    assert result.state == "SCHEDULED"
    assert not result.ready()
    assert 0.199 <= await result.aget(SOON_S) - before < 2


async def test_an_eta_in_any_time_zone_names_the_same_instant(app: QTasks) -> None:
    @app.task
    async def now() -> float:
        return time.time()

    at = datetime.now(timezone(timedelta(hours=-9))) + timedelta(milliseconds=200)
    result = now.apply_async(eta=at)

    assert result.state == "SCHEDULED"
    assert 0 <= await result.aget(SOON_S) - at.timestamp() + 0.001 < 2


async def test_an_eta_that_has_passed_is_now(app: QTasks) -> None:
    @app.task
    async def one() -> int:
        return 1

    assert await one.apply_async(eta=datetime(2020, 1, 1, tzinfo=UTC)).aget(SOON_S) == 1


async def test_a_task_id_given_twice_enqueues_once(app: QTasks) -> None:
    runs: list[int] = []

    @app.task
    async def run(number: int) -> int:
        runs.append(number)
        return number

    first = run.apply_async([1], task_id="invoice-17")
    second = run.apply_async([2], task_id="invoice-17")

    assert first.id == second.id == "invoice-17"
    assert await first.aget(SOON_S) == await second.aget(SOON_S) == 1
    assert runs == [1]


async def test_a_kept_task_id_leads_to_the_result_as_plain_json(app: QTasks) -> None:
    @app.task
    async def when() -> datetime:
        return ORDER.made_at

    id_ = when.delay().id

    assert await app.result(id_).aget(SOON_S) == ORDER.made_at.isoformat()


# --- how it ends ------------------------------------------------------------------------------------


async def test_a_task_that_asks_for_it_is_run_again(app: QTasks) -> None:
    runs: list[float] = []

    @app.task
    async def stubborn() -> int:
        runs.append(time.monotonic())
        if len(runs) < 3:
            raise Retry("not yet", after=timedelta(milliseconds=100))
        return len(runs)

    assert await stubborn.delay().aget(SOON_S) == 3
    assert runs[1] - runs[0] >= 0.095
    assert runs[2] - runs[1] >= 0.095


async def test_a_task_that_asks_for_more_than_its_retries_has_failed(app: QTasks) -> None:
    @app.task(retries=1)
    async def stubborn() -> None:
        raise Retry("not yet", after=0.01)

    with pytest.raises(TaskFailed) as caught:
        await stubborn.delay().aget(SOON_S)

    assert (caught.value.type, caught.value.message) == ("Retry", "not yet")


async def test_a_task_that_is_rejected_is_never_run_again(app: QTasks, store: Path) -> None:
    runs: list[int] = []

    @app.task(retries=5, retry_delay=0.01)
    def hopeless() -> None:
        runs.append(1)
        raise Reject("no such customer")

    result = hopeless.delay()
    with pytest.raises(TaskFailed) as caught:
        await result.aget(SOON_S)

    assert (caught.value.type, caught.value.message, caught.value.state) == (
        "Reject",
        "no such customer",
        "FAILED",
    )
    assert runs == [1]
    [dead] = ask_owner(store, calls.dead_letters()).items
    assert dead.response_status == 489
    assert b"no such customer" in dead.response_body


async def test_a_task_that_fails_is_run_again_after_its_delay(app: QTasks) -> None:
    runs: list[int] = []

    @app.task(retries=2, retry_delay=0.02)
    def flaky() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise OSError("not now")
        return len(runs)

    assert await flaky.delay().aget(SOON_S) == 3


async def test_a_failure_says_what_happened_where_it_ran(app: QTasks) -> None:
    @app.task(retries=0)
    async def divide(number: int) -> float:
        return number / 0

    result = divide.delay(1)
    with pytest.raises(
        TaskFailed, match=rf"task {result.id} is FAILED: ZeroDivisionError: division by zero"
    ) as caught:
        await result.aget(SOON_S)

    error = caught.value
    assert (error.task_id, error.state, error.type) == (result.id, "FAILED", "ZeroDivisionError")
    assert error.traceback is not None
    assert "return number / 0" in error.traceback
    assert "qtasks/" not in error.traceback.replace(str(Path(__file__)), "")
    assert (result.ready(), result.failed(), result.successful()) == (True, True, False)


async def test_a_task_that_exits_has_failed_and_the_app_goes_on(app: QTasks) -> None:
    @app.task(retries=0)
    def leave() -> None:
        raise SystemExit(3)

    @app.task
    async def one() -> int:
        return 1

    with pytest.raises(TaskFailed, match="SystemExit: 3"):
        await leave.delay().aget(SOON_S)

    assert await one.delay().aget(SOON_S) == 1


async def test_a_result_that_cannot_be_sent_is_a_failure_that_is_not_repeated(app: QTasks) -> None:
    runs: list[int] = []

    @app.task(retries=3, retry_delay=0.01)
    async def odd() -> object:
        runs.append(1)
        return object()

    with pytest.raises(TaskFailed, match="EncodeError") as caught:
        await odd.delay().aget(SOON_S)

    assert (
        "ran, but its result cannot be sent: result: expected a JSON value, got object"
        in caught.value.message
    )
    assert runs == [1]


async def test_a_task_that_nobody_here_knows_waits_and_says_so(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = embedded(store)

    @before.task(name="moved")
    async def moved() -> None: ...

    result = moved.delay()
    now = embedded(store)
    async with now.lifespan():
        log = await until_found(
            lambda: asyncio.to_thread(ask_owner, store, calls.log()),
            lambda found: any(each.state == "RETRY" for each in found.items),
        )

    [retry] = [each for each in log.items if each.state == "RETRY"]
    assert retry.next_delivery_time is not None
    assert retry.next_delivery_time - retry.time == 10_000
    assert result.state == "SCHEDULED"  # no attempt is spent
    [said] = [each for each in caplog.records if each.name == "qtasks.task"]
    assert said.getMessage() == "task is not here, will retry"
    assert said.__dict__["task"] == "moved"


async def test_a_task_id_that_nobody_knows_is_unknown(app: QTasks) -> None:
    result = app.result("tsk_nobody")

    assert (result.state, result.ready(), result.failed()) == ("UNKNOWN", False, False)
    with pytest.raises(
        ResultError, match="nobody knows task tsk_nobody: it was never accepted, or forgotten"
    ):
        await result.aget(SOON_S)


async def test_a_result_that_is_not_to_be_kept_is_not(app: QTasks) -> None:
    @app.task(result_ttl=0)
    async def one() -> int:
        return 1

    result = one.delay()
    with pytest.raises(ResultError, match="succeeded, but its result is not kept"):
        await result.aget(SOON_S)

    assert result.successful()


async def test_waiting_ends_in_time_and_the_task_goes_on(app: QTasks) -> None:
    gate = asyncio.Event()

    @app.task
    async def slow() -> str:
        await gate.wait()
        return "done"

    result = slow.delay()
    with pytest.raises(ResultTimeout, match=rf"task {result.id} is still \w+ after 0\.05 s; it goes on"):
        await result.aget(0.05)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(result.get, 0.05)
    gate.set()

    assert await result.aget(SOON_S) == "done"


async def test_blocking_a_loop_that_the_task_may_need_is_refused(app: QTasks) -> None:
    @app.task
    async def one() -> int:
        return 1

    result = one.delay()

    with pytest.raises(WaitRefused, match=r"would block the running event loop.*use: await result\.aget\(\)"):
        result.get(1)


async def test_a_coroutine_that_takes_too_long_is_given_up(app: QTasks) -> None:
    @app.task(timeout=0.05, retries=0)
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TaskFailed) as caught:
        await stuck.delay().aget(SOON_S)

    assert (caught.value.type, caught.value.message) == (
        "TimeoutError",
        "the task did not finish within 0.05 s",
    )


async def test_a_plain_function_that_takes_too_long_is_given_up(app: QTasks) -> None:
    gate = threading.Event()

    @app.task(timeout=timedelta(milliseconds=50), retries=0)
    def stuck() -> None:
        gate.wait(SOON_S)

    with pytest.raises(TaskFailed, match=r"the task did not finish within 0\.05 s"):
        await stuck.delay().aget(SOON_S)

    gate.set()
