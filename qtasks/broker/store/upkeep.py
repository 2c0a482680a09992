"""Looks after a SQLite file from outside the broker: check, backup, figures. Never writes to it.

Everything is read on one snapshot of a connection that cannot write, so a broker at work is not disturbed:
readers keep no writer waiting, and its log merely grows while they last. What must hold in every store
stands in `sql/checks`, and `upkeep_postgres.py` asks for it too.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qtasks.broker.store.database import Params, Row
from qtasks.broker.store.migrate import APPLICATION_ID
from qtasks.broker.store.queries import FOLDER, load_migrations, load_queries
from qtasks.broker.store.sqlite import BUSY_MS
from qtasks.errors import StoreError, StoreFull, StoreTooNew, StoreUnusable

EXAMPLES = 3
STEP_PAGES = 1024
SPARE_BYTES = 64 * 1024 * 1024
"""What a backup leaves free on its disk: it may be the broker's."""

Progress = Callable[[int, int], None]
"""Told how many pages are copied, and how many there are."""


Ask = Callable[[str, Params], list[Row]]
"""Gives the rows of a text on one snapshot."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The figures of a store: its schema and sizes in bytes, and rows by what they are."""

    store: Mapping[str, int]
    rows: Mapping[str, int]


def counted(ask: Ask) -> dict[str, int]:
    """Count what is in a store, by what it is."""
    return {name: ask(text, {})[0][0] for name, text in _queries("stats").items()}


def contradictions(ask: Ask) -> list[str]:
    """Say which rows of a store contradict each other, with some of their numbers."""
    found = []
    for wrong, text in _queries("checks").items():
        rows = ask(text, {"most": EXAMPLES + 1})
        if rows:
            numbers = ", ".join(str(row[0]) for row in rows[:EXAMPLES])
            found.append(f"{wrong}: {numbers}{', …' if len(rows) > EXAMPLES else ''}")
    return found


def stats(path: Path) -> Stats:
    """Count what a file holds; the schema must be this version's."""
    with _snapshot(path) as connection:
        figures = {
            "schema": _check_schema(connection, path),
            "file_bytes": path.stat().st_size,
            "log_bytes": _size(path.with_name(f"{path.name}-wal")),
            # Room inside the file that is used again before it grows.
            "free_bytes": _pragma(connection, "freelist_count") * _pragma(connection, "page_size"),
        }
        return Stats(figures, counted(_asking(connection)))


def check(path: Path, *, is_quick: bool = False) -> list[str]:
    """Say what is wrong with a file, nothing if all is well: SQLite's own check, then what must hold.

    With `is_quick`, indexes are not compared with their tables.
    """
    with _snapshot(path) as connection:
        found = _damage(connection, "quick_check" if is_quick else "integrity_check")
        if found:
            return found  # what is damaged answers nothing else reliably
        _check_schema(connection, path)
        return contradictions(_asking(connection))


def _asking(connection: sqlite3.Connection) -> Ask:
    return lambda text, params: connection.execute(text, params).fetchall()


def backup(path: Path, target: Path, progress: Progress = lambda done, total: None) -> int:
    """Copy a file as it is now to `target`, which must not exist; give its size.

    The copy holds all that was committed before this was called, is read back and found whole, and appears
    under its name at once or not at all.
    """
    if target.exists():
        raise StoreUnusable(f"{target} exists; a backup overwrites nothing, name another file")
    part = target.with_name(f"{target.name}.part")
    with _snapshot(path) as source:
        _check_room(source, target)
        try:
            _copy(source, part, progress)
            _sync(part)
            os.replace(part, target)
            _sync(target.parent)
        except OSError as error:
            raise StoreUnusable(f"{target} cannot be written: {error.strerror}") from error
        finally:
            for each in (part, *(part.with_name(part.name + end) for end in ("-wal", "-shm", "-journal"))):
                each.unlink(missing_ok=True)
    return target.stat().st_size


def _copy(source: sqlite3.Connection, part: Path, progress: Progress) -> None:
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(part, isolation_level=None)) as copy:
        # In steps, all of them on the snapshot that is open: without it, each commit of the broker would
        # have the copy begin anew.
        source.backup(copy, pages=STEP_PAGES, progress=lambda _, left, total: progress(total - left, total))
        if damage := _damage(copy, "quick_check"):
            raise StoreUnusable(f"the copy is damaged, so is perhaps the original: {damage[0]}")


def schema_of(path: Path) -> int:
    """Give the number of the schema of a file."""
    with _snapshot(path) as connection:
        return _pragma(connection, "user_version")


def newest_schema() -> int:
    """Give the number of the schema that this version makes."""
    return load_migrations("sqlite")[-1][0]


@contextmanager
def _snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Open one snapshot of a file of ours; raises `StoreUnusable`."""
    if not path.exists():
        raise StoreUnusable(f"{path} does not exist; name the database with --store sqlite:///FILE")
    try:
        # Not even the checkpoint is made that the last connection to close makes otherwise.
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_MS / 1000
        )
        with closing(connection):
            connection.execute("BEGIN")
            if _pragma(connection, "application_id") != APPLICATION_ID:
                raise StoreUnusable(f"{path} is no database of qtasks")
            yield connection
    except sqlite3.Error as error:
        raise _meaning(error, path) from error


def _meaning(error: sqlite3.Error, path: Path) -> StoreError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StoreFull(f"no room left for the copy of {path}: {error}")
    return StoreUnusable(f"{path} cannot be read: {error}")


def _damage(connection: sqlite3.Connection, pragma: str) -> list[str]:
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}(10)")]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return [str(error)]  # it is too damaged for the check itself
    return [] if found == ["ok"] else found


def _check_schema(connection: sqlite3.Connection, path: Path) -> int:
    schema, newest = _pragma(connection, "user_version"), newest_schema()
    if schema > newest:
        raise StoreTooNew(f"{path} has schema {schema}, this version knows up to {newest}; upgrade qtasks")
    if schema < newest:
        raise StoreUnusable(
            f"{path} has schema {schema}, this version works with {newest}; "
            "start the broker, or run qtasks db migrate"
        )
    return schema


def _check_room(source: sqlite3.Connection, target: Path) -> None:
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise StoreUnusable(f"{target} cannot be written: {error.strerror}") from error
    needed = _pragma(source, "page_count") * _pragma(source, "page_size") + SPARE_BYTES
    if free < needed:
        raise StoreFull(
            f"a copy at {target} needs {needed >> 20} MiB with what it leaves free, {free >> 20} MiB are; "
            "name another disk"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _queries(kind: str) -> Mapping[str, str]:
    return load_queries("sqlite", FOLDER / kind)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
