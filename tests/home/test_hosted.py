"""The same app with hosted QStash: our broker in strict mode stands for it, over HTTP on loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qtasks import Context, Queue, Retry, TaskFailed, UnsupportedByBroker
from qtasks.client import calls
from qtasks.protocol.shapes import LogEntry
from qtasks.tasks.keys import Flow
from tests.support.homes import SOON_S, until, until_found
from tests.support.hosted import hosted


async def test_calls_and_deliveries_carry_nothing_of_ours_but_the_forwarded_signature(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task(queue="mail", label="blue")
        async def note() -> None: ...

        result = await note.adelay()
        await result.aget(SOON_S)

        [delivery] = here.deliveries
        assert [name for name in delivery if name.startswith("qtasks-")] == ["qtasks-signature"]
        message = await here.client.send(calls.message(delivery["upstash-message-id"]))
        assert message.labels == ("blue", result.id)
        assert (message.flow_control_key, message.parallelism, message.queue_name) == ("mail", 16, None)


async def test_a_delayed_call_of_an_unordered_queue_waits_and_then_runs(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        ran_at: list[int] = []

        @here.app.task
        async def note() -> None:
            ran_at.append(here.app._clock.now())

        asked_at = here.app._clock.now()
        result = await note.aapply_async(countdown=0.4)

        assert result.state == "SCHEDULED"
        await result.aget(SOON_S)
        assert 400 <= ran_at[0] - asked_at < 3000


async def test_an_unordered_queue_keeps_its_parallelism_and_a_retry_holds_nobody_up(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"narrow": Queue(parallelism=2, retry_delay="1h")}) as here:
        running: set[int] = set()
        most: list[int] = []

        @here.app.task(queue="narrow")
        async def turn(number: int) -> int:
            if number < 2:
                raise ValueError("later")
            running.add(number)
            most.append(len(running))
            await asyncio.sleep(0.05)
            running.discard(number)
            return number

        results = await turn.adelay_many(turn.call(n) for n in range(8))

        assert [await each.aget(SOON_S) for each in results[2:]] == [2, 3, 4, 5, 6, 7]
        assert max(most) == 2
        assert [each.state for each in results[:2]] == ["RETRYING", "RETRYING"]


async def test_tasks_of_an_ordered_queue_run_in_the_order_of_their_calls(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:
        ran: list[int] = []

        @here.app.task(queue="strict", retry_delay=0.01)
        async def note(number: int) -> None:
            ran.append(number)
            if ran.count(number) == 1 and number == 1:
                raise ValueError("once more")

        async with here.app.collect():
            results = [await note.adelay(n) for n in range(4)]
        for each in results:
            await each.aget(SOON_S)

        assert ran == [0, 1, 1, 2, 3]


async def test_a_delay_in_an_ordered_queue_is_refused_at_the_call(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:

        @here.app.task(queue="strict")
        async def note() -> None: ...

        with pytest.raises(UnsupportedByBroker) as caught:
            note.apply_async(countdown=5)

        assert str(caught.value) == (
            "hosted QStash cannot do countdown, eta for a task in the ordered queue 'strict'; "
            "leave ordered=True away, or call it without a delay"
        )
        assert caught.value.option == "countdown, eta"
        loose = await note.aapply_async(countdown=9, queue="loose")
        assert loose.state == "SCHEDULED"


async def test_many_calls_and_blocks_reach_every_kind_of_queue(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(8, ordered=True)}) as here:

        @here.app.task
        async def double(number: int) -> int:
            return 2 * number

        ordered = double.with_options(queue="strict")
        many = await double.adelay_many(double.call(n) for n in range(120))
        async with here.app.collect():
            block = [await (ordered if n % 2 else double).adelay(n) for n in range(20)]
            assert block[0].state == "UNKNOWN"

        assert [await each.aget(SOON_S) for each in many] == [2 * n for n in range(120)]
        assert [await each.aget(SOON_S) for each in block] == [2 * n for n in range(20)]


async def test_a_task_id_given_twice_runs_once(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        ran: list[int] = []

        @here.app.task
        async def note() -> int:
            ran.append(1)
            return len(ran)

        first = await note.aapply_async(task_id="order-17")
        assert await first.aget(SOON_S) == 1
        again = await note.aapply_async(task_id="order-17")

        assert await again.aget(SOON_S) == 1
        assert ran == [1]


async def test_an_app_that_is_full_leaves_the_next_attempt_to_the_ladder(tmp_path: Path) -> None:
    async with hosted(tmp_path, concurrency=1) as here:
        go_on = asyncio.Event()

        @here.app.task
        async def wait() -> None:
            await go_on.wait()

        await wait.adelay()
        await until(lambda: here.deliveries)
        await wait.adelay()

        async def retries() -> list[LogEntry]:
            return list((await here.client.send(calls.log(state="RETRY"))).items)

        [entry] = await until_found(retries, bool)
        go_on.set()
        assert entry.next_delivery_time is not None
        assert 11_000 < entry.next_delivery_time - entry.time <= 13_000


async def test_a_call_that_goes_on_in_another_message_is_one_task_to_the_end(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:
        seen: list[tuple[int, int]] = []

        @here.app.task(bind=True, retries=1)
        async def count(context: Context, number: int) -> int:
            seen.append((number, context.attempt))
            if number < 2:
                raise Retry(args=(2,))
            return number

        assert await (await count.adelay(1)).aget(SOON_S) == 2
        assert seen == [(1, 1), (2, 2)]


async def test_a_retry_after_days_is_a_message_of_its_own(tmp_path: Path) -> None:
    async with hosted(tmp_path, queues={"strict": Queue(ordered=True)}) as here:

        @here.app.task(bind=True)
        async def later(context: Context) -> None:
            context.retry(countdown="3d")

        result = await later.adelay()
        await until(lambda: result.state == "RETRYING")
        entries = (await here.client.send(calls.log(state="CREATED"))).items

        assert len(entries) == 2
        assert not result.ready()
        ordered = await later.with_options(queue="strict").adelay()
        with pytest.raises(TaskFailed, match="UnsupportedByBroker: hosted QStash cannot do countdown, eta"):
            await ordered.aget(SOON_S)


async def test_a_task_with_a_flow_waits_at_its_key_also_when_it_is_delayed(tmp_path: Path) -> None:
    async with hosted(tmp_path) as here:

        @here.app.task(flow=Flow(rate=5, period="1m", key="tenant:{tenant}"))
        async def note(tenant: str) -> None: ...

        await note.aapply_async(("acme",), countdown=3600)
        [entry] = (await here.client.send(calls.log())).items
        message = await here.client.send(calls.message(entry.message_id))

        assert (message.flow_control_key, message.rate, message.period_s) == ("tenant:acme", 5, 60)
        assert message.not_before - message.created_at >= 3_590_000
