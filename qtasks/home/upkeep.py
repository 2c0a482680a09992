"""Looks after the store that a URL names: a SQLite file with the secrets beside it, or PostgreSQL."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qtasks.broker.store import upkeep
from qtasks.broker.store.postgres_links import Place
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.errors import ConfigurationError, StoreBusy, StoreUnusable
from qtasks.home.keys import keys_path
from qtasks.home.ownership import Ownership, lock_path
from qtasks.home.stores import is_postgres, open_postgres
from qtasks.settings import database_path

LOG_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup wrote: `keys` are the secrets that its tasks were signed with, if a file has them."""

    path: Path
    size_bytes: int
    keys: Path | None


class Store(Protocol):
    """A store from outside the broker. A store may be looked at and copied while brokers work on it."""

    def migrate(self) -> tuple[int, int]:
        """Bring it to the schema of this version, as a start would; give the schema before and after."""
        ...

    def check(self, *, is_quick: bool) -> list[str]:
        """Say what is wrong with it, nothing if all is well."""
        ...

    def backup(self, target: Path, progress: upkeep.Progress) -> Backup:
        """Copy it, and the secrets without which its tasks could not run."""
        ...

    def restore(self, source: Path) -> None:
        """Put a backup where nothing is."""
        ...

    def stats(self) -> upkeep.Stats:
        """Count what it holds."""
        ...


def store_of(url: str) -> Store:
    """Give the store of a URL; raises `ConfigurationError` if it names none."""
    if is_postgres(url):
        return PostgresStore(url)
    if not url.startswith("sqlite:"):
        raise ConfigurationError("--store must name a store: sqlite:///qtasks.db or postgresql://…")
    return SqliteStore(database_path(url))


class SqliteStore:
    """A file. Whatever changes it needs its owner's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def migrate(self) -> tuple[int, int]:
        """Do it as the owner; raises `StoreBusy` while there is another."""
        if not self._path.exists():
            raise StoreUnusable(f"{self._path} does not exist; a broker makes it when it is started")
        ownership = _own(self._path)
        try:
            before = upkeep.schema_of(self._path)
            SqliteDatabase(str(self._path)).close()
            return before, upkeep.newest_schema()
        finally:
            ownership.release()

    def check(self, *, is_quick: bool) -> list[str]:
        return upkeep.check(self._path, is_quick=is_quick)

    def backup(self, target: Path, progress: upkeep.Progress) -> Backup:
        keys, keys_copy = keys_path(self._path), keys_path(target)
        if keys_copy.exists():
            raise StoreUnusable(f"{keys_copy} exists; a backup overwrites nothing, name another file")
        size = upkeep.backup(self._path, target, progress)
        if not keys.exists():
            return Backup(target, size, None)
        _copy(keys, keys_copy)
        return Backup(target, size, keys_copy)

    def restore(self, source: Path) -> None:
        """Do it as the owner; raises `StoreUnusable` where anything is left of another file."""
        path = self._path
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

    def stats(self) -> upkeep.Stats:
        return upkeep.stats(self._path)


class PostgresStore:
    """A schema of a PostgreSQL, which copies and checks itself better than we could."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = Place.parse(url)

    def __str__(self) -> str:
        return str(self._place)

    def migrate(self) -> tuple[int, int]:
        from qtasks.broker.store import upkeep_postgres

        before = upkeep_postgres.schema_of(self._place)
        open_postgres(self._url).close()
        return before, upkeep_postgres.newest_schema()

    def check(self, *, is_quick: bool) -> list[str]:
        from qtasks.broker.store import upkeep_postgres

        return upkeep_postgres.check(self._place)

    def backup(self, target: Path, progress: upkeep.Progress) -> Backup:
        raise ConfigurationError(
            f"PostgreSQL is backed up by its own tools, such as: pg_dump -Fc -n {self._place.schema} -f FILE"
        )

    def restore(self, source: Path) -> None:
        raise ConfigurationError(
            "PostgreSQL is restored by its own tools, such as: pg_restore -d DATABASE FILE"
        )

    def stats(self) -> upkeep.Stats:
        from qtasks.broker.store import upkeep_postgres

        return upkeep_postgres.stats(self._place)


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
