"""`DELETE /v2/queues/{queue}` (contract 1.5, 2.6)."""

from __future__ import annotations

import httpx

from tests.support.broker import Held, Rig


async def test_an_absent_queue_is_deleted_as_well(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/v2/queues/nothing")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_deleted_queue_is_gone_and_what_waited_in_it_is_called_off(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    ids = [rig.enqueue(queue="mail") for _ in range(3)]

    await client.delete("/v2/queues/mail")

    assert (await client.get("/v2/queues")).json() == []
    assert [rig.states(each) for each in ids] == ["CREATED, CANCEL_REQUESTED, CANCELED"] * 3


async def test_what_is_in_flight_ends_outside_a_deleted_queue(client: httpx.AsyncClient, rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    message_id = rig.enqueue(queue="mail")
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    await client.delete("/v2/queues/mail")
    held.release()
    await rig.node.dispatcher.idle()

    assert rig.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, DELIVERED"
