"""A node that waits for work has it claimed by whoever brings some, in one transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from qtasks.broker.delivery import Admission
from qtasks.broker.store import messages, settling
from qtasks.broker.store.changes import Errand
from qtasks.broker.store.database import Session
from qtasks.broker.store.group import Ticket
from qtasks.broker.store.records import Claim, Reply, Settlement
from tests.broker.conftest import MakeRig
from tests.support.broker import SOON_S, WIDE, Held, Rig
from tests.support.homes import until
from tests.support.store import DAY_MS

CREATED, CLAIMED = "CREATED", "CREATED, ACTIVE"


class Idling:
    """A node that runs, and tells when it waits for work with nothing in flight."""

    def __init__(self, rig: Rig) -> None:
        self.waits_ms: list[int] = []
        """How long it was about to wait, each time."""
        self._dispatcher = rig.node.dispatcher
        self._stands = False
        self._changed = rig.database.changed
        changed: Any = self._wait
        rig.database.changed = changed  # type: ignore[method-assign]

    async def _wait(self, wait_ms: int, *how: Any) -> bool:
        self._stands = True
        self.waits_ms.append(wait_ms)
        try:
            return await self._changed(wait_ms, *how)
        finally:
            self._stands = False

    async def waits(self) -> None:
        """Return once it waits, and nothing that has ended is yet to be recorded."""
        async with asyncio.timeout(SOON_S):
            for _ in range(2):  # news that it has not heard yet would end its wait at once
                await asyncio.sleep(0.005)
                await until(lambda: self._stands and not self._dispatcher.in_flight)


@pytest.fixture
async def idling(rig: Rig) -> AsyncIterator[Idling]:
    idling = Idling(rig)
    await rig.node.start()
    await idling.waits()
    yield idling
    await rig.node.stop()


async def test_a_message_is_claimed_in_the_transaction_that_stores_it(rig: Rig, idling: Idling) -> None:
    message_id = rig.enqueue()

    assert rig.states(message_id) == CLAIMED
    await rig.deliverer.reached(1)
    assert rig.deliverer.attempts[0].id == message_id


async def test_the_next_one_is_claimed_along_as_well(rig: Rig, idling: Idling) -> None:
    for n in range(1, 4):
        assert rig.states(rig.enqueue(queue=f"queue-{n}")) == CLAIMED
        await rig.deliverer.reached(n)
        await idling.waits()


async def test_what_is_claimed_along_is_begun_on_the_thread_that_claimed_it(
    rig: Rig, idling: Idling, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int]] = []

    def begin_early(claims: Sequence[Claim], loop: asyncio.AbstractEventLoop) -> None:
        assert loop is asyncio.get_running_loop()
        begun.extend((each.id, threading.get_ident()) for each in claims)

    monkeypatch.setattr(rig.deliverer, "begin_early", begin_early)

    message_id = rig.enqueue()

    assert begun == [(message_id, threading.get_ident())]
    await rig.deliverer.reached(1)
    assert [each.id for each in rig.deliverer.attempts] == [message_id]


async def test_of_many_no_more_are_claimed_along_than_may_be_in_flight(make_rig: MakeRig) -> None:
    rig = make_rig(concurrency=2)
    idling = Idling(rig)
    await rig.node.start()
    await idling.waits()
    held = [Held(), Held()]
    rig.deliverer.will(*held)

    message_ids = [rig.enqueue(spec=WIDE) for _ in range(5)]
    await rig.deliverer.reached(2)

    assert [rig.states(each) for each in message_ids].count(CLAIMED) == 2
    for each in held:
        each.release()
    await rig.deliverer.reached(5)
    await rig.node.stop()


async def test_a_node_that_is_held_has_nothing_claimed(rig: Rig, idling: Idling) -> None:
    rig.node.dispatcher.hold(True)

    message_id = rig.enqueue()

    assert rig.states(message_id) == CREATED
    rig.node.dispatcher.hold(False)
    await rig.deliverer.reached(1)


async def test_a_node_that_stops_has_nothing_claimed(rig: Rig, idling: Idling) -> None:
    rig.node.dispatcher.stop_claiming()

    assert rig.states(rig.enqueue()) == CREATED


async def test_a_retry_is_not_claimed_along_before_its_time_when_the_clock_is_set(
    rig: Rig, idling: Idling
) -> None:
    rig.deliverer.will(Reply(500))
    rig.enqueue()
    await rig.deliverer.reached(1)
    await idling.waits()

    rig.clock.step_wall(3 * DAY_MS)
    rig.enqueue(queue="other")
    await rig.deliverer.reached(2)
    await idling.waits()

    assert [each.queue for each in rig.deliverer.attempts] == ["mail", "other"]


async def test_what_was_claimed_along_can_be_called_off_at_once(rig: Rig, idling: Idling) -> None:
    rig.deliverer.will(Held())
    message_id = rig.call("tsk_1")

    assert await asyncio.to_thread(rig.broker.cancel, [message_id]) == 1

    await idling.waits()
    assert [each.id for each in rig.deliverer.attempts] == [message_id]
    assert rig.states(message_id).endswith("CANCELED")


async def test_a_claim_whose_transaction_failed_is_looked_for_again(
    rig: Rig, idling: Idling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(errand: Errand[Any], session: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Errand, "perform", perform)
        message_id = rig.enqueue()
    assert rig.states(message_id) == CREATED

    await rig.deliverer.reached(1)
    assert rig.deliverer.attempts[0].id == message_id


class Writes:
    """Counts what a node writes by itself."""

    def __init__(self, rig: Rig, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._write = rig.database.write
        patch.setattr(rig.database, "write", self._counted)

    async def _counted(self, work: Any, **how: Any) -> Any:
        self.count += 1
        return await self._write(work, **how)


async def test_a_lone_message_costs_one_transaction_beside_the_one_that_stores_it(
    rig: Rig, idling: Idling, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(rig, monkeypatch)

    for n in range(1, 4):
        rig.enqueue()
        await rig.deliverer.reached(n)
        await idling.waits()

    assert writes.count == 3


async def test_a_retry_is_waited_for_without_another_look(
    rig: Rig, idling: Idling, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.deliverer.will(Reply(500, (("Retry-After", "1"),)))
    writes = Writes(rig, monkeypatch)

    rig.enqueue()
    await rig.deliverer.reached(1)
    await idling.waits()

    assert writes.count == 1
    rig.clock.advance(400)
    rig.enqueue(queue="other")
    await rig.deliverer.reached(2)
    await idling.waits()
    assert idling.waits_ms[-1] == 600


async def test_what_comes_while_a_settlement_claims_is_claimed(rig: Rig, idling: Idling) -> None:
    held = Held()
    rig.deliverer.will(held)
    settle = settling.settle
    late: list[str] = []

    def settle_late(session: Session, settlements: Sequence[Settlement]) -> list[Settlement]:
        recorded = settle(session, settlements)
        if not late:
            late.append("")
            threading.Thread(target=lambda: late.append(rig.enqueue(queue="other"))).start()
        return recorded

    rig.enqueue()
    await rig.deliverer.reached(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "settle", settle_late)
        held.release()
        await rig.deliverer.reached(2)

    assert rig.deliverer.attempts[1].queue == "other"


async def test_a_node_that_was_held_while_a_settlement_claimed_looks_again(rig: Rig, idling: Idling) -> None:
    held = Held()
    rig.deliverer.will(held)
    rig.enqueue()
    await rig.deliverer.reached(1)
    rig.node.dispatcher.hold(True)
    rig.enqueue(queue="other")

    held.release()
    await idling.waits()
    rig.node.dispatcher.hold(False)

    await rig.deliverer.reached(2)


async def test_what_joins_a_commit_after_a_claim_was_made_in_it_is_looked_for_at_once(
    rig: Rig, idling: Idling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtasks.broker.dispatcher.LONGEST_WAIT_MS", 3_600_000)
    now = rig.clock.now()
    first, second = (
        Ticket(messages.Enqueueing([rig.store.message(body, queue=queue)], now))
        for body, queue in ((b"first", "one"), (b"second", "two"))
    )
    taken = iter([[first], [second], []])
    held = Held()  # or its end would have the other one claimed
    rig.deliverer.will(held)

    await asyncio.to_thread(rig.database._commit, lambda: next(taken))

    assert (first.error, second.error) == (None, None)
    await rig.deliverer.reached(2)
    assert rig.deliverer.bodies == [b"first", b"second"]
    held.release()


async def test_what_arrives_for_a_claim_without_a_slot_is_looked_for_once_there_is_one(
    rig: Rig, idling: Idling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtasks.broker.dispatcher.LONGEST_WAIT_MS", 3_600_000)
    slots = rig.node.dispatcher.slots
    monkeypatch.setattr(slots, "admission", lambda in_hand: Admission(0))  # an app that has turned slow
    rig.node.dispatcher.hold(False)  # it leaves another errand
    await idling.waits()
    message_id = rig.enqueue()
    assert rig.states(message_id) == CREATED

    monkeypatch.undo()
    rig.node.dispatcher.hold(False)
    await rig.deliverer.reached(1)
