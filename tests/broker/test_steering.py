"""What a person at a broker may do to all of it: hold deliveries, and let nothing wait for its instant."""

from __future__ import annotations

import asyncio

from qtasks.broker.store.records import Reply
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.support.broker import HOOK, SOON_S, Held, Rig

HOUR_MS = 3_600_000


async def test_a_held_dispatcher_begins_nothing_until_it_is_let_go(rig: Rig) -> None:
    rig.node.dispatcher.hold(True)
    rig.enqueue(b"one", queue="a")
    rig.enqueue(b"two", queue="b")

    assert await rig.turn() == 0
    rig.node.dispatcher.hold(False)
    assert await rig.turn() == 2


async def test_what_is_in_flight_ends_while_deliveries_are_held(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    first, second = rig.enqueue(), rig.enqueue()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    rig.node.dispatcher.hold(True)
    held.release()
    await rig.node.dispatcher.idle()

    assert rig.states(first) == "CREATED, ACTIVE, DELIVERED"
    assert rig.states(second) == "CREATED"


async def test_letting_go_wakes_a_dispatcher_that_waits(rig: Rig) -> None:
    rig.node.dispatcher.hold(True)
    await rig.node.start()
    rig.enqueue(b"late")
    await asyncio.sleep(0)
    assert rig.deliverer.bodies == []

    rig.node.dispatcher.hold(False)
    async with asyncio.timeout(SOON_S):
        await rig.deliverer.reached(1)
    await rig.node.stop()


async def test_what_was_delayed_and_what_waits_for_its_retry_is_due_at_once(rig: Rig) -> None:
    rig.deliverer.will(Reply(500))
    retried = rig.enqueue()
    await rig.turn()
    options = Options(not_before=rig.clock.now() + HOUR_MS)
    delayed = rig.broker.accept([Outgoing(HOOK, b"", options)])[0].message_id
    assert await rig.turn() == 0

    assert rig.broker.hasten() == 2
    assert await rig.turn() == 2
    assert rig.states(retried).endswith("RETRY, ACTIVE, DELIVERED")
    assert rig.states(delayed).endswith("ACTIVE, DELIVERED")
    assert rig.broker.hasten() == 0


async def test_an_ordered_queue_keeps_its_order_when_its_retry_is_hastened(rig: Rig) -> None:
    rig.deliverer.will(Reply(500))
    rig.enqueue(b"first")
    rig.enqueue(b"second")
    await rig.turn()

    rig.broker.hasten()
    while await rig.turn():
        pass

    assert rig.deliverer.bodies == [b"first", b"first", b"second"]
