"""Checkpoints: when the log of SQLite is copied into the file, so that it can begin anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qtasks.broker.store.checkpoints import Checkpoints
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from tests.support.disks import MIB, longest_file, small_disk
from tests.support.store import Verbs

DUE_BYTES = 100 * 4120
ROW = bytes(3000)  # one page each


class Log:
    """A database with a log, and its checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA wal_autocheckpoint = 0")
        self.connection.execute("CREATE TABLE rows (row BLOB)")
        self.checkpoints = Checkpoints(self.connection, str(path), due_bytes=DUE_BYTES, look_rows=1)

    @property
    def size(self) -> int:
        """How long the log is."""
        return self.path.with_name(f"{self.path.name}-wal").stat().st_size

    def copied(self) -> int:
        """Count the rows that the file itself holds, without the log."""
        with closing(sqlite3.connect(f"file:{self.path}?immutable=1", uri=True)) as alone:
            try:
                [count] = alone.execute("SELECT count(*) FROM rows").fetchone()
            except sqlite3.DatabaseError:  # nothing at all has been copied
                return 0
        return int(count)

    def commit(self, count: int) -> None:
        """Commit so many rows, each alone."""
        for _ in range(count):
            self.connection.execute("INSERT INTO rows VALUES (?)", (ROW,))
            self.checkpoints.after_commit()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A database with a log."""
    made = Log(tmp_path / "q.db")
    with closing(made.connection):
        yield made


def test_a_short_log_is_left_alone(log: Log) -> None:
    log.commit(10)

    assert log.copied() == 0


def test_a_log_that_is_long_enough_is_copied_and_begins_anew(log: Log) -> None:
    log.commit(1000)

    assert log.copied() > 800
    assert log.size < 2 * DUE_BYTES


def test_a_checkpoint_can_be_had_sooner_and_then_goes_its_usual_way(log: Log) -> None:
    log.commit(10)
    log.checkpoints.soon()

    log.commit(1)
    assert log.copied() == 11
    log.commit(10)
    assert log.copied() == 11


def test_somebody_who_reads_puts_it_off_and_loses_nothing(log: Log) -> None:
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM rows").fetchone()
        log.commit(1000)
        assert log.size > 1000 * 4120
        assert other.execute("SELECT count(*) FROM rows").fetchone() == (0,)
        other.execute("ROLLBACK")

    log.commit(3000)

    assert log.copied() > 2000
    assert log.connection.execute("SELECT count(*) FROM rows").fetchone() == (4000,)


def test_a_checkpoint_that_fails_is_no_secret(log: Log) -> None:
    log.commit(50)
    log.checkpoints.soon()

    # The log has its length already, but the file must grow.
    log.connection.execute("DELETE FROM rows WHERE rowid = 1")
    with longest_file(20_000), pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        log.checkpoints.after_commit()

    log.checkpoints.after_commit()
    assert log.copied() == 49


def test_small_commits_write_over_a_log_that_was_made_longer_ahead(log: Log) -> None:
    log.commit(24)
    length = log.size

    log.commit(3)

    assert log.size == length == DUE_BYTES


def test_who_asks_whether_there_is_something_to_do_does_not_take_it_away(log: Log) -> None:
    """An event loop asks, and has a thread do it."""
    while not log.checkpoints.is_due():
        log.connection.execute("INSERT INTO rows VALUES (?)", (ROW,))

    log.checkpoints.after_commit()

    assert log.size == DUE_BYTES


def test_what_it_was_made_longer_by_counts_for_nothing(log: Log, tmp_path: Path) -> None:
    """A copy of the files is what is left after a crash."""
    log.commit(24)
    for each in ("q.db", "q.db-wal"):
        (tmp_path / f"copy-{each}").write_bytes((tmp_path / each).read_bytes())

    with closing(sqlite3.connect(tmp_path / "copy-q.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("SELECT count(*) FROM rows").fetchone() == (24,)


def test_a_log_that_grows_fast_is_left_to_grow(log: Log) -> None:
    log.connection.execute("BEGIN")
    for _ in range(80):
        log.connection.execute("INSERT INTO rows VALUES (?)", (ROW,))
    log.connection.execute("COMMIT")

    log.checkpoints.after_commit()

    assert log.size < DUE_BYTES


def test_a_disk_with_little_room_keeps_it(tmp_path: Path) -> None:
    with small_disk(tmp_path, 64 * MIB) as disk:
        log = Log(disk.folder / "q.db")
        with closing(log.connection):
            log.commit(24)

            assert log.size < DUE_BYTES


def test_the_store_makes_them_and_its_log_stays_of_a_size(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "q.db"), durability="relaxed")
    store = Verbs(database, ManualClock())

    for _ in range(100):
        store.enqueue(bytes(MIB))

    assert (tmp_path / "q.db-wal").stat().st_size < 40 * MIB
    assert (tmp_path / "q.db").stat().st_size > 60 * MIB
    database.close()


def test_the_store_makes_one_soon_if_it_is_told_to(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "q.db"), durability="relaxed")
    store = Verbs(database, ManualClock())
    store.enqueue(bytes(MIB))
    before = (tmp_path / "q.db").stat().st_size
    database.checkpoint_soon()

    store.enqueue()

    assert (tmp_path / "q.db").stat().st_size > before + MIB
    database.close()
