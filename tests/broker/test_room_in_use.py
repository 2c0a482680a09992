"""What a broker does with the room on its disk: what it refuses, what goes on, and on what (P06).

The store's limit stands for a full disk here, and raising it for what the ballast gives back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.room import HOLD_MS, MIB, Room, allocate, ballast_path
from qtasks.broker.store.dead_letters import EVERY_LETTER
from qtasks.broker.store.records import Reply
from qtasks.errors import StoreFull
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing
from tests.support.broker import HOOK, SOON_S, WIDE, Held, Rig

BALLAST = 1 * MIB
ENDED = "CREATED, ACTIVE, ERROR, FAILED"
LARGE = Reply(500, body=bytes(100_000), error="unexpected status 500")
"""An answer that takes room to keep."""


class Disk:
    """A rig whose disk has so much room as the test says."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.rig = Rig(folder, **config)
        self.ballast = ballast_path(folder / "q.db")
        self.free = 100 * MIB
        self.on_relief: Callable[[], None] = lambda: None
        self.room = self.rig.broker.room = Room(
            folder / "q.db",
            reserve_bytes=10 * MIB,
            ballast_bytes=BALLAST,
            clock=self.rig.clock,
            free_bytes=lambda: (self.free, 1000 * MIB),
            relieve=lambda: self.on_relief(),
        )
        self.rig.node = self.rig.new_node()
        self.room.step()

    def set_free(self, free: int) -> None:
        """Have so much room, and look."""
        self.free = free
        for _ in range(2):
            self.rig.clock.advance(HOLD_MS)
            self.room.step()

    def fill(self) -> None:
        """Let the store use no more than it does now."""
        self.rig.database._writer.execute("PRAGMA max_page_count = 1")

    def grow(self) -> None:
        """Let the store use more."""
        self.rig.database._writer.execute("PRAGMA max_page_count = 100000")


MakeDisk = Callable[..., Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Make a disk with room; one for each test."""
    made: list[Disk] = []

    def make(**config: Any) -> Disk:
        made.append(Disk(tmp_path, **config))
        return made[-1]

    yield make
    for disk in made:
        disk.rig.database.close()


@pytest.fixture
def disk(make_disk: MakeDisk) -> Disk:
    return make_disk()


def test_while_room_is_short_messages_are_refused_and_the_rest_goes_on(disk: Disk) -> None:
    rig = disk.rig
    message_id = rig.enqueue(spec=WIDE, start_at=rig.clock.now() + 60_000)
    disk.set_free(5 * MIB)

    with pytest.raises(StoreFull, match="too little room left for"):
        rig.enqueue()

    assert rig.broker.message(message_id).message_id == message_id
    rig.broker.set_queue("mail", 3, paused=True)
    assert rig.broker.cancel([message_id]) == 1
    disk.set_free(100 * MIB)
    assert rig.enqueue()


async def test_while_room_is_short_no_dead_letter_becomes_a_message_again(disk: Disk) -> None:
    rig = disk.rig
    rig.deliverer.will(RuntimeError("no"))
    rig.enqueue(retries=0)
    await rig.turn()
    [[letter], _] = rig.broker.dead_letters(None, 10)
    disk.set_free(5 * MIB)

    with pytest.raises(StoreFull):
        rig.broker.replay(letter.dlq_id, Options())
    with pytest.raises(StoreFull):
        rig.broker.replay_many(EVERY_LETTER, None, 10, Options())

    disk.set_free(100 * MIB)
    assert rig.broker.replay(letter.dlq_id, Options()).message_id


def test_a_broker_that_refuses_for_lack_of_room_is_not_ready_and_says_why(disk: Disk) -> None:
    assert disk.rig.broker.problem() is None

    disk.set_free(5 * MIB)

    assert str(disk.rig.broker.problem()).startswith("too little room left for")


async def test_below_the_reserve_what_was_accepted_is_delivered(disk: Disk) -> None:
    disk.rig.enqueue()
    disk.set_free(5 * MIB)

    assert await disk.rig.turn() == 1


async def test_on_the_last_of_the_room_nothing_begins_until_there_is_more(disk: Disk) -> None:
    rig = disk.rig
    rig.enqueue()
    disk.set_free(0)

    assert await rig.turn() == 0
    disk.set_free(100 * MIB)

    assert await rig.turn() == 1


async def test_a_full_disk_costs_the_ballast_and_the_end_of_a_delivery_is_recorded_at_once(
    disk: Disk,
) -> None:
    rig, held = disk.rig, Held(LARGE)
    rig.deliverer.will(held)
    message_id = rig.enqueue(spec=WIDE, retries=0)
    rig.enqueue(b"second", spec=WIDE, start_at=rig.clock.now() + 1)
    await rig.node.dispatcher.step()
    disk.fill()
    rig.clock.advance(1)
    disk.on_relief = disk.grow
    held.release()

    async with asyncio.timeout(SOON_S):  # the clock stands still, so whoever sleeps does so for ever
        await rig.node.dispatcher.idle()

    assert rig.states(message_id) == ENDED
    assert not disk.ballast.exists()
    assert rig.deliverer.bodies == [b""]  # the slot that became free was not filled
    with pytest.raises(StoreFull):
        rig.enqueue()


async def test_without_a_ballast_the_end_of_a_delivery_waits_for_room(disk: Disk) -> None:
    rig, held = disk.rig, Held(LARGE)
    rig.deliverer.will(held)
    message_id = rig.enqueue(spec=WIDE, retries=0)
    await rig.node.dispatcher.step()
    disk.fill()
    disk.room.release()
    held.release()
    settling = asyncio.create_task(rig.node.dispatcher.idle())
    await rig.clock.somebody_sleeps()
    assert rig.states(message_id) == "CREATED, ACTIVE"

    disk.grow()
    rig.clock.advance(1000)
    async with asyncio.timeout(SOON_S):
        await settling

    assert rig.states(message_id) == ENDED
    assert len(rig.deliverer.attempts) == 1


async def test_schedules_wait_while_the_disk_is_full_and_are_caught_up_with(disk: Disk) -> None:
    rig = disk.rig
    rig.broker.schedules.create(Outgoing(HOOK, b"tick", Options(cron=parse_cron("* * * * *"))))
    disk.set_free(0)
    firing = asyncio.create_task(rig.node.scheduler.run())
    await rig.clock.somebody_sleeps()
    rig.clock.advance(minutes=3)
    await rig.clock.somebody_sleeps()
    assert rig.store.log() == []

    disk.set_free(100 * MIB)
    await rig.clock.somebody_sleeps()

    assert len(rig.store.log()) == 1
    firing.cancel()
    await asyncio.wait([firing], timeout=SOON_S)


async def test_a_node_watches_the_room_while_it_runs(disk: Disk) -> None:
    rig = disk.rig
    await rig.node.start()
    await rig.clock.somebody_sleeps()
    disk.free = 0

    async with asyncio.timeout(SOON_S):
        while not disk.room.is_short:
            rig.clock.advance(1000)
            await rig.clock.somebody_sleeps()

    await rig.node.stop(0)


def test_the_ballast_of_an_earlier_life_is_there_for_the_next(tmp_path: Path, make_disk: MakeDisk) -> None:
    allocate(ballast_path(tmp_path / "q.db"), BALLAST)

    disk = make_disk()

    assert disk.room.release()


async def test_a_stop_on_a_full_disk_ends_with_the_grace_and_the_next_life_recovers(
    make_disk: MakeDisk,
) -> None:
    count = 300  # more than the last pages of the store have room for
    disk = make_disk(concurrency=count)
    rig = disk.rig
    rig.deliverer.will(*(Held() for _ in range(count)))
    for _ in range(count):
        rig.enqueue(spec=QueueSpec(count, ordered=False))
    await rig.node.start()
    await rig.deliverer.reached(count)
    disk.fill()
    disk.room.release()
    stopping = asyncio.create_task(rig.node.stop(1000))

    async with asyncio.timeout(SOON_S):
        while not stopping.done():
            rig.clock.advance(500)
            await asyncio.sleep(0.01)

    assert await stopping == 0
    disk.grow()
    assert await rig.new_node().recover() == count
