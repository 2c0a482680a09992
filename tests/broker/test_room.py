"""The room on the store's disk: when messages are refused, and what becomes of the ballast.

The disk is a number here, and the ballast a real file on it; whole disks are filled in
`tests/faults/test_process_disk_full.py`.
"""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from qtasks.broker.room import (
    HOLD_MS,
    LOOK_MS,
    MIB,
    Room,
    allocate,
    ballast_path,
    default_reserve,
    free_bytes_at,
    judge_room,
    write_zeros,
)
from qtasks.errors import StoreFull
from tests.support.broker import SOON_S, WatchedClock

RESERVE = 16 * MIB
BALLAST = 2 * MIB
RESUMES_MS = 5000  # promise P06


class Disk:
    """A disk of 1 GiB with so many bytes free, of which a ballast that is there takes its share."""

    def __init__(self, folder: Path, free: int) -> None:
        self.database = folder / "q.db"
        self.ballast = ballast_path(self.database)
        self.free = free
        self.error: OSError | None = None
        self.clock = WatchedClock()
        self.looks = 0
        self.relieved = 0

    def free_bytes(self) -> tuple[int, int]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        held = self.ballast.stat().st_size if self.ballast.is_file() else 0
        return self.free - held, 1024 * MIB

    def room(self, *, reserve: int | None = RESERVE, ballast: int = BALLAST) -> Room:
        return Room(
            self.database,
            reserve_bytes=reserve,
            ballast_bytes=ballast,
            clock=self.clock,
            free_bytes=self.free_bytes,
            relieve=self.relieve,
        )

    def relieve(self) -> None:
        self.relieved += 1

    def step(self, room: Room, *, after_ms: int = LOOK_MS) -> None:
        """Let time pass, and look."""
        self.clock.advance(after_ms)
        room.step()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A disk with plenty of room."""
    return Disk(tmp_path, 500 * MIB)


@pytest.mark.parametrize(
    ("available", "was_short", "is_short", "is_spent"),
    [
        (200, False, False, False),
        (180, False, False, False),
        (179, False, True, False),
        (180, True, True, False),
        (189, True, True, False),
        (190, True, False, False),
        (25, True, True, False),
        (24, True, True, True),
        (0, False, True, True),
    ],
)
def test_the_verdict_on_what_is_available(
    available: int, was_short: bool, is_short: bool, is_spent: bool
) -> None:
    verdict = judge_room(available, reserve=160, ballast=20, was_short=was_short)

    assert (verdict.is_short, verdict.is_spent) == (is_short, is_spent)


def test_without_a_ballast_deliveries_begin_to_the_last() -> None:
    assert not judge_room(0, reserve=160, ballast=0, was_short=True).is_spent


@pytest.mark.parametrize(
    ("total", "reserve"), [(100 * MIB, 5 * MIB), (1280 * MIB, 64 * MIB), (2_000_000 * MIB, 64 * MIB)]
)
def test_the_reserve_is_five_percent_of_the_disk_and_at_most_64_mib(total: int, reserve: int) -> None:
    assert default_reserve(total) == reserve


def test_with_room_enough_messages_are_accepted(disk: Disk) -> None:
    room = disk.room()

    room.step()

    room.check()
    assert not room.is_short
    assert not room.is_spent
    assert disk.relieved == 0


def test_below_the_reserve_messages_are_refused_with_all_that_one_must_know(disk: Disk) -> None:
    room = disk.room()
    room.step()
    disk.free = 12 * MIB + BALLAST

    disk.step(room)

    with pytest.raises(StoreFull) as raised:
        room.check()
    assert str(raised.value) == (
        f"too little room left for {disk.database}: 12.0 MiB are free, and 16.0 MiB are kept for what was "
        "accepted before; nothing was stored. Make room on its disk and repeat"
    )
    assert not room.is_spent


def test_by_default_the_reserve_goes_by_the_size_of_the_disk(disk: Disk) -> None:
    room = disk.room(reserve=None)
    disk.free = default_reserve(1024 * MIB) + BALLAST - 1

    room.step()

    assert room.is_short


def test_a_reserve_of_nothing_refuses_nothing(disk: Disk) -> None:
    room = disk.room(reserve=0, ballast=0)
    disk.free = 1

    room.step()

    assert not room.is_short


def test_the_ballast_is_a_file_of_this_user_alone_that_takes_up_its_room(disk: Disk) -> None:
    disk.room().step()

    found = disk.ballast.stat()
    assert found.st_size == BALLAST
    assert found.st_blocks * 512 >= BALLAST
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_a_ballast_of_zeros_takes_up_its_room_too(tmp_path: Path) -> None:
    with (tmp_path / "ballast").open("wb") as made:
        write_zeros(made.fileno(), BALLAST + 1)

    found = (tmp_path / "ballast").stat()
    assert found.st_size == BALLAST + 1
    assert found.st_blocks * 512 >= BALLAST


def test_a_look_makes_no_ballast(disk: Disk) -> None:
    disk.room().look()

    assert not disk.ballast.exists()


def test_there_is_no_ballast_if_none_is_wanted(disk: Disk) -> None:
    room = disk.room(ballast=0)

    room.step()

    assert not disk.ballast.exists()
    assert not room.release()


def test_a_ballast_that_would_cut_into_the_reserve_is_not_made(disk: Disk) -> None:
    room = disk.room()
    disk.free = RESERVE + BALLAST - 1

    room.step()

    assert not disk.ballast.exists()
    assert room.is_short


def test_a_ballast_of_an_earlier_life_is_kept_as_it_is(disk: Disk) -> None:
    allocate(disk.ballast, BALLAST)
    before = disk.ballast.stat().st_ino

    disk.room().step()

    assert disk.ballast.stat().st_ino == before


def test_a_ballast_of_another_size_is_made_anew(disk: Disk) -> None:
    allocate(disk.ballast, BALLAST // 2)

    disk.room().step()

    assert disk.ballast.stat().st_size == BALLAST


def test_a_ballast_that_somebody_deleted_is_made_again(disk: Disk) -> None:
    room = disk.room()
    room.step()
    disk.ballast.unlink()

    disk.step(room)

    assert disk.ballast.exists()
    assert not room.is_short


def test_the_ballast_is_given_up_once_and_nothing_is_accepted_from_then_on(disk: Disk) -> None:
    room = disk.room()
    room.step()

    assert room.release()

    assert not disk.ballast.exists()
    assert room.is_short
    assert room.is_spent
    assert not room.release()


def test_what_the_ballast_gives_back_is_no_room_for_messages(disk: Disk) -> None:
    """Even where the reserve is smaller than the ballast."""
    room = disk.room(reserve=BALLAST // 4)
    room.step()
    disk.free = BALLAST + 1
    disk.step(room)
    assert room.release()

    for _ in range(10):
        disk.step(room)

    assert room.is_short
    assert room.is_spent
    assert not disk.ballast.exists()


def test_on_a_disk_that_is_full_at_the_start_only_the_ballast_is_left_to_give_up(disk: Disk) -> None:
    allocate(disk.ballast, BALLAST)
    disk.free = BALLAST

    room = disk.room()
    room.step()

    assert room.is_short
    assert room.is_spent
    assert room.release()


def test_after_a_restart_without_ballast_no_delivery_begins_on_what_it_gave_back(disk: Disk) -> None:
    disk.free = BALLAST
    room = disk.room()

    room.step()

    assert room.is_spent


def test_deliveries_begin_between_the_reserve_and_the_last_of_the_room(disk: Disk) -> None:
    disk.free = RESERVE // 2
    room = disk.room()

    room.step()

    assert room.is_short
    assert not room.is_spent


def test_within_five_seconds_of_room_messages_are_accepted_and_the_ballast_is_back(disk: Disk) -> None:
    room = disk.room()
    room.step()
    disk.free = BALLAST
    disk.step(room)
    room.release()
    disk.free = 500 * MIB
    waited_ms = 0

    while room.is_short:
        disk.step(room)
        waited_ms += LOOK_MS

    assert waited_ms + LOOK_MS <= RESUMES_MS
    assert disk.ballast.stat().st_size == BALLAST
    assert not room.is_spent


def test_room_that_comes_and_goes_does_not_change_the_answer_every_second(disk: Disk) -> None:
    room = disk.room()
    answers = []

    for second in range(20):
        disk.free = 500 * MIB if second % 2 else 10 * MIB
        disk.step(room)
        answers.append(room.is_short)

    assert answers == [True] * 20
    assert HOLD_MS > LOOK_MS


def test_a_little_more_than_too_little_is_not_enough(disk: Disk) -> None:
    room = disk.room()
    disk.free = 1 * MIB
    room.step()
    disk.free = RESERVE + BALLAST + MIB // 2

    for _ in range(10):
        disk.step(room)

    assert room.is_short


def test_the_store_is_asked_to_need_less_while_room_is_short(disk: Disk) -> None:
    room = disk.room()
    disk.free = 1 * MIB

    room.step()
    disk.step(room)

    assert disk.relieved == 2


def test_one_line_tells_that_room_is_short_and_one_that_it_is_over(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    room = disk.room()
    room.step()
    disk.free = 1 * MIB + BALLAST
    for _ in range(5):
        disk.step(room)
    disk.free = 500 * MIB
    for _ in range(5):
        disk.step(room)

    assert [(each.name, each.levelname, each.message) for each in caplog.records] == [
        ("qtasks.room", "WARNING", "too little room on the disk; messages are refused"),
        ("qtasks.room", "WARNING", "there is room on the disk again; messages are accepted"),
    ]
    assert caplog.records[0].__dict__["free_bytes"] == 1 * MIB


def test_a_ballast_that_cannot_be_made_is_told_once_and_stops_nothing(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.ballast.mkdir()
    room = disk.room()

    room.step()
    disk.step(room)

    assert [each.message for each in caplog.records] == ["cannot make the ballast"]
    assert not room.is_short
    assert not room.release()


async def test_it_looks_at_once_and_then_every_second_and_makes_the_ballast_then(disk: Disk) -> None:
    watching = asyncio.create_task(disk.room().run())
    await disk.clock.somebody_sleeps()
    assert disk.looks == 1
    assert not disk.ballast.exists()

    disk.clock.advance(LOOK_MS)
    await disk.clock.somebody_sleeps()

    assert disk.looks == 2
    assert disk.ballast.exists()
    watching.cancel()
    await asyncio.wait([watching], timeout=SOON_S)


async def test_a_disk_that_cannot_be_asked_is_asked_again(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    room = disk.room()
    disk.error = OSError("stale file handle")
    watching = asyncio.create_task(room.run())
    await disk.clock.somebody_sleeps()
    disk.error, disk.free = None, 0

    disk.clock.advance(LOOK_MS)
    await disk.clock.somebody_sleeps()

    assert room.is_short
    assert "cannot measure the room on the disk" in [each.message for each in caplog.records]
    watching.cancel()
    await asyncio.wait([watching], timeout=SOON_S)


def test_the_disk_of_a_folder_is_measured(tmp_path: Path) -> None:
    free, total = free_bytes_at(tmp_path)

    assert 0 < free <= total
