"""What an attempt learns of being called off, on the loop and on a thread, and what is answered."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qtasks.errors import Reject
from qtasks.tasks.answers import Answer
from qtasks.tasks.cancellation import Cancellation
from qtasks.tasks.context import current
from qtasks.tasks.execution import Delivery
from tests.support.tasks import Workshop, error_of

SOON_S = 10


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


class Running:
    """A task under way, which a test calls off."""

    def __init__(self, shop: Workshop, function: Callable[..., Any], **options: Any) -> None:
        shop.task(function, "job", **options)
        self.delivery: Delivery = shop.delivery(shop.envelope("job"))
        self.begun = asyncio.Event()
        self._shop = shop
        self._task = asyncio.ensure_future(shop.executor.execute(self.delivery))

    def cancel(self) -> None:
        self.delivery.cancellation.cancel()

    def stop(self) -> None:
        """End it from outside, as a server does that shuts down."""
        self._task.cancel()

    async def answer(self) -> Answer:
        async with asyncio.timeout(SOON_S):
            return await self._task


async def turns(count: int = 5) -> None:
    """Let all that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- coroutines -----------------------------------------------------------------------------------


async def test_a_coroutine_is_cancelled_where_it_waits(shop: Workshop) -> None:
    async def job() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            shop.ran.append((task is not None and task.cancelling(), current().cancelled))
            raise

    running = Running(shop, job)
    await turns()
    running.cancel()
    answer = await running.answer()

    assert (answer.status, error_of(answer)["type"]) == (499, "Cancelled")
    assert (shop.ran, shop.executor.running) == ([(1, True)], 0)


async def test_what_called_a_task_off_goes_on_as_if_nothing_had_been_cancelled(shop: Workshop) -> None:
    async def job() -> None:
        await asyncio.Event().wait()

    shop.task(job)
    delivery = shop.delivery(shop.envelope("job"))
    asyncio.get_running_loop().call_later(0.01, delivery.cancellation.cancel)

    await shop.executor.execute(delivery)
    await asyncio.sleep(0)
    task = asyncio.current_task()

    assert task is not None
    assert task.cancelling() == 0


async def test_a_coroutine_that_ends_well_all_the_same_has_succeeded(shop: Workshop) -> None:
    async def job() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "cleaned up"
        return "never"

    running = Running(shop, job)
    await turns()
    running.cancel()
    answer = await running.answer()
    await asyncio.sleep(0)

    assert (answer.status, answer.body) == (200, b'"cleaned up"')


async def test_whatever_a_task_raises_that_was_called_off_it_was_called_off(shop: Workshop) -> None:
    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in the cleaning up")

    running = Running(shop, job)
    await turns()
    running.cancel()

    assert (await running.answer()).status == 499


async def test_no_hook_hears_of_it_but_the_log(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qtasks.task")

    def hook(context: object, what: object) -> None:
        shop.ran.append(what)

    async def job() -> None:
        await asyncio.Event().wait()

    hooks = dict.fromkeys(("on_success", "on_failure", "on_retry", "on_exhausted"), hook)
    running = Running(shop, job, **hooks)
    await turns()
    running.cancel()
    await running.answer()

    assert shop.ran == []
    _, record = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "task cancelled")
    assert (record.__dict__["task"], record.__dict__["task_id"]) == ("job", "tsk_1")


@pytest.mark.parametrize("is_coroutine", [True, False])
async def test_what_was_called_off_before_it_began_never_does(shop: Workshop, is_coroutine: bool) -> None:
    def function() -> None:
        shop.ran.append("ran")

    async def coroutine() -> None:
        shop.ran.append("ran")

    shop.task(coroutine if is_coroutine else function, "job")
    delivery = shop.delivery(shop.envelope("job"))
    delivery.cancellation.cancel()

    assert ((await shop.executor.execute(delivery)).status, shop.ran) == (499, [])


async def test_the_end_of_the_process_is_not_a_calling_off(shop: Workshop) -> None:
    async def job() -> None:
        await asyncio.Event().wait()

    running = Running(shop, job)
    await turns()
    running.cancel()
    running.stop()

    with pytest.raises(asyncio.CancelledError):
        await running.answer()


async def test_a_task_group_in_a_task_is_ended_as_well(shop: Workshop) -> None:
    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            shop.ran.append("child")

    async def job() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    running = Running(shop, job)
    await turns()
    running.cancel()

    assert ((await running.answer()).status, shop.ran) == (499, ["child"])


# --- functions ------------------------------------------------------------------------------------


async def test_a_function_sees_it_and_stops(shop: Workshop) -> None:
    begun = threading.Event()

    def job() -> None:
        begun.set()
        while not current().cancelled:
            threading.Event().wait(0.001)
        raise Reject("stopped in the middle")

    running = Running(shop, job)
    assert await asyncio.to_thread(begun.wait, SOON_S)
    running.cancel()

    assert ((await running.answer()).status, shop.executor.running) == (499, 0)


async def test_a_function_that_does_not_look_runs_on_and_counts_as_running(shop: Workshop) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def job() -> str:
        begun.set()
        may_end.wait(SOON_S)
        return "done"

    running = Running(shop, job)
    assert await asyncio.to_thread(begun.wait, SOON_S)
    running.cancel()
    await turns()
    still = shop.executor.running
    may_end.set()

    assert (still, (await running.answer()).body) == (1, b'"done"')


# --- shielded sections ----------------------------------------------------------------------------


class Steps:
    """A coroutine with a shielded section in the middle, which goes on when the test says so."""

    def __init__(self, depth: int = 1) -> None:
        self.done: list[str] = []
        self.may_go_on = asyncio.Event()
        self._depth = depth

    async def pause(self, name: str) -> None:
        await self.may_go_on.wait()
        self.may_go_on.clear()
        self.done.append(name)

    async def __call__(self) -> None:
        await self.pause("before")
        try:
            await self.section(self._depth)
        except asyncio.CancelledError:
            self.done.append("raised at the end")
            raise
        await self.pause("after")

    async def section(self, depth: int) -> None:
        with current().shield():
            await self.pause(f"inside {depth}")
            if depth > 1:
                await self.section(depth - 1)
                await self.pause(f"still inside {depth}")


async def steps_until(shop: Workshop, steps: Steps, *, before: int, after: int) -> Running:
    """Let a task make so many steps, call it off, and let it make more."""

    async def job() -> None:
        await steps()

    running = Running(shop, job)
    for number in range(before + after):
        if number == before:
            running.cancel()
        await turns()
        steps.may_go_on.set()
        await turns()
    if not after:
        running.cancel()
    return running


async def test_before_a_section_it_is_cancelled_at_once(shop: Workshop) -> None:
    steps = Steps()
    running = await steps_until(shop, steps, before=0, after=0)

    assert ((await running.answer()).status, steps.done) == (499, [])


async def test_inside_a_section_it_is_cancelled_at_its_end(shop: Workshop) -> None:
    steps = Steps()
    running = await steps_until(shop, steps, before=1, after=1)

    assert ((await running.answer()).status, steps.done) == (499, ["before", "inside 1", "raised at the end"])


async def test_after_a_section_it_is_cancelled_at_once(shop: Workshop) -> None:
    steps = Steps()
    running = await steps_until(shop, steps, before=2, after=0)

    assert ((await running.answer()).status, steps.done) == (499, ["before", "inside 1"])


async def test_inside_sections_in_one_another_it_is_cancelled_at_the_end_of_the_outermost(
    shop: Workshop,
) -> None:
    steps = Steps(depth=2)
    running = await steps_until(shop, steps, before=2, after=2)

    assert (await running.answer()).status == 499
    assert steps.done == ["before", "inside 2", "inside 1", "still inside 2", "raised at the end"]


async def test_an_error_in_a_section_is_not_lost_to_the_reader(shop: Workshop) -> None:
    cancellation = Cancellation()

    def job() -> None:
        with cancellation, cancellation.shield():
            cancellation.cancel()
            raise ValueError("in the section")

    with pytest.raises(asyncio.CancelledError) as caught:
        job()

    assert isinstance(caught.value.__context__, ValueError)


async def test_the_section_of_a_child_puts_off_the_cancellation_of_its_task(shop: Workshop) -> None:
    may_end = asyncio.Event()

    async def child() -> None:
        with current().shield():
            await may_end.wait()
            shop.ran.append("child")

    async def job() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.Event().wait()

    running = Running(shop, job)
    await turns()
    running.cancel()
    await turns()
    assert shop.ran == []
    may_end.set()

    assert ((await running.answer()).status, shop.ran) == (499, ["child"])


async def test_the_section_of_a_thread_puts_off_the_cancellation_of_its_task(shop: Workshop) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def commit() -> None:
        with current().shield():
            begun.set()
            may_end.wait(SOON_S)
            shop.ran.append("committed")

    async def job() -> None:
        await asyncio.to_thread(commit)
        await asyncio.Event().wait()

    running = Running(shop, job)
    assert await asyncio.to_thread(begun.wait, SOON_S)
    running.cancel()
    await turns()
    assert shop.ran == []
    may_end.set()

    assert ((await running.answer()).status, shop.ran) == (499, ["committed"])


async def test_a_timeout_ends_a_section(shop: Workshop) -> None:
    async def job() -> None:
        with current().shield():
            await asyncio.Event().wait()

    shop.task(job)

    assert (await shop.run("job", timeout_ms=30)).status == 504


async def test_in_a_function_a_section_changes_nothing(shop: Workshop) -> None:
    begun = threading.Event()

    def job() -> bool:
        with current().shield():
            begun.set()
            while not current().cancelled:
                threading.Event().wait(0.001)
        return current().cancelled

    running = Running(shop, job)
    assert await asyncio.to_thread(begun.wait, SOON_S)
    running.cancel()

    assert (await running.answer()).body == b"true"
