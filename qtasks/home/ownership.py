"""Who owns a SQLite file: one process at a time, by a lock on a file beside the database.

The lock is a POSIX record lock: the kernel drops it when the process dies, and a fork does not
inherit it. It is also dropped when the process closes *any* descriptor of the file, so nothing else
in this process may open it: what this process owns is remembered here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import Self

from qtasks.errors import ConfigurationError, StoreUnusable

MAX_SOCKET_PATH = 107  # bytes; the kernel takes no longer one

_guard = threading.Lock()
_owned: dict[Path, Ownership] = {}


class Ownership:
    """The right of this process to open a database for writing; `release` gives it up."""

    def __init__(self, database: Path, descriptor: int) -> None:
        self._database = database
        self._descriptor = descriptor
        self.socket_path: str | None = None

    @classmethod
    def try_acquire(cls, database: Path) -> Self | None:
        """Take the lock, or give None if another process, or another part of this one, has it."""
        with _guard:
            if database in _owned:
                return None
            descriptor = _open_lock(database)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return None
            ownership = cls(database, descriptor)
            _owned[database] = ownership
            return ownership

    def announce(self, socket_path: str) -> None:
        """Record where other processes reach the owner."""
        self.socket_path = socket_path
        self._write({"pid": os.getpid(), "socket": socket_path})

    def release(self) -> None:
        """Give the lock up; another process may take it at once."""
        with _guard:
            self._write(None)
            _owned.pop(self._database, None)
            os.close(self._descriptor)

    def _write(self, note: dict[str, object] | None) -> None:
        os.ftruncate(self._descriptor, 0)
        if note is not None:
            os.pwrite(self._descriptor, json.dumps(note).encode(), 0)


def owner_socket(database: Path) -> str | None:
    """Say where the owner listens; None if it does not, or not yet, or the note is of a dead one."""
    with _guard:
        own = _owned.get(database)
        path = own.socket_path if own is not None else _noted_socket(database)
    return path if path is not None and os.path.exists(path) else None


def _noted_socket(database: Path) -> str | None:
    try:
        # Opening and closing is safe here: this process holds no lock on the file.
        note = json.loads(lock_path(database).read_bytes() or b"{}")
    except (OSError, ValueError):
        return None
    path = note.get("socket")
    return path if isinstance(path, str) else None


def lock_path(database: Path) -> Path:
    """Say where the lock of a database is."""
    return database.with_name(f"{database.name}.lock")


def _open_lock(database: Path) -> int:
    try:
        return os.open(lock_path(database), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"{database} cannot be used: its lock {lock_path(database)} cannot be opened ({error.strerror}); "
            "check that the folder exists and can be written"
        ) from error


def bind_socket(database: Path) -> tuple[socket.socket, str]:
    """Bind the owner's Unix socket in a folder of this user alone; give it and its path."""
    digest = hashlib.sha256(str(database).encode()).hexdigest()[:16]
    folder = _socket_folder()
    for stale in folder.glob(f"{digest}-*.sock"):  # of owners that were killed: the lock is ours now
        stale.unlink(missing_ok=True)
    path = str(folder / f"{digest}-{os.getpid()}.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    return listener, path


def _socket_folder() -> Path:
    """Give a private folder with a short path."""
    candidates = [Path(tempfile.gettempdir()) / f"qtasks-{os.getuid()}", Path(f"/tmp/qtasks-{os.getuid()}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        candidates.insert(0, Path(runtime) / "qtasks")
    for folder in candidates:
        if len(str(folder)) + 40 <= MAX_SOCKET_PATH:
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_private(folder)
            return folder
    raise ConfigurationError(
        f"the path {candidates[0]} is too long for a Unix socket; set XDG_RUNTIME_DIR to a shorter folder"
    )


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(
            f"{folder} should be a folder of this user alone, for the broker's socket, and is not; "
            "remove it, or set XDG_RUNTIME_DIR"
        )


def _forget() -> None:
    """A forked child owns nothing. Its copies of descriptors are harmless: record locks are per process."""
    global _guard
    _guard = threading.Lock()
    _owned.clear()


os.register_at_fork(after_in_child=_forget)
