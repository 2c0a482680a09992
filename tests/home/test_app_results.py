"""Results as their callers see them: from the owner of a file, from a guest of it, and over HTTP."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qtasks import (
    AsyncResult,
    Context,
    QTasks,
    ResultError,
    ResultTimeout,
    TaskFailed,
    WaitRefused,
    as_completed,
    track,
)
from qtasks.home import embedded as embedded_home
from tests.support.every_home import in_standalone
from tests.support.homes import SOON_S, embedded, until, until_found

WAYS = ["owner", "guest", "standalone"]


@dataclass
class Sides:
    """An app that runs tasks, and one that asks about them, which may be the same."""

    app: QTasks
    asker: QTasks

    def ask(self, result: AsyncResult[Any]) -> AsyncResult[Any]:
        """Give the asker's handle for a call."""
        return self.asker.result(result.id)


@pytest.fixture(params=WAYS)
async def sides(request: pytest.FixtureRequest, store: Path) -> AsyncIterator[Sides]:
    if request.param == "standalone":
        async with in_standalone(store) as app:
            yield Sides(app, app)
        return
    app = embedded(store)
    async with app.lifespan():
        guest = embedded(store)
        yield Sides(app, app if request.param == "owner" else guest)
        await guest._home.stop()


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    tasks = embedded(store)
    async with tasks.lifespan():
        yield tasks


# --- looking --------------------------------------------------------------------------------------


async def test_one_look_says_all_of_a_task_that_returned(sides: Sides) -> None:
    @sides.app.task
    async def add(a: int, b: int) -> int:
        return a + b

    before = datetime.now(UTC) - timedelta(seconds=1)
    result = sides.ask(await add.adelay(1, 2))
    await result.aget(SOON_S)

    info = await result.ainfo()

    assert (info.id, info.state, info.is_final, info.attempts) == (result.id, "SUCCEEDED", True, 1)
    assert (info.result, info.error, info.progress) == (3, None, None)
    assert info.created_at is not None
    assert info.finished_at is not None
    assert before < info.created_at <= info.finished_at < datetime.now(UTC) + timedelta(seconds=1)
    assert await asyncio.to_thread(result.info) == info


async def test_one_look_says_why_a_task_failed(sides: Sides) -> None:
    @sides.app.task(retries=1, retry_delay=0.01)
    async def divide(number: int) -> float:
        return number / 0

    result = sides.ask(await divide.adelay(1))
    with pytest.raises(TaskFailed) as caught:
        await result.aget(SOON_S)

    info = await result.ainfo()
    assert (info.state, info.attempts, info.result) == ("FAILED", 2, None)
    assert info.error is not None
    assert str(info.error) == "ZeroDivisionError: division by zero"
    assert "return number / 0" in (info.error.traceback or "")
    shown = f"task {result.id} is FAILED: ZeroDivisionError: division by zero"
    assert str(caught.value) == shown
    [note] = caught.value.__notes__
    assert note.startswith("where it ran:\nTraceback (most recent call last):")
    assert note.endswith("ZeroDivisionError: division by zero")


async def test_the_properties_are_one_question_each(sides: Sides) -> None:
    @sides.app.task(retries=0)
    async def halve(number: int) -> float:
        if number % 2:
            raise ValueError("odd")
        return number / 2

    even, odd = sides.ask(await halve.adelay(4)), sides.ask(await halve.adelay(3))
    async for _ in as_completed([even, odd], SOON_S):
        pass

    def look() -> None:  # on a thread, as the standalone broker of this test runs on its loop
        told = (even.state, even.attempts, even.result, even.error, even.progress)
        assert told == ("SUCCEEDED", 1, 2.0, None, None)
        assert (odd.state, odd.result, odd.failed()) == ("FAILED", None, True)
        assert odd.error is not None
        assert (odd.error.type, odd.error.message) == ("ValueError", "odd")

    await asyncio.to_thread(look)


async def test_nothing_is_known_of_an_id_that_nobody_knows(sides: Sides) -> None:
    info = await sides.asker.result("tsk_nobody").ainfo()

    assert (info.state, info.is_final, info.attempts) == ("UNKNOWN", False, 0)
    assert (info.created_at, info.finished_at, info.result, info.error) == (None, None, None, None)


async def test_a_look_decodes_the_value_as_the_task_says(app: QTasks) -> None:
    @app.task
    async def tomorrow(day: datetime) -> datetime:
        return day + timedelta(days=1)

    day = datetime(2026, 2, 28, tzinfo=UTC)
    result = await tomorrow.adelay(day)
    await result.aget(SOON_S)

    assert (await result.ainfo()).result == result.result == day + timedelta(days=1)


# --- calling off and forgetting -------------------------------------------------------------------


async def test_a_task_that_waits_is_called_off(sides: Sides) -> None:
    @sides.app.task
    async def later() -> int:
        return 1

    result = sides.ask(await asyncio.to_thread(later.apply_async, countdown=3600))

    assert await result.acancel() is True
    assert await asyncio.to_thread(result.cancel) is False
    assert (await result.ainfo()).state == "CANCELLED"
    with pytest.raises(TaskFailed, match=f"task {result.id} is CANCELLED"):
        await result.aget(SOON_S)


async def test_a_task_that_runs_gets_no_further_attempt_once_it_is_called_off(sides: Sides) -> None:
    started, gate, runs = asyncio.Event(), asyncio.Event(), []

    @sides.app.task(retry_delay=0)
    async def fail() -> None:
        runs.append(1)
        started.set()
        await gate.wait()
        raise ValueError("too late")

    result = sides.ask(await fail.adelay())
    await started.wait()

    assert await result.acancel() is True
    gate.set()

    with pytest.raises(TaskFailed, match="is CANCELLED"):
        await result.aget(SOON_S)
    assert runs == [1]


async def test_a_task_that_has_finished_or_is_unknown_is_not_called_off(sides: Sides) -> None:
    @sides.app.task
    async def one() -> int:
        return 1

    result = sides.ask(await one.adelay())
    await result.aget(SOON_S)

    assert await result.acancel() is False
    assert await sides.asker.result("tsk_nobody").acancel() is False
    assert (await result.ainfo()).state == "SUCCEEDED"


async def test_a_forgotten_result_is_gone_at_once(sides: Sides) -> None:
    @sides.app.task
    async def one() -> int:
        return 1

    result = sides.ask(await one.adelay())
    await result.aget(SOON_S)

    await result.aforget()
    await asyncio.to_thread(result.forget)

    info = await result.ainfo()
    assert (info.state, info.result, info.attempts) == ("SUCCEEDED", None, 1)
    with pytest.raises(ResultError, match="its result is not kept: it was too large or forgotten"):
        await result.aget(SOON_S)


# --- waiting for many -----------------------------------------------------------------------------


async def test_results_come_in_the_order_in_which_their_tasks_finish(sides: Sides) -> None:
    gates = [asyncio.Event() for _ in range(3)]

    @sides.app.task
    async def wait(n: int) -> int:
        await gates[n].wait()
        return n

    results = [sides.ask(await wait.adelay(n)) for n in range(3)]
    order = iter([2, 0, 1])
    gates[next(order)].set()
    seen = []
    async for each in as_completed(results, SOON_S):
        seen.append(await each.aget(0))
        following = next(order, None)
        if following is not None:
            gates[following].set()

    assert seen == [2, 0, 1]


async def test_a_thread_waits_for_many_too(sides: Sides) -> None:
    @sides.app.task(retries=0)
    async def odd(n: int) -> int:
        if n == 5:
            raise ValueError("five")
        return n

    results = [sides.ask(each) for each in await odd.adelay_many(odd.call(n) for n in range(20))]

    def collect() -> list[object]:
        return [each.result if each.successful() else each.state for each in as_completed(results, SOON_S)]

    found = await asyncio.to_thread(collect)

    assert sorted(map(str, found)) == sorted([*(str(n) for n in range(20) if n != 5), "FAILED"])


async def test_what_is_left_when_the_time_is_over_is_counted(sides: Sides) -> None:
    @sides.app.task
    async def one() -> int:
        return 1

    done = sides.ask(await one.adelay())
    await done.aget(SOON_S)
    results = [sides.ask(await asyncio.to_thread(one.apply_async, countdown=3600)), done]
    completed = aiter(as_completed(results, 0.05))

    assert await anext(completed) is done
    with pytest.raises(ResultTimeout, match=r"1 of 2 tasks have not finished after 0\.05 s; they go on"):
        await anext(completed)


# --- progress -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_whoever_holds_the_result_sees_how_far_the_task_has_come(sides: Sides, kind: str) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def plain(context: Context) -> str:
        context.progress(1, 4, "early")
        context.progress(2.5, 4, "half-way")
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return "done"

    async def coroutine(context: Context) -> str:
        context.progress(1, 4, "early")
        context.progress(2.5, 4, "half-way")
        await gate.wait()
        return "done"

    task = sides.app.task(bind=True)(plain if kind == "plain" else coroutine)
    result = sides.ask(await task.adelay())

    info = await until_found(result.ainfo, lambda found: found.progress and found.progress.done == 2.5)

    assert info.state == "RUNNING"
    assert info.progress is not None
    assert (info.progress.total, info.progress.note) == (4, "half-way")
    assert abs(info.progress.at - datetime.now(UTC)) < timedelta(seconds=SOON_S)
    assert await asyncio.to_thread(lambda: result.progress) == info.progress
    gate.set()
    assert await result.aget(SOON_S) == "done"
    assert (await result.ainfo()).progress is None


async def test_a_tracked_loop_shows_how_many_items_are_done(app: QTasks) -> None:
    gate = asyncio.Event()

    @app.task
    async def load(rows: list[int]) -> int:
        total = 0
        for row in track(rows, "Importing"):
            total += row
            if row == 3:
                await gate.wait()
        return total

    result = await load.adelay([1, 2, 3, 4])

    info = await until_found(result.ainfo, lambda found: found.progress and found.progress.done == 2)

    assert info.progress is not None
    assert (info.progress.total, info.progress.note) == (4, "Importing")
    gate.set()
    assert await result.aget(SOON_S) == 10


# --- where waiting is refused ---------------------------------------------------------------------

REFUSED = r"task .*outer \(tsk_.*\) would wait for another task here.*allow_in_task=True"


async def test_waiting_inside_a_task_is_refused(app: QTasks) -> None:
    refusals: list[str] = []

    @app.task
    async def inner() -> int:
        return 1

    @app.task
    async def outer() -> str:
        result = await inner.adelay()
        many = aiter(as_completed([result]))
        for wait in (result.aget, lambda: asyncio.to_thread(result.get), many.__anext__):
            with pytest.raises(WaitRefused, match=REFUSED) as caught:
                await wait()
            refusals.append(str(caught.value))
        return result.id

    id_ = await outer.delay().aget(SOON_S)

    assert len(set(refusals)) == 1
    assert await app.result(id_).aget(SOON_S) == 1


async def test_a_plain_task_cannot_wait_either(app: QTasks) -> None:
    @app.task
    def inner() -> int:
        return 1

    @app.task
    def outer() -> None:
        result = inner.delay()
        with pytest.raises(WaitRefused, match=REFUSED):
            result.get(timeout=5)
        with pytest.raises(WaitRefused, match=REFUSED):
            list(as_completed([result]))

    await outer.delay().aget(SOON_S)


async def test_waiting_inside_a_task_is_possible_for_who_insists(app: QTasks) -> None:
    @app.task
    async def inner(n: int) -> int:
        return n

    @app.task
    async def outer() -> int:
        result = await inner.adelay(1)
        others = [await inner.adelay(n) for n in (2, 3)]
        found = await result.aget(SOON_S, allow_in_task=True)
        async for each in as_completed(others, SOON_S, allow_in_task=True):
            found += await each.aget(timeout=0)
        return found

    assert await outer.delay().aget(SOON_S) == 6


async def test_a_look_inside_a_task_is_no_wait(app: QTasks) -> None:
    @app.task
    async def inner() -> int:
        return 1

    @app.task
    async def outer() -> str:
        result = inner.apply_async(countdown=3600)
        with pytest.raises(ResultTimeout):
            await result.aget(timeout=0)
        return (await result.ainfo()).state

    assert await outer.delay().aget(SOON_S) == "SCHEDULED"


async def test_a_loop_over_many_on_a_running_loop_is_refused(app: QTasks) -> None:
    with pytest.raises(WaitRefused, match=r"use: async for result in as_completed\(\.\.\.\)"):
        next(iter(as_completed([app.result("tsk_1")])))


async def test_a_server_without_lifespan_does_not_wait_for_ever(store: Path) -> None:
    importlib.import_module("uvicorn")  # it is what shows that this process may be a server
    tasks = embedded(store)
    result = tasks.task(run).delay()

    text = (
        f"task {result.id} is QUEUED, and no process runs the tasks of {store}: "
        "pass lifespan=tasks.lifespan to your app, or give a timeout"
    )
    with pytest.raises(WaitRefused) as caught:
        await result.aget()
    assert str(caught.value).startswith(text)
    with pytest.raises(WaitRefused):
        await asyncio.to_thread(result.get)
    with pytest.raises(WaitRefused, match="1 of 1 tasks have not finished, and no process runs the tasks"):
        await anext(aiter(as_completed([result])))
    with pytest.raises(ResultTimeout):
        await result.aget(timeout=0.01)


async def test_a_server_whose_tasks_run_elsewhere_waits(app: QTasks, store: Path) -> None:
    importlib.import_module("uvicorn")
    guest = embedded(store)
    app.task(run)
    task = guest.task(run)

    assert await (await task.adelay()).aget() == "ran"
    await guest._home.stop()


async def test_what_has_finished_is_given_where_nobody_runs_any_more(store: Path) -> None:
    importlib.import_module("uvicorn")
    tasks = embedded(store)
    task = tasks.task(run)
    async with tasks.lifespan():
        result = await task.adelay()
        await result.aget(SOON_S)

    assert await result.aget() == "ran"


async def test_a_script_that_waits_is_told_once_that_nobody_runs_its_task(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_home, "SERVERS", ())
    task = embedded(store).task(run)
    with caplog.at_level(logging.WARNING, "qtasks.home"):
        result = task.delay()
        waiting = asyncio.create_task(result.aget())
        await until(lambda: caplog.records)
        server = embedded(store)
        server.task(run)
        async with server.lifespan():
            assert await waiting == "ran"

    [said] = [each.getMessage() for each in caplog.records]
    assert said == f"waiting for a task of {store}, but no process runs them yet: start the app"


async def test_a_guest_waits_on_while_one_owner_follows_another(store: Path) -> None:
    guest = embedded(store)
    task = guest.task(run)
    first, second = embedded(store), embedded(store)
    for each in (first, second):
        each.task(run)
    async with first.lifespan():
        result = await asyncio.to_thread(task.apply_async, countdown=1)
        waiting = asyncio.create_task(result.aget(SOON_S))
        await until_found(result.ainfo, lambda found: found.state == "SCHEDULED")

    async with second.lifespan():
        assert await waiting == "ran"
    await guest._home.stop()


async def test_many_guests_that_wait_hold_up_no_thread(store: Path) -> None:
    app, guest = embedded(store), embedded(store)
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    app.task(wait)
    task = guest.task(wait)
    async with app.lifespan():
        results = [await task.adelay() for _ in range(100)]
        waiting = [asyncio.create_task(each.aget(SOON_S)) for each in results]
        await until_found(results[0].ainfo, lambda found: found.state == "RUNNING")

        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), SOON_S) == "free"
        gate.set()
        assert await asyncio.gather(*waiting) == ["done"] * 100
        await guest._home.stop()


async def run() -> str:
    return "ran"
