"""Disks that are full, and disks that fail: the one is waited out, the other ends the store's life.

The full ones are real and small. The failing writes are refused by the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.errors import BrokerFailed, StoreFull
from tests.support.disks import KIB, MIB, SmallDisk, longest_file, small_disk
from tests.support.store import Verbs

PAGE = 4096 + 24
INDEXED_AT_FIRST = 4062  # pages of the log, until its index of 32 KiB must grow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 24 MiB."""
    with small_disk(tmp_path, 24 * MIB) as mounted:
        yield mounted


class Store(Verbs):
    """The store on a file of a folder."""

    def __init__(self, folder: Path) -> None:
        self.sqlite = SqliteDatabase(str(folder / "q.db"), durability="relaxed")
        super().__init__(self.sqlite, ManualClock())

    def wide(self, body: bytes = b"") -> str:
        """Enqueue a message that waits for no other."""
        return self.enqueue(body, queue="wide", parallelism=10_000, ordered=False)


def enqueue_until_full(store: Store, size: int = 500) -> list[str]:
    """Give what was accepted until three in a row found no room."""
    accepted, refused = [], 0
    while refused < 3:
        try:
            accepted.append(store.wide(bytes(size)))
        except StoreFull:
            refused += 1
    return accepted


def test_on_a_disk_without_a_byte_of_room_reading_goes_on(disk: SmallDisk) -> None:
    store = Store(disk.folder)
    disk.fill(leave=2 * MIB)
    accepted = enqueue_until_full(store)
    disk.fill()

    # With a connection that is new, and by sorting.
    assert {each.message_id for each in store.log(queue="wide")} <= set(accepted)
    assert store.queue("wide").lag == len(accepted)
    assert store.database.failure is None
    store.database.close()


def test_all_that_is_in_flight_on_a_full_disk_is_settled_on_a_small_ballast(disk: SmallDisk) -> None:
    store = Store(disk.folder)
    ballast = disk.folder / "ballast"
    ballast.write_bytes(bytes(MIB))
    for _ in range(200):
        store.wide()
    claims = store.claim(200)
    disk.fill()
    with pytest.raises(StoreFull):
        store.deliver(claims[0])

    ballast.unlink()
    store.sqlite.checkpoint_soon()

    assert all(store.deliver(each) for each in claims)
    assert store.queue("wide").lag == 0
    store.database.close()


def test_a_full_disk_never_ends_the_store_whatever_has_to_grow(disk: SmallDisk) -> None:
    """Log, index of the log and file meet the end of the disk in turn; each time there is a little room."""
    store = Store(disk.folder)
    accepted = []

    for left in range(800 * KIB, 0, -50 * KIB):
        disk.fill(leave=left)
        accepted += enqueue_until_full(store, 100)
        store.sqlite.checkpoint_soon()
        disk.make_room()
        accepted.append(store.wide())

    assert store.database.failure is None
    assert store.queue("wide").lag == len(accepted)
    store.database.close()


def test_an_index_of_the_log_that_cannot_grow_is_a_full_disk(disk: SmallDisk) -> None:
    """SQLite tells of it as of an I/O error."""
    store = Store(disk.folder)
    log = disk.folder / "q.db-wal"
    while log.stat().st_size < 4020 * PAGE:
        store.wide()
    disk.fill(leave=INDEXED_AT_FIRST * PAGE - log.stat().st_size + 8 * KIB)

    enqueue_until_full(store)

    assert log.stat().st_size >= INDEXED_AT_FIRST * PAGE
    assert (disk.folder / "q.db-shm").stat().st_size < 64 * KIB
    assert store.database.failure is None
    disk.make_room()
    assert store.states(store.wide()) == "CREATED"
    store.database.close()


def test_a_checkpoint_that_has_no_room_takes_up_none(disk: SmallDisk) -> None:
    store = Store(disk.folder)
    for _ in range(100):
        store.wide(bytes(20 * KIB))
    before = (disk.folder / "q.db").stat().st_size
    disk.fill(leave=MIB)
    store.sqlite.checkpoint_soon()

    store.wide()

    assert (disk.folder / "q.db").stat().st_size == before
    assert disk.free > 900 * KIB
    disk.make_room()
    store.sqlite.checkpoint_soon()
    store.wide()
    assert (disk.folder / "q.db").stat().st_size > before + 2000 * KIB
    store.database.close()


def test_a_log_that_was_copied_before_the_disk_filled_up_needs_no_room(disk: SmallDisk) -> None:
    store = Store(disk.folder)
    for _ in range(300):
        store.wide()
    claims = store.claim(300)
    store.sqlite.checkpoint_soon()
    store.wide()
    disk.fill()

    settled = 0
    try:
        for each in claims:
            settled += store.deliver(each)
    except StoreFull:
        pass

    assert settled > 20
    store.database.close()


def test_a_disk_that_is_full_when_the_store_is_opened_is_told_as_such(disk: SmallDisk) -> None:
    Store(disk.folder).database.close()
    disk.fill()

    with pytest.raises(StoreFull, match="no room left for"):
        Store(disk.folder).enqueue()


def test_a_write_that_fails_ends_the_store_for_all_calls_and_for_good(tmp_path: Path) -> None:
    store = Store(tmp_path)
    message_id = store.enqueue()
    path, length = tmp_path / "q.db", (tmp_path / "q.db-wal").stat().st_size
    with longest_file(length), pytest.raises(BrokerFailed) as raised:
        store.enqueue()

    assert str(raised.value) == (
        f"the store {path} failed: disk I/O error; the broker has stopped, nothing more is accepted"
    )
    assert store.database.failure == "disk I/O error"
    refused = f"the store {path} cannot be used: disk I/O error"
    with pytest.raises(BrokerFailed, match=refused):
        store.enqueue()
    with pytest.raises(BrokerFailed, match=refused):
        store.log()
    with pytest.raises(BrokerFailed, match=refused):
        store.claim()
    store.database.close()
    assert store.database.failure == "disk I/O error"

    again = Store(tmp_path)
    assert [each.message_id for each in again.log()] == [message_id]
    again.database.close()


def test_a_checkpoint_that_fails_ends_the_store_too(tmp_path: Path) -> None:
    """Its commit is durable, but whoever made it is told that this is unknown: nothing succeeds any more."""
    store = Store(tmp_path)
    log = tmp_path / "q.db-wal"
    for _ in range(10):
        store.enqueue(bytes(100 * KIB))
    store.sqlite.checkpoint_soon()
    store.enqueue()
    length = log.stat().st_size
    for _ in range(9):
        store.enqueue(bytes(100 * KIB))
    assert log.stat().st_size == length  # it is written over, so only the file has to grow
    store.sqlite.checkpoint_soon()

    with longest_file(length), pytest.raises(BrokerFailed):
        store.enqueue()

    assert store.database.failure == "disk I/O error"
    store.database.close()
    again = Store(tmp_path)
    assert len(again.log()) == 21
    again.database.close()
