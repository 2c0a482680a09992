"""A store that commits and whose answer is lost: nothing stays leased that nobody carries."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from qtasks.broker.store.database import Work
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.errors import StoreUnreachable
from tests.support.broker import WIDE, Held, Rig


class Forgetful:
    """A database whose next answers to writes are lost, after the commit."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.to_lose = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)

    async def write(self, work: Work[Any]) -> Any:
        result = await self.database.write(work)
        if self.to_lose:
            self.to_lose -= 1
            raise StoreUnreachable("the connection is lost")
        return result


def forgetful(rig: Rig) -> Forgetful:
    lost = Forgetful(rig.database)
    rig.node.dispatcher._database = cast(Any, lost)  # it is one, but for its answers
    return lost


async def test_what_was_claimed_without_an_answer_is_given_back_and_claimed_again(rig: Rig) -> None:
    lost = forgetful(rig)
    message = rig.enqueue(b"1", spec=WIDE)
    lost.to_lose = 1

    with pytest.raises(StoreUnreachable):
        await rig.node.dispatcher.step()
    taken = rig.deliverer.bodies
    for _ in range(3):
        await rig.turn()

    assert taken == []
    assert rig.deliverer.bodies == [b"1"]
    assert rig.states(message) == "CREATED, ACTIVE, RETRY, ACTIVE, DELIVERED"
    assert rig.deliverer.attempts[0].attempt == 1  # the lost one was not spent


async def test_what_is_under_way_is_not_given_back(rig: Rig) -> None:
    lost = forgetful(rig)
    held = Held()
    rig.deliverer.will(held)
    rig.enqueue(b"slow", spec=WIDE)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    rig.enqueue(b"lost", spec=WIDE)
    lost.to_lose = 1

    with pytest.raises(StoreUnreachable):
        await rig.node.dispatcher.step()
    await rig.node.dispatcher.step()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    held.released.set()
    await rig.node.dispatcher.idle()

    assert rig.deliverer.bodies == [b"slow", b"lost"]


async def test_an_end_whose_answer_was_lost_is_recorded_once(rig: Rig) -> None:
    lost = forgetful(rig)
    message = rig.enqueue(b"1", spec=WIDE)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    lost.to_lose = 1

    task = asyncio.create_task(rig.node.dispatcher.idle())
    await rig.clock.somebody_sleeps()
    rig.clock.advance(1000)
    await task

    assert rig.states(message) == "CREATED, ACTIVE, DELIVERED"
