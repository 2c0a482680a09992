"""Opens the store of a broker: a SQLite file, whose disk's room is watched, or PostgreSQL."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtasks.broker.config import BrokerConfig
from qtasks.broker.room import Room
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import Clock

if TYPE_CHECKING:
    from qtasks.broker.store.postgres import PostgresDatabase


POSTGRES = ("postgres:", "postgresql:")


def is_postgres(url: str) -> bool:
    """Say whether a URL names a store on PostgreSQL."""
    return url.startswith(POSTGRES)


def shown_store(url: str, path: Path | None) -> str:
    """Name a store to a person, without its password."""
    if path is not None:
        return str(path)
    from qtasks.broker.store.postgres_links import Place

    return str(Place.parse(url))


def open_postgres(url: str) -> PostgresDatabase:
    """Open a store on PostgreSQL; raises `StoreError`, or `ConfigurationError` without the extra for it."""
    from qtasks.broker.store.postgres import PostgresDatabase

    return PostgresDatabase(url)


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
