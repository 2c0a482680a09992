"""Tasks that are called off while they are in flight: the attempt is broken off, and the states say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qtasks.broker.store.filters import MessageFilter
from qtasks.broker.store.records import Reply
from tests.support.broker import SOON_S, Held, Rig
from tests.support.homes import until

DROPPED = "CREATED, ACTIVE, CANCEL_REQUESTED, ERROR, CANCELED"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.node.start()
    yield rig
    await rig.node.stop(0)
    rig.database.close()


async def settled(rig: Rig, *task_ids: str) -> list[tuple[str, int | None]]:
    """Wait for the end of tasks; give their states and attempts."""
    async with asyncio.timeout(SOON_S):
        found = [await rig.broker.results.afind(each, 60_000) for each in task_ids]
    return [(each.state, each.attempts) for each in found]


async def test_a_task_in_flight_is_dropped(rig: Rig) -> None:
    rig.deliverer.will(Held())
    message = rig.call("tsk_1")
    await rig.deliverer.reached(1)

    count = await asyncio.to_thread(rig.broker.cancel, [message])

    assert count == 1
    assert await settled(rig, "tsk_1") == [("CANCELLED", 1)]
    assert rig.states(message) == DROPPED


async def test_a_task_that_was_quicker_has_succeeded(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    message = rig.call("tsk_1")
    await rig.deliverer.reached(1)

    held.release()
    rig.broker.cancel([message])

    assert await settled(rig, "tsk_1") == [("SUCCEEDED", 1)]
    assert rig.states(message) == "CREATED, ACTIVE, CANCEL_REQUESTED, DELIVERED"


async def test_what_is_no_task_goes_on_as_with_qstash(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    message = rig.enqueue()
    await rig.deliverer.reached(1)

    rig.broker.cancel([message])
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.states(message) == "CREATED, ACTIVE, CANCEL_REQUESTED"
    held.release()
    await until(lambda: "DELIVERED" in rig.states(message))


async def test_only_those_that_were_called_off_are_dropped(rig: Rig) -> None:
    held = [Held(), Held(Reply(200, body=b"2"))]
    rig.deliverer.will(*held)
    first = rig.enqueue(
        destination="https://app.example/hook", queue="a", task_id="tsk_1", result_ttl_ms=60_000
    )
    rig.enqueue(destination="https://app.example/hook", queue="b", task_id="tsk_2", result_ttl_ms=60_000)
    await rig.deliverer.reached(2)

    await asyncio.to_thread(rig.broker.cancel, [first])
    assert await settled(rig, "tsk_1") == [("CANCELLED", 1)]
    assert rig.broker.results.find("tsk_2").state == "RUNNING"
    held[1].release()

    assert await settled(rig, "tsk_2") == [("SUCCEEDED", 1)]


async def test_a_bulk_cancel_drops_as_well(rig: Rig) -> None:
    rig.deliverer.will(Held())
    rig.call("tsk_1", labels=("red",))
    await rig.deliverer.reached(1)

    assert rig.broker.cancel_matching(MessageFilter(labels=frozenset({"red"})), None) == 1
    assert await settled(rig, "tsk_1") == [("CANCELLED", 1)]


async def test_a_queue_that_is_dropped_lets_what_is_in_flight_end(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    rig.call("tsk_1")
    await rig.deliverer.reached(1)

    rig.broker.delete_queue("tasks")
    for _ in range(10):
        await asyncio.sleep(0)
    held.release()

    assert await settled(rig, "tsk_1") == [("SUCCEEDED", 1)]


async def test_a_cancel_at_the_moment_of_the_claim_is_not_missed(rig: Rig) -> None:
    """The lease is committed, and the delivery has not begun when the cancel comes."""
    for number in range(20):
        rig.deliverer.will(Held())
        message = rig.call(f"tsk_{number}")
        while rig.broker.results.find(f"tsk_{number}").state != "RUNNING":  # noqa: ASYNC110  # nobody is told of a start
            await asyncio.sleep(0)
        rig.broker.cancel([message])

        [(state, _)] = await settled(rig, f"tsk_{number}")
        assert state == "CANCELLED"


async def test_by_the_name_of_the_task_in_its_body(rig: Rig) -> None:
    rig.broker.set_queue("tasks", 5, True)
    bodies = {
        "tsk_1": b'{"v":1,"task":"mail"}',
        "tsk_2": b'{"v":1,"task":"video"}',
        "tsk_3": b"[]",
        "tsk_4": b"no json",
        "tsk_5": b'{"task":7}',
        "tsk_6": b'{"task":"mail","args":["video"]}',
    }
    for task_id, body in bodies.items():
        rig.call(task_id, body)
    rig.enqueue(b'{"task":"mail"}', queue="tasks")  # no task of ours

    count = rig.broker.cancel_matching(MessageFilter(tasks=frozenset({"mail"})), None)

    states = {each: rig.broker.results.find(each).state for each in bodies}
    assert count == 2
    assert {each for each, state in states.items() if state == "CANCELLED"} == {"tsk_1", "tsk_6"}
