"""Opens the store of a broker on a SQLite file, and watches the room on its disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtasks.broker.config import BrokerConfig
from qtasks.broker.room import Room
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import Clock


def open_store(
    path: Path, config: BrokerConfig, *, durability: str, clock: Clock, is_staying: bool
) -> tuple[SqliteDatabase, Room]:
    """Open a file that this process owns, and look at the room on its disk; raises `StoreError`.

    To start on a disk that is full takes the ballast of an earlier life. Only who stays may have it:
    a call that opens the file for a moment finishes no deliveries.
    """
    room_of = partial(
        Room, path, reserve_bytes=config.reserve_bytes, ballast_bytes=config.ballast_bytes, clock=clock
    )
    if is_staying:
        before = room_of()
        before.look()
        if before.is_spent:
            before.release()
    database = SqliteDatabase(str(path), durability=durability)
    room = room_of(relieve=database.checkpoint_soon)
    room.look()
    return database, room
