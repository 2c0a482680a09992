"""Looks at a store from outside, without opening it as a broker does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from qtasks.broker.config import BrokerConfig
from qtasks.broker.room import default_reserve, free_bytes_at
from qtasks.broker.store import upkeep
from qtasks.broker.store.postgres_links import Place
from qtasks.cli.doctor.facts import FileFacts, KeysFacts, PostgresFacts
from qtasks.errors import ConfigurationError, StoreError
from qtasks.home.keys import keys_path, load_or_make_keys
from qtasks.home.ownership import Ownership, lock_path, owner_socket
from qtasks.ids import Ids
from qtasks.settings import Settings, database_path

POOLER_PORT = 6432
POOLER_WORDS = ("pooler", "pgbouncer", "pgcat")


def look_at_file(settings: Settings) -> FileFacts:
    """Find out about a SQLite file, its keys and its owner."""
    path = database_path(settings.broker)
    folder = path.parent
    if not folder.is_dir():
        return FileFacts(path, False, False, upkeep.newest_schema(), 0, 0, "")
    free, total = free_bytes_at(folder)
    config = BrokerConfig()
    reserve = default_reserve(total) if config.reserve_bytes is None else config.reserve_bytes
    schema, error = _schema(path)
    has_owner = owner_socket(path) is not None
    return FileFacts(
        path=path,
        has_folder=True,
        may_write=os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK)),
        newest_schema=upkeep.newest_schema(),
        free_bytes=free,
        wanted_bytes=reserve + config.ballast_bytes,
        filesystem=_filesystem(folder),
        mode=path.stat().st_mode & 0o777 if path.exists() else None,
        schema=schema,
        error=error,
        is_held=has_owner or _is_held(path),
        has_owner=has_owner,
        keys=_keys(keys_path(path)),
    )


def _schema(path: Path) -> tuple[int | None, str | None]:
    if not path.exists() or not path.stat().st_size:
        return None, None
    try:
        return upkeep.schema_of(path), None
    except StoreError as error:
        return None, str(error)


def _is_held(path: Path) -> bool:
    """Try the lock, if there has ever been one: to look is not to make it."""
    if not lock_path(path).exists():
        return False
    try:
        ownership = Ownership.try_acquire(path)
    except StoreError:
        return False
    if ownership is None:
        return True
    ownership.release()
    return False


def _filesystem(folder: Path) -> str:
    """Say what the disk of a folder is formatted with; nothing where the system does not tell."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = [line.split()[1:3] for line in lines]
    real = folder.resolve()
    found = [(place, kind) for place, kind in mounts if real.is_relative_to(place.replace("\\040", " "))]
    return max(found, key=lambda each: len(each[0]), default=("", ""))[1]


def _keys(path: Path) -> KeysFacts | None:
    if not path.exists():
        return None
    made_at = path.stat().st_mtime_ns // 1_000_000
    try:
        return KeysFacts(path, made_at, load_or_make_keys(path, Ids()).rotated_at)
    except (ConfigurationError, OSError) as error:
        return KeysFacts(path, made_at, error=str(error))


def look_at_postgres(settings: Settings) -> PostgresFacts:
    """Find out about a database that processes share, its version and what it promises."""
    from qtasks.broker.store import upkeep_postgres

    newest = upkeep_postgres.newest_schema()
    place = Place.parse(settings.broker)
    facts = PostgresFacts(str(place), _looks_pooled(place.conninfo), place.has_pooler, newest)
    try:
        server = upkeep_postgres.server_of(place)
    except (StoreError, ConfigurationError) as error:
        return replace(facts, error=str(error))
    return replace(
        facts,
        version=server.version,
        parameters=server.parameters,
        schema=server.schema,
        nodes=server.nodes,
    )


def _looks_pooled(conninfo: str) -> bool:
    parts = urlsplit(conninfo)
    host = parts.hostname or ""
    try:
        port = parts.port
    except ValueError:  # several hosts
        return False
    return port == POOLER_PORT or any(word in host for word in POOLER_WORDS)
