"""Running what was enqueued: in order, to the end, on whichever loop; and what a wait comes to."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from qtasks import QTasks, Retry
from qtasks.errors import KitError, TaskFailed
from qtasks.testing import Drained, Kit
from tests.support import shop


def test_nothing_runs_before_the_test_says_so(kit: Kit) -> None:
    result = shop.register("a@example.com")

    assert shop.done == []
    assert result.state == "QUEUED"


def test_what_is_due_runs_in_the_order_of_the_calls(kit: Kit) -> None:
    for number in range(5):
        shop.charge.delay(shop.Order(number))
        shop.send_email.delay(str(number))

    assert kit.drain() == Drained(delivered=10, succeeded=10)

    assert [each[1] for each in shop.done if isinstance(each, tuple) and each[0] == "charge"] == [*range(5)]


def test_what_tasks_enqueue_runs_too(kit: Kit) -> None:
    shop.follow_up.delay(3)

    assert kit.drain().delivered == 4

    assert shop.done[-1] == ("follow-up", 0)


def test_a_result_is_there_once_its_task_has_run(kit: Kit) -> None:
    result = shop.charge.delay(shop.Order(7, ("tea",)))
    kit.drain()

    assert result.get() == shop.Order(7, ("tea",))
    assert result.state == "SUCCEEDED"


def test_to_wait_for_what_has_not_run_is_an_error_that_says_what_to_do(kit: Kit) -> None:
    result = shop.register("a@example.com")

    with pytest.raises(KitError, match=r"is QUEUED, and nothing runs while a test waits: call kit\.drain"):
        result.get()


def test_to_wait_for_what_is_delayed_is_an_error_that_says_what_to_do(kit: Kit) -> None:
    result = shop.send_email.apply_async(["a@example.com"], countdown="1h")
    kit.drain()

    with pytest.raises(KitError, match=r"is SCHEDULED.*by kit.advance"):
        result.get()


def test_a_failed_task_raises_where_its_result_is_asked_for(kit: Kit) -> None:
    result = shop.refuse.delay("no stock")
    kit.drain()

    with pytest.raises(TaskFailed, match="Reject: no stock"):
        result.get()


def test_draining_raises_nothing_of_a_task_s_own_unless_it_is_told(kit: Kit) -> None:
    shop.charge.delay(shop.Order(-1))
    assert kit.drain() == Drained(delivered=1, retried=1)

    with pytest.raises(LookupError, match="order -1 is unknown"):
        kit.advance("1m", raise_errors=True)


def test_what_a_task_raised_is_logged_with_its_traceback(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    shop.charge.delay(shop.Order(-1))
    kit.drain()

    [record] = [each for each in caplog.records if each.name == "qtasks.testing"]
    assert record.message == "an attempt failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_a_failure_that_is_no_exception_of_the_task_is_raised_too(kit: Kit) -> None:
    app = QTasks()

    @app.task
    def give_an_object() -> Any:
        return object()

    give_an_object.delay()
    with pytest.raises(TaskFailed, match="EncodeError"):
        kit.drain(raise_errors=True)

    app.send("nobody.knows.it")
    with pytest.raises(TaskFailed, match=r"no task is named 'nobody\.knows\.it' here"):
        kit.drain(raise_errors=True)


def test_a_timeout_is_raised_too(kit: Kit) -> None:
    app = QTasks()

    @app.task(timeout=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    hang.delay()
    with pytest.raises(TaskFailed, match="TimeoutError"):
        kit.drain(raise_errors=True)


def test_errors_of_control_flow_are_not_raised(kit: Kit) -> None:
    shop.refuse.delay("no stock")

    assert kit.drain(raise_errors=True) == Drained(delivered=1, dead=1)


def test_tasks_that_enqueue_each_other_for_ever_are_stopped(kit: Kit) -> None:
    shop.follow_up.delay(1_000_000)

    with pytest.raises(KitError, match="50 deliveries were made and there are more"):
        kit.drain(limit=50)

    assert len(shop.done) == 50


def test_a_drain_may_make_as_many_deliveries_as_its_limit(kit: Kit) -> None:
    shop.follow_up.delay(9)

    assert kit.drain(limit=10).delivered == 10


async def test_an_async_test_drains_on_its_own_loop(kit: Kit) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    app = QTasks()

    @app.task
    async def note() -> None:
        loops.append(asyncio.get_running_loop())

    result = await note.adelay()
    await kit.adrain()

    assert loops == [asyncio.get_running_loop()]
    await result.aget()


async def test_a_drain_that_would_block_the_loop_says_what_to_write(kit: Kit) -> None:
    shop.register("a@example.com")

    with pytest.raises(KitError, match=r"use: await kit\.adrain"):
        kit.drain()
    with pytest.raises(KitError, match=r"await kit\.aadvance"):
        kit.advance(hours=1)


async def test_one_kit_drains_on_several_loops(kit: Kit) -> None:
    shop.register("a@example.com")
    await asyncio.to_thread(kit.drain)
    shop.register("b@example.com")
    await kit.adrain()
    shop.register("c@example.com")
    await asyncio.to_thread(kit.drain)

    assert [each[1] for each in shop.done if isinstance(each, tuple)] == [
        "a@example.com",
        "b@example.com",
        "c@example.com",
    ]


def test_drains_of_one_test_share_a_loop(kit: Kit) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()
    app = QTasks()

    @app.task
    async def note() -> None:
        loops.add(asyncio.get_running_loop())

    for _ in range(2):
        note.delay()
        kit.drain()

    assert len(loops) == 1


def test_a_task_cannot_drain(kit: Kit) -> None:
    app = QTasks()

    @app.task(retries=0)
    def drain() -> None:
        kit.drain()

    drain.delay()
    with pytest.raises(KitError, match="running tasks already"):
        kit.drain(raise_errors=True)


def test_plain_functions_run_on_the_app_s_threads_one_after_the_other(kit: Kit) -> None:
    app, inside = QTasks(threads=4), [0]

    @app.task
    def note() -> tuple[int, str]:
        inside[0] += 1
        try:
            return inside[0], threading.current_thread().name
        finally:
            inside[0] -= 1

    for _ in range(20):
        note.delay()
    kit.drain()

    assert {each[0] for each in kit.results(note)} == {1}
    assert all(each[1].startswith("qtasks-task") for each in kit.results(note))


def test_a_task_that_waits_for_another_is_told_that_it_waits_in_vain(kit: Kit) -> None:
    shop.ask_for.delay(1)

    with pytest.raises(KitError, match=r"shop.ask_for waits for task .* Kit\(concurrency=16\)"):
        kit.drain(raise_errors=True)


def test_tasks_that_wait_for_each_other_run_with_more_concurrency() -> None:
    with Kit(concurrency=2) as kit:
        shop.ask_for.delay(1)
        kit.drain(raise_errors=True)

        assert kit.results(shop.ask_for) == [shop.Order(1)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_context_variables_of_a_test_reach_no_task(kit: Kit, is_async: bool) -> None:
    app, place = QTasks(), ContextVar("place", default="nowhere")

    @app.task
    async def where() -> str:
        return place.get()

    place.set("in the test")
    await where.adelay()
    await (kit.adrain() if is_async else asyncio.to_thread(kit.drain))

    assert kit.results(where) == ["nowhere"]


def test_nothing_at_once_is_refused() -> None:
    with pytest.raises(KitError, match="concurrency=0 lets nothing run"):
        Kit(concurrency=0)


async def test_what_was_cut_short_is_due_again(kit: Kit) -> None:
    app, started = QTasks(), asyncio.Event()
    runs: list[int] = []

    @app.task
    async def hang() -> None:
        runs.append(1)
        started.set()
        if len(runs) == 1:
            await asyncio.Event().wait()

    result = await hang.adelay()
    draining = asyncio.create_task(kit.adrain())
    await started.wait()
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    assert result.state == "QUEUED"

    await kit.adrain()

    assert result.successful()


def test_a_timeout_is_a_real_one(kit: Kit) -> None:
    app = QTasks()

    @app.task(timeout=0.01, retries=0)
    async def hang() -> None:
        await asyncio.Event().wait()

    result = hang.delay()
    kit.drain()

    with pytest.raises(TaskFailed, match="TimeoutError"):
        result.get()


def test_a_retry_that_a_task_asks_for_is_counted_as_one(kit: Kit) -> None:
    app = QTasks()

    @app.task
    async def wait() -> None:
        raise Retry(after=30)

    wait.delay()

    assert kit.drain() == Drained(delivered=1, retried=1)
    assert kit.advance(seconds=29) == Drained()
    assert kit.advance(seconds=1) == Drained(delivered=1, retried=1)
