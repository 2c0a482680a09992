"""The SQLite file: whose it is, of what version, and what happens when it cannot be used.

Each refusal is one clear text, and leaves the file as it was.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from qtasks.broker.store.migrate import APPLICATION_ID
from qtasks.broker.store.queries import load_migrations
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.errors import BrokerFailed, StoreBusy, StoreFull, StoreTooNew, StoreUnusable
from tests.support import ROOT
from tests.support.store import Verbs


def make(path: Path, *statements: str) -> bytes:
    """Make a database of another program; give its bytes."""
    with closing(sqlite3.connect(path)) as connection:
        for each in statements:
            connection.execute(each)
        connection.commit()
    return path.read_bytes()


def opened(path: Path, *, max_pages: int | None = None) -> Verbs:
    return Verbs(SqliteDatabase(str(path), max_pages=max_pages), ManualClock())


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_new_file_bears_our_mark_and_the_newest_schema(tmp_path: Path) -> None:
    SqliteDatabase(str(tmp_path / "q.db")).close()

    assert pragma(tmp_path / "q.db", "application_id") == APPLICATION_ID
    assert pragma(tmp_path / "q.db", "user_version") == load_migrations("sqlite")[-1][0]


def test_what_was_committed_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    first = opened(tmp_path / "q.db")
    message_id = first.enqueue()
    first.database.close()

    second = opened(tmp_path / "q.db")

    assert second.claim_one().id == message_id
    second.database.close()


def test_a_commit_is_synced_before_it_is_answered(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "q.db"))

    full = database._writer.execute("PRAGMA synchronous").fetchone()[0]
    mode = database._writer.execute("PRAGMA journal_mode").fetchone()[0]
    database.close()

    assert (full, mode) == (2, "wal")


def test_relaxed_durability_is_only_by_choice(tmp_path: Path) -> None:
    database = SqliteDatabase(str(tmp_path / "q.db"), durability="relaxed")

    normal = database._writer.execute("PRAGMA synchronous").fetchone()[0]
    database.close()

    assert normal == 1


def test_an_empty_file_becomes_ours(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.touch()

    SqliteDatabase(str(path)).close()

    assert pragma(path, "application_id") == APPLICATION_ID


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE orders (id INTEGER)",),
        ("CREATE TABLE orders (id INTEGER)", "PRAGMA user_version = 1"),
        ("CREATE TABLE messages (seq INTEGER)", "PRAGMA user_version = 1"),
        ("CREATE TABLE orders (id INTEGER)", "PRAGMA application_id = 1196444487"),
        ("PRAGMA application_id = 1196444487", "PRAGMA user_version = 3"),
        ("PRAGMA user_version = 3",),
    ],
    ids=["tables", "version", "our names", "another application", "no tables", "version alone"],
)
def test_a_database_of_another_program_is_refused_and_not_touched(
    tmp_path: Path, statements: tuple[str, ...]
) -> None:
    path = tmp_path / "orders.db"
    before = make(path, *statements)

    with pytest.raises(StoreUnusable) as raised:
        SqliteDatabase(str(path))

    assert str(raised.value) == (
        f"{path} is a database of another program; name another file, "
        "for example QTASKS_BROKER=sqlite:///qtasks.db"
    )
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["orders.db"]


def test_a_file_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    SqliteDatabase(str(path)).close()
    before = make(path, "PRAGMA user_version = 99")

    with pytest.raises(StoreTooNew) as raised:
        SqliteDatabase(str(path))

    newest = load_migrations("sqlite")[-1][0]
    assert str(raised.value) == (
        f"{path} has schema 99, made by a newer version of qtasks; this version knows "
        f"up to schema {newest}. Upgrade qtasks, or name another file"
    )
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Buy milk.\n" * 200)

    with pytest.raises(StoreUnusable) as raised:
        SqliteDatabase(str(path))

    assert str(raised.value) == f"{path} is not a SQLite database; name another file"
    assert path.read_text() == "Buy milk.\n" * 200


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable) as raised:
        SqliteDatabase(str(tmp_path))

    assert str(raised.value) == (
        f"{tmp_path} cannot be opened; check that its folder exists and can be written"
    )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "q.db"

    with pytest.raises(StoreUnusable) as raised:
        SqliteDatabase(str(path))

    assert str(raised.value) == f"{path} cannot be opened; check that its folder exists and can be written"
    assert not path.parent.exists()


# Root may write anything, so it becomes somebody else first.
OPEN_AS_NOBODY = """
import os
import sys
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.errors import StoreUnusable
if os.getuid() == 0:
    os.setuid(65534)
try:
    SqliteDatabase(sys.argv[1])
except StoreUnusable as error:
    print(error)
"""


def test_a_file_that_cannot_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.db"
        SqliteDatabase(str(path)).close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        answer = subprocess.run(
            [sys.executable, "-c", OPEN_AS_NOBODY, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )

    assert answer.stdout == (f"{path} cannot be written; check the rights of the file and of its folder\n"), (
        answer.stderr
    )


def fill(store: Verbs) -> list[str]:
    """Enqueue until there is no room; give what was accepted."""
    accepted = []
    for _ in range(10_000):
        try:
            accepted.append(store.enqueue(b"x" * 500, queue="wide", parallelism=10_000, ordered=False))
        except StoreFull:
            return accepted
    raise AssertionError("the disk never filled up")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    store = opened(path, max_pages=60)
    fill(store)

    with pytest.raises(StoreFull) as raised:
        store.enqueue(b"x" * 5000)

    assert str(raised.value) == (
        f"no room left for {path}; nothing was stored. Make room on its disk and repeat"
    )
    store.database.close()


def test_on_a_full_disk_what_was_accepted_stays_and_nothing_is_half_stored(tmp_path: Path) -> None:
    store = opened(tmp_path / "q.db", max_pages=60)

    accepted = fill(store)

    assert accepted
    assert {each.message_id for each in store.log()} == set(accepted)
    assert store.queue("wide").lag == len(accepted)
    store.database.close()


def test_a_batch_that_finds_no_room_is_stored_not_even_in_part(tmp_path: Path) -> None:
    store = opened(tmp_path / "q.db", max_pages=60)
    kept = store.enqueue()

    with pytest.raises(StoreFull):
        store.store(*(store.message(b"x" * 2000, dedup_key=f"id:{n}") for n in range(200)))

    assert [each.message_id for each in store.log()] == [kept]
    [again] = store.store(store.message(dedup_key="id:0"))
    assert again.deduplicated is False
    store.database.close()


def test_reading_goes_on_when_the_disk_is_full(tmp_path: Path) -> None:
    store = opened(tmp_path / "q.db", max_pages=60)

    accepted = fill(store)

    assert store.is_stored(accepted[0])
    store.database.close()


def test_accepting_goes_on_once_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    full = opened(path, max_pages=60)
    accepted = fill(full)
    full.database.close()

    store = opened(path)
    message_id = store.enqueue()

    assert {each.message_id for each in store.log()} == {*accepted, message_id}
    store.database.close()


@pytest.mark.parametrize("statement", [0, 1, 5, -1])
def test_a_migration_that_is_cut_off_leaves_the_schema_before_it(tmp_path: Path, statement: int) -> None:
    """What a kill between two statements leaves: the journal is rolled back by whoever opens it next."""
    path = tmp_path / "q.db"
    [(_, text), *_] = load_migrations("sqlite")
    whole = [f"{each};" for each in text.split(";") if "CREATE" in each]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for each in whole[:statement]:
            connection.execute(each)

    store = opened(path)

    assert store.states(store.enqueue()) == "CREATED"
    store.database.close()


def test_a_lock_that_another_program_keeps_is_an_error_and_not_a_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtasks.broker.store.sqlite.BUSY_MS", 50)  # the product's five seconds are long here
    path = tmp_path / "q.db"
    database = SqliteDatabase(str(path))
    store = Verbs(database, ManualClock())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreBusy, match="another program has held the lock") as raised:
            store.enqueue()

        other.execute("ROLLBACK")
    assert str(path) in str(raised.value)
    assert store.states(store.enqueue()) == "CREATED"
    store.database.close()


def test_somebody_who_reads_the_file_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    store = opened(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM messages").fetchone()

        message_id = store.enqueue()

    assert store.states(message_id) == "CREATED"
    store.database.close()


def test_a_closed_store_refuses_with_a_reason(tmp_path: Path) -> None:
    store = opened(tmp_path / "q.db")
    store.database.close()

    with pytest.raises(BrokerFailed, match="it is closed"):
        store.enqueue()
