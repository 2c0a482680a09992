"""A store that commits and whose answer is lost: nothing stays leased that nobody carries."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from qtasks.broker.store.database import Work
from qtasks.broker.store.records import Reply
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.errors import StoreUnreachable
from tests.support.broker import SOON_S, WIDE, Held, Rig


class Forgetful:
    """A database whose next answers to writes are lost or late, after the commit, or that refuses them."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.to_lose = 0
        self.to_refuse = 0
        self.next_answer: asyncio.Event | None = None
        """Set when the answer to the next write may come."""
        self.committed = asyncio.Event()
        """Whether that write has been committed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)

    async def write(self, work: Work[Any], *, is_small: bool = False) -> Any:
        if self.to_refuse:
            self.to_refuse -= 1
            raise StoreUnreachable("the connection is lost")
        answer, self.next_answer = self.next_answer, None
        result = await self.database.write(work, is_small=is_small)
        if answer is not None:
            self.committed.set()
            await answer.wait()
        if self.to_lose:
            self.to_lose -= 1
            raise StoreUnreachable("the connection is lost")
        return result


async def let_happen() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


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


async def test_what_is_claimed_again_before_its_end_is_known_is_carried_to_its_end(rig: Rig) -> None:
    lost = forgetful(rig)
    again = Held()
    rig.deliverer.will(Reply(500), again)
    message = rig.enqueue(b"1", spec=WIDE, retry_delay="0")
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    lost.to_lose = 1

    task = asyncio.create_task(rig.node.dispatcher.idle())
    await rig.clock.somebody_sleeps()  # the failure is committed, and will be recorded once more
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    rig.clock.advance(1000)
    again.release()
    await task

    assert rig.states(message) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, DELIVERED"


async def test_what_is_claimed_just_now_is_not_given_back_by_an_end_that_is_recorded(rig: Rig) -> None:
    lost = forgetful(rig)
    first = Held()
    rig.deliverer.will(first, Held())
    rig.enqueue(b"first", spec=WIDE)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    message = rig.enqueue(b"second", spec=WIDE)
    lost.to_lose = 1
    with pytest.raises(StoreUnreachable):
        await rig.node.dispatcher.step()

    answer = lost.next_answer = asyncio.Event()
    claiming = asyncio.create_task(rig.node.dispatcher.step())
    await lost.committed.wait()
    first.release()
    await rig.node.dispatcher.idle()
    answer.set()
    await claiming
    await rig.deliverer.reached(2)

    assert rig.states(message) == "CREATED, ACTIVE, RETRY, ACTIVE"  # given back once, when it was lost


async def test_a_takeover_that_fails_is_tried_again(rig: Rig) -> None:
    lost: Any = forgetful(rig)
    rig.broker.database = lost
    rig.enqueue(b"1", spec=WIDE)
    rig.store.claim(node="another")
    lost.to_refuse = 1

    rig.node._take_over()
    await rig.clock.somebody_sleeps()
    rig.clock.advance(1000)
    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*rig.node._takeovers)
    await rig.turn()

    assert rig.deliverer.bodies == [b"1"]


async def test_a_stop_records_the_end_that_it_knows_instead_of_handing_it_back(rig: Rig) -> None:
    lost = forgetful(rig)
    message = rig.enqueue(b"1", spec=WIDE)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    lost.to_refuse = 1
    settling = asyncio.create_task(rig.node.dispatcher.settle_forever())
    await rig.clock.somebody_sleeps()  # the store did not answer, and is asked again later

    await rig.node.dispatcher.drain(0)

    assert rig.states(message) == "CREATED, ACTIVE, DELIVERED"
    settling.cancel()


async def test_a_stop_records_an_end_that_comes_while_it_records_others(rig: Rig) -> None:
    lost = forgetful(rig)
    first, second = Held(), Held()
    rig.deliverer.will(first, second)
    messages = [rig.enqueue(body, spec=WIDE) for body in (b"first", b"second")]
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    first.release()
    await let_happen()
    answer = lost.next_answer = asyncio.Event()

    draining = asyncio.create_task(rig.node.dispatcher.drain(0))
    await lost.committed.wait()
    second.release()
    await let_happen()
    answer.set()

    assert await draining == 0
    assert [rig.states(each) for each in messages] == ["CREATED, ACTIVE, DELIVERED"] * 2
