"""Looking after a SQLite file: what is checked, copied, counted and refused."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from qtasks.broker.store import upkeep as file
from qtasks.broker.store.migrate import APPLICATION_ID
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.queries import load_migrations
from qtasks.broker.store.records import Reply
from qtasks.clock import ManualClock
from qtasks.errors import ConfigurationError, StoreBusy, StoreFull, StoreTooNew, StoreUnusable
from qtasks.home import upkeep
from qtasks.home.keys import keys_path
from qtasks.home.ownership import Ownership
from tests.support.broker import WIDE, Rig
from tests.support.postgres import Postgres
from tests.support.store import Verbs

Change = Callable[[sqlite3.Connection], object]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A file in which everything has happened, of a broker that has ended."""
    rig = Rig(tmp_path)
    rig.deliverer.will(Reply(200), Reply(500))
    rig.call("tsk_1")
    rig.enqueue(spec=WIDE)
    rig.enqueue(queue="later", spec=WIDE, start_at=rig.clock.now() + 60_000)
    rig.database.close()
    return tmp_path / "q.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for each in statements:
            connection.execute(each)


async def test_a_store_in_use_is_sound_whatever_happens_in_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    path = tmp_path / "q.db"
    assert file.check(path) == []
    rig.deliverer.will(Reply(500), Reply(489, (("Upstash-NonRetryable-Error", "true"),)))
    rig.enqueue(spec=WIDE)
    rig.enqueue(queue="ordered")
    await rig.node.dispatcher.step()
    assert file.check(path) == []
    await rig.node.dispatcher.idle()
    for queue in ("a", "b"):
        rig.broker.cancel([rig.enqueue(queue=queue)])
    rig.broker.delete_queue("b")
    rig.clock.advance(hours=24 * 40)
    while await rig.node.janitor.step():
        pass

    assert file.check(path) == []
    rig.database.close()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM messages", "unfinished messages without content: 1, 2, 3"),
        ("DELETE FROM queues", "unfinished messages of a queue that is not there: 1, 2, 3"),
        ("UPDATE pending SET state = 9 WHERE seq = 2", "unfinished messages in no known state: 2"),
        ("UPDATE pending SET state = 1 WHERE seq = 2", "deliveries in flight that no node has leased: 2"),
        ("UPDATE pending SET lease_owner = 'n' WHERE seq = 1", "messages that wait and are leased: 1"),
        (
            "INSERT INTO dead_letters VALUES (1, 0, 1, 500, NULL, x'', x'')",
            "dead letters that are also to be delivered: 1",
        ),
        (
            "INSERT INTO dead_letters VALUES (77, 0, 1, 500, NULL, x'', x'')",
            "dead letters without content: 77",
        ),
        (
            "INSERT INTO log (message, epoch, kind, started_at, ended_at) VALUES (77, 1, 1, 0, 0)",
            "entries of the log without a message: 77",
        ),
        (
            "UPDATE messages SET created_at = 1 WHERE seq = 2",
            "messages that were created after one with a higher number: 2",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_found(store: Path, statement: str, problem: str) -> None:
    assert file.check(store) == []
    change(store, statement)

    assert file.check(store) == [problem]


def test_more_than_a_few_examples_are_left_out(store: Path) -> None:
    rows = ", ".join(f"({n}, 0, 1, 500, NULL, x'', x'')" for n in range(80, 90))
    change(store, f"INSERT INTO dead_letters VALUES {rows}")

    assert file.check(store) == ["dead letters without content: 80, 81, 82, …"]


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_page_that_was_overwritten_is_found(store: Path, is_quick: bool) -> None:
    with store.open("r+b") as opened:
        opened.seek(2 * 4096)
        opened.write(b"\xff" * 4096)

    assert file.check(store, is_quick=is_quick) != []


def test_a_backup_has_all_and_is_for_this_user_alone(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    keys_path(store).write_text("QSTASH_TOKEN=x\n", encoding="utf-8")
    told: list[tuple[int, int]] = []

    made = upkeep.SqliteStore(store).backup(target, lambda done, total: told.append((done, total)))

    assert made == upkeep.Backup(target, target.stat().st_size, keys_path(target))
    assert file.stats(target).rows == file.stats(store).rows
    assert told[-1][0] == told[-1][1] > 0
    assert [stat.S_IMODE(each.stat().st_mode) for each in (target, keys_path(target))] == [0o600] * 2
    assert keys_path(target).read_text(encoding="utf-8") == "QSTASH_TOKEN=x\n"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("taken", ["copy.db", "copy.db.keys"])
def test_a_backup_overwrites_nothing(store: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine", encoding="utf-8")

    with pytest.raises(StoreUnusable, match="exists; a backup overwrites nothing, name another file"):
        upkeep.SqliteStore(store).backup(tmp_path / "copy.db", lambda done, total: None)

    assert (tmp_path / taken).read_text(encoding="utf-8") == "mine"


def test_a_backup_of_a_damaged_file_is_refused_and_leaves_nothing(store: Path, tmp_path: Path) -> None:
    with store.open("r+b") as opened:
        opened.seek(2 * 4096)
        opened.write(b"\xff" * 4096)

    with pytest.raises(StoreUnusable, match="the copy is damaged, so is perhaps the original"):
        file.backup(store, tmp_path / "copy.db")

    assert not list(tmp_path.glob("copy.db*"))


def test_a_backup_that_would_fill_the_disk_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "SPARE_BYTES", 1 << 62)

    with pytest.raises(StoreFull, match="name another disk"):
        file.backup(store, tmp_path / "copy.db")


def test_a_backup_into_no_folder_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="cannot be written: No such file or directory"):
        file.backup(store, tmp_path / "nowhere" / "copy.db")


def test_a_restored_file_is_the_backup_with_its_keys(store: Path, tmp_path: Path) -> None:
    keys_path(store).write_text("QSTASH_TOKEN=x\n", encoding="utf-8")
    copy, again = tmp_path / "copy.db", tmp_path / "again.db"
    upkeep.SqliteStore(store).backup(copy, lambda done, total: None)

    upkeep.SqliteStore(again).restore(copy)

    assert file.check(again) == []
    assert file.stats(again).rows == file.stats(store).rows
    assert keys_path(again).read_text(encoding="utf-8") == "QSTASH_TOKEN=x\n"


@pytest.mark.parametrize("left", ["again.db", "again.db-wal", "again.db-shm", "again.db-journal"])
def test_nothing_is_restored_beside_what_is_left_of_another(store: Path, tmp_path: Path, left: str) -> None:
    (tmp_path / left).touch()

    with pytest.raises(StoreUnusable, match=f"{left} exists; move it away first"):
        upkeep.SqliteStore(tmp_path / "again.db").restore(store)


def test_nothing_is_migrated_or_restored_while_a_process_owns_the_file(store: Path, tmp_path: Path) -> None:
    for path, act in (
        (store, lambda: upkeep.SqliteStore(store).migrate()),
        (tmp_path / "again.db", lambda: upkeep.SqliteStore(tmp_path / "again.db").restore(store)),
    ):
        ownership = Ownership.try_acquire(path)
        assert ownership is not None
        try:
            with pytest.raises(StoreBusy, match="is in use by another process"):
                act()
        finally:
            ownership.release()


def old_store(path: Path) -> int:
    """Make a file of the first schema."""
    number, text = load_migrations("sqlite")[0]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(text)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")
    return number


def test_an_old_file_is_migrated_and_says_from_where(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    before = old_store(path)
    with pytest.raises(StoreUnusable, match="start the broker, or run qtasks db migrate"):
        file.check(path)

    assert upkeep.SqliteStore(path).migrate() == (before, file.newest_schema())
    assert upkeep.SqliteStore(path).migrate() == (file.newest_schema(), file.newest_schema())
    assert file.check(path) == []


def test_an_old_file_can_be_backed_up_before_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    before = old_store(path)

    file.backup(path, tmp_path / "copy.db")

    assert file.schema_of(tmp_path / "copy.db") == before


def test_a_file_of_a_newer_version_is_refused(store: Path) -> None:
    change(store, "PRAGMA user_version = 99")

    for look in (file.check, file.stats):
        with pytest.raises(StoreTooNew, match="schema 99"):
            look(store)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE t (a)")

    with pytest.raises(StoreUnusable, match="is no database of qtasks"):
        file.check(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_bytes(os.urandom(8192))

    with pytest.raises(StoreUnusable, match="cannot be read: file is not a database"):
        file.check(tmp_path / "q.db")


def test_looking_makes_no_file(tmp_path: Path) -> None:
    for look in (file.check, file.stats, lambda path: upkeep.SqliteStore(path).migrate()):
        with pytest.raises(StoreUnusable, match="does not exist"):
            look(tmp_path / "q.db")

    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--store must name a store: sqlite:///qtasks"):
        upkeep.store_of("http://broker:8080")


def test_a_store_on_postgresql_is_looked_after_too(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_store()
    store = upkeep.store_of(url)
    with pytest.raises(StoreUnusable, match=r"has schema 0, .* or run qtasks db migrate"):
        store.check(is_quick=False)

    newest = load_migrations("postgres")[-1][0]
    assert [store.migrate(), store.migrate()] == [(0, newest), (newest, newest)]
    database = PostgresDatabase(url)
    try:
        verbs = Verbs(database, ManualClock())
        verbs.enqueue(queue="mail")
        verbs.claim()
        assert store.check(is_quick=False) == []
        found = store.stats()
        assert (found.rows["active"], found.store["schema"]) == (1, newest)
        assert found.store["bytes"] > 0
        database.run(lambda session: session.run("message_delete", {"seq": 1}))
        assert store.check(is_quick=False) == ["unfinished messages without content: 1"]
    finally:
        database.close()


def test_postgresql_is_copied_by_its_own_tools_and_no_password_is_told(tmp_path: Path) -> None:
    store = upkeep.store_of("postgresql://me:secret@db.example/q?schema=shop")

    with pytest.raises(ConfigurationError, match="pg_dump -Fc -n shop -f FILE"):
        store.backup(tmp_path / "copy.db", lambda done, total: None)
    with pytest.raises(ConfigurationError, match="pg_restore"):
        store.restore(tmp_path / "copy.db")
    assert str(store) == "postgresql://db.example/q (schema shop)"
