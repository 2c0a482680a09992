"""Looks after the store that a URL names: the file of a SQLite store, with the secrets beside it.

A file may be looked at and copied while its owner works. Whatever changes it needs the owner's lock.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from qtasks.broker.store import upkeep
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.errors import ConfigurationError, StoreBusy, StoreUnusable
from qtasks.home.keys import keys_path
from qtasks.home.ownership import Ownership, lock_path
from qtasks.settings import database_path

LOG_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup wrote: `keys` are the secrets that its tasks were signed with, if a file has them."""

    path: Path
    size_bytes: int
    keys: Path | None


def file_of(url: str) -> Path:
    """Give the file of a store; raises `ConfigurationError` for a store that is none."""
    if url.startswith(("postgres:", "postgresql:")):
        raise ConfigurationError(
            "qtasks db looks after SQLite files; for PostgreSQL use its own tools, such as pg_dump"
        )
    if not url.startswith("sqlite:"):
        raise ConfigurationError("--store must name a file: sqlite:///qtasks.db")
    return database_path(url)


def migrate(path: Path) -> tuple[int, int]:
    """Bring a file to the schema of this version, as a start would; give the schema before and after."""
    if not path.exists():
        raise StoreUnusable(f"{path} does not exist; a broker makes it when it is started")
    ownership = _own(path)
    try:
        before = upkeep.schema_of(path)
        SqliteDatabase(str(path)).close()
        return before, upkeep.newest_schema()
    finally:
        ownership.release()


def backup(path: Path, target: Path, progress: upkeep.Progress) -> Backup:
    """Copy a file, and the file of secrets beside it, without which its tasks could not run."""
    keys, keys_copy = keys_path(path), keys_path(target)
    if keys_copy.exists():
        raise StoreUnusable(f"{keys_copy} exists; a backup overwrites nothing, name another file")
    size = upkeep.backup(path, target, progress)
    if not keys.exists():
        return Backup(target, size, None)
    _copy(keys, keys_copy)
    return Backup(target, size, keys_copy)


def restore(source: Path, path: Path) -> None:
    """Put a backup in the place of a file that is not there; raises `StoreUnusable` where one is."""
    for each in (path, *(path.with_name(path.name + end) for end in LOG_FILES)):
        if each.exists():  # the log of another database would be played into this one
            raise StoreUnusable(f"{each} exists; move it away first, and all else that begins so")
    ownership = _own(path)
    try:
        upkeep.backup(source, path)
        if keys_path(source).exists() and not keys_path(path).exists():
            _copy(keys_path(source), keys_path(path))
    finally:
        ownership.release()


def _own(path: Path) -> Ownership:
    ownership = Ownership.try_acquire(path)
    if ownership is None:
        raise StoreBusy(f"{path} is in use by another process (it holds {lock_path(path)}); stop it first")
    return ownership


def _copy(source: Path, target: Path) -> None:
    """Copy a file for this user's eyes alone, durably."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as read, os.fdopen(descriptor, "wb") as written:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())
