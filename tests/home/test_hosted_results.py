"""What an app knows of its tasks with hosted QStash: results of its own, failures, calling off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qtasks import (
    Context,
    Queue,
    Reject,
    ResultsUnavailable,
    ResultTimeout,
    TaskFailed,
    UnsupportedByBroker,
    as_completed,
)
from tests.support.homes import SOON_S, until
from tests.support.hosted import hosted


async def test_a_call_runs_and_its_result_comes_back(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def double(number: int) -> int:
            return 2 * number

        result = await double.adelay(21)

        assert await result.aget(SOON_S) == 42
        assert await asyncio.to_thread(result.get, SOON_S) == 42
        assert (result.state, result.ready(), result.successful()) == ("SUCCEEDED", True, True)


async def test_a_failure_is_retried_and_comes_back_with_its_traceback(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        attempts: list[int] = []

        @here.app.task(bind=True, retries=2, retry_delay=0.01)
        async def fail(context: Context) -> None:
            attempts.append(context.attempt)
            raise ValueError(f"attempt {context.attempt}")

        result = await fail.adelay()
        with pytest.raises(TaskFailed, match="ValueError: attempt 3") as caught:
            await result.aget(SOON_S)

        assert attempts == [1, 2, 3]
        assert "in fail" in (caught.value.traceback or "")
        view = await here.app._home.aresult(result.id)
        assert (view.state, view.attempts) == ("FAILED", 3)


async def test_options_of_a_call_decide_which_attempt_was_the_last(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task(retry_delay="1h")
        async def fail() -> None:
            raise ValueError("no")

        with pytest.raises(TaskFailed, match="ValueError: no"):
            await (await fail.with_options(retries=0).adelay()).aget(SOON_S)

        waiting = await fail.adelay()
        await until(lambda: waiting.state == "RETRYING")
        with pytest.raises(ResultTimeout, match=r"is still RETRYING after 0\.05 s"):
            await waiting.aget(0.05)


async def test_without_a_result_backend_every_question_says_so_at_once(tmp_path: Path) -> None:
    async with hosted(tmp_path, results=None) as here:
        ran = asyncio.Event()

        @here.app.task
        async def note() -> None:
            ran.set()

        result = await note.adelay()
        await asyncio.wait_for(ran.wait(), SOON_S)

        text = (
            "hosted QStash keeps no results, and this app does not either; "
            r"set QTASKS_RESULTS=sqlite:///results.db, or give QTasks\(results=...\)"
        )
        with pytest.raises(ResultsUnavailable, match=text):
            await result.aget()
        with pytest.raises(ResultsUnavailable, match=text):
            result.ready()
        assert here.deliveries[0]["content-type"] == "application/json"


async def test_a_task_that_waits_can_be_called_off(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def note() -> None: ...

        waiting, other = [await note.aapply_async(countdown=3600) for _ in range(2)]

        assert await waiting.acancel()
        assert not await waiting.acancel()
        assert (waiting.state, other.state) == ("CANCELLED", "SCHEDULED")


async def test_a_task_can_be_called_off_without_a_place_for_results(tmp_path: Path) -> None:
    async with hosted(tmp_path, results=None) as here:

        @here.app.task
        async def note() -> None: ...

        waiting = await note.aapply_async(countdown=3600)

        assert await waiting.acancel()
        assert not await asyncio.to_thread(waiting.cancel)


async def test_tasks_are_called_off_by_label_and_queue(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"slow": Queue(ordered=True), "wide": Queue(parallelism=2)}) as here:
        gate = asyncio.Event()

        @here.app.task(name="note")
        async def note() -> None:
            await gate.wait()

        wide = note.with_options(queue="wide")
        for each in (note.with_options(label="red"), wide, wide.with_options(label="red")):
            await each.aapply_async(countdown=3600)
        in_order = [await note.with_options(queue="slow").adelay() for _ in range(3)]
        await until(lambda: in_order[0].state == "RUNNING")
        counts = [
            await here.app.acancel(label="red", queue="wide"),
            await asyncio.to_thread(here.app.cancel, label="red"),
            await here.app.acancel(queue="wide"),
            await here.app.acancel(queue="slow"),
        ]
        with pytest.raises(UnsupportedByBroker, match="which messages call note: cancel by label= or queue="):
            await here.app.acancel(task="note")
        gate.set()

        assert counts == [1, 1, 1, 3]
        await until(lambda: in_order[0].state == "SUCCEEDED")  # what runs goes on, as QStash has it


async def test_progress_and_what_is_forgotten_are_as_with_any_broker(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        go_on = asyncio.Event()

        @here.app.task(bind=True)
        async def import_rows(context: Context) -> int:
            context.progress(30, 100, "Importing")
            await go_on.wait()
            return 100

        result = await import_rows.adelay()
        await until(lambda: result.progress)
        seen = result.progress
        go_on.set()

        assert await result.aget(SOON_S) == 100
        assert seen is not None
        assert (seen.done, seen.total, seen.note) == (30, 100, "Importing")
        assert result.progress is None
        await result.aforget()
        assert (result.state, result.result) == ("SUCCEEDED", None)


async def test_of_many_calls_each_comes_as_it_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def double(number: int) -> int:
            return 2 * number

        results = await double.adelay_many(double.call(n) for n in range(30))

        assert {await each.aget() async for each in as_completed(results)} == {2 * n for n in range(30)}


async def test_a_task_whose_last_attempt_is_never_answered_has_failed_all_the_same(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        here.failing.append(OSError("the process is gone"))

        @here.app.task(retries=0)
        async def note() -> None: ...

        result = await note.adelay()
        with pytest.raises(TaskFailed, match="DeliveryFailed: the last of 1 attempts was answered with 500"):
            await result.aget(SOON_S)

        assert [each["upstash-retried"] for each in here.deliveries] == ["0", "0"]


async def test_what_the_task_itself_said_of_its_end_outlasts_the_brokers_word(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task
        async def reject() -> None:
            raise Reject("never")

        result = await reject.adelay()
        await until(lambda: len(here.deliveries) == 2)
        with pytest.raises(TaskFailed, match="Reject: never") as caught:
            await result.aget(SOON_S)

        assert "in reject" in (caught.value.traceback or "")


async def test_a_task_that_expires_before_it_runs_says_so(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        ran: list[int] = []

        @here.app.task(expires=0.001, retries=0)
        async def note() -> None:
            ran.append(1)

        here.failing.append(OSError("not yet"))
        result = await note.with_options(retries=1, retry_delay=0.05).adelay()
        with pytest.raises(TaskFailed, match="is EXPIRED"):
            await result.aget(SOON_S)

        assert ran == []
