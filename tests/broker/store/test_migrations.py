"""A file of an earlier version comes to this one's schema with all that it holds (promise P24)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from qtasks.broker.store import queues
from qtasks.broker.store.migrate import APPLICATION_ID, _statements
from qtasks.broker.store.queries import load_migrations
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from tests.support.store import Verbs

MIGRATIONS = load_migrations("sqlite")
NEWEST = MIGRATIONS[-1][0]

# What a broker of the first schema had stored: a waiting message of a queue and one without.
OLD_ROWS = """
INSERT INTO queues (id, name, parallelism, ordered, created_at, updated_at, turn) VALUES
  (1, 'mail', 1, 1, 1, 1, 1), (2, '', 2147483648, 0, 1, 1, 2);
INSERT INTO messages (seq, id, queue, url, method, headers, body, created_at, not_before, max_retries,
                      timeout_ms)
VALUES (1, 'msg_1', 'mail', 'https://app.example/hook', 'POST', '[]', CAST('one' AS BLOB), 1, 1, 3, 60000),
       (2, 'msg_2', NULL, 'https://app.example/hook', 'POST', '[]', CAST('two' AS BLOB), 1, 1, 3, 60000);
INSERT INTO pending (seq, queue, state, due_at) VALUES (1, 1, 0, 0), (2, 2, 0, 1);
"""


def make_old(path: Path, until: int) -> None:
    """Make a file with the schema of an earlier version, and rows in it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number, text in MIGRATIONS:
            if number <= until:
                connection.executescript(text)
        connection.executescript(OLD_ROWS)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {until}")


def schema_of(path: Path) -> dict[str, list[str]]:
    """Give the columns of each table, and the names of all else."""
    with closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
        return {
            name: sorted(row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (name,)))
            for name in names
            if not name.startswith("sqlite_")
        }


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version


@pytest.mark.parametrize("until", [number for number, _ in MIGRATIONS[:-1]])
def test_an_earlier_file_ends_with_the_schema_of_a_new_one(tmp_path: Path, until: int) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    make_old(old, until)

    SqliteDatabase(str(old)).close()
    SqliteDatabase(str(new)).close()

    assert schema_of(old) == schema_of(new)
    assert version_of(old) == NEWEST


def test_what_waited_in_an_earlier_file_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    make_old(path, 1)

    database = SqliteDatabase(str(path))
    store = Verbs(database, ManualClock())

    assert sorted(each.body for each in store.claim()) == [b"one", b"two"]
    assert [each.name for each in database.look(queues.views)] == ["mail"]
    database.close()


@pytest.mark.parametrize("survives", range(0, len(list(_statements(MIGRATIONS[-1][1]))), 3))
def test_a_migration_that_dies_half_way_leaves_the_schema_before_it(tmp_path: Path, survives: int) -> None:
    """The process is gone after some statements: nothing has been committed."""
    path = tmp_path / "old.db"
    make_old(path, MIGRATIONS[-2][0])
    before = schema_of(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    for number, statement in enumerate(_statements(MIGRATIONS[-1][1])):
        if number < survives:
            connection.execute(statement)
    connection.close()

    assert (schema_of(path), version_of(path)) == (before, MIGRATIONS[-2][0])
    SqliteDatabase(str(path)).close()
    assert version_of(path) == NEWEST
