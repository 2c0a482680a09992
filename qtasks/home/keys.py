"""The secrets that a broker or an app makes for itself, in a file beside the database.

One file, readable by its owner alone, with a line for each secret, in the names that the
environment uses; whichever process comes first makes it, and all others read it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from qtasks.broker.keys import KeyRing
from qtasks.clock import Clock
from qtasks.errors import ConfigurationError, StoreUnusable
from qtasks.ids import Ids

NAMES = {
    "token": "QSTASH_TOKEN",
    "current": "QSTASH_CURRENT_SIGNING_KEY",
    "next": "QSTASH_NEXT_SIGNING_KEY",
    "secret": "QTASKS_SECRET",
}
ROTATED_AT = "# signing keys rotated at"
"""A comment of the file, to shells that read it; a person would rather not roll twice in a row."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The broker's token and signing keys, and the app's own secret."""

    token: str = field(repr=False)
    current: str = field(repr=False)
    next: str = field(repr=False)
    secret: str = field(repr=False)
    rotated_at: int | None = None


def keys_path(database: Path) -> Path:
    """Say where the secrets of a database are."""
    return database.with_name(f"{database.name}.keys")


def load_or_make_keys(path: Path, ids: Ids) -> Keys:
    """Read the file, making it if it is missing; raises `ConfigurationError` if it is unsafe or broken."""
    if not path.exists():
        _make(path, ids)
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{path} holds secrets, but others may read it; run: chmod 600 {path}")
    lines = path.read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    missing = [name for name in NAMES.values() if not values.get(name)]
    if missing:
        raise ConfigurationError(
            f"{path} lacks {', '.join(missing)}; restore it from a backup, or move it away to have new "
            "secrets made (tasks that wait are then refused)"
        )
    return Keys(**{field: values[name] for field, name in NAMES.items()}, rotated_at=_rotated_at(lines))


def _rotated_at(lines: list[str]) -> int | None:
    noted = [each.removeprefix(ROTATED_AT).strip() for each in lines if each.startswith(ROTATED_AT)]
    return int(noted[-1]) if noted and noted[-1].isdecimal() else None


def key_ring(keys: Keys, path: Path, ids: Ids, clock: Clock) -> KeyRing:
    """Give the signing keys of a file, which a rotation writes back to it."""

    def save(current: str, following: str) -> None:
        save_signing_keys(path, current, following, ids, clock.now())

    return KeyRing(keys.current, keys.next, save, keys.rotated_at)


def save_signing_keys(path: Path, current: str, following: str, ids: Ids, now: int) -> None:
    """Put other signing keys into the file, durably; raises `StoreUnusable`."""
    stored = load_or_make_keys(path, ids)
    keys = replace(stored, current=current, next=following, rotated_at=now)
    draft = path.with_name(f"{path.name}.{ids.boot_id()}")
    try:
        _write(draft, keys)
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreUnusable(f"cannot write {path}: {error}; the signing keys stay as they were") from error
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, keys: Keys) -> None:
    lines = [f"{name}={getattr(keys, field)}" for field, name in NAMES.items()]
    if keys.rotated_at is not None:
        lines.append(f"{ROTATED_AT} {keys.rotated_at}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(path: Path, ids: Ids) -> None:
    keys = Keys(token=ids.secret(), current=ids.signing_key(), next=ids.signing_key(), secret=ids.secret())
    draft = path.with_name(f"{path.name}.{ids.boot_id()}")
    try:
        _write(draft, keys)
        try:
            os.link(draft, path)  # fails if another process was first: its secrets count
        except FileExistsError:
            pass
    except OSError as error:
        raise ConfigurationError(f"cannot make {path} for the broker's secrets: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
