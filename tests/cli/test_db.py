"""`qtasks db`: what it prints for people and for programs, and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.cli import main
from tests.support.broker import WIDE, Rig
from tests.support.processes import Processes


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("QTASKS_", "QSTASH_")):
            monkeypatch.delenv(name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rig = Rig(tmp_path)
    rig.enqueue(spec=WIDE)
    rig.database.close()
    return tmp_path / "q.db"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["db", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_what_a_file_holds_is_told_to_people_and_programs(store: Path) -> None:
    code, table, _ = run("stats", "--store", f"sqlite:///{store}")
    _, text, _ = run("stats", "--store", f"sqlite:///{store}", "--json")

    found = json.loads(text)
    assert code == 0
    assert "messages             1\n" in table
    assert "ready                1\n" in table
    assert (found["rows"]["ready"], found["name"]) == (1, str(store))
    assert found["store"].keys() == {"schema", "file_bytes", "log_bytes", "free_bytes"}


def test_the_store_is_that_of_the_environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QTASKS_BROKER", f"sqlite:///{store}")

    assert run("check") == (0, f"{store}: ok\n", "")


def test_a_file_that_is_not_sound_is_1_with_a_line_for_each_problem(store: Path) -> None:
    database = SqliteDatabase(str(store))
    database.run(lambda session: session.run("message_delete", {"seq": 1}))
    database.close()

    code, printed, complaint = run("check", "--store", f"sqlite:///{store}")

    assert code == 1
    assert printed == "unfinished messages without content: 1\n"
    assert complaint == f"qtasks: {store} is not sound; stop the broker and restore a backup\n"


def test_a_backup_says_what_it_wrote_and_can_be_restored(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"

    code, printed, complaint = run("backup", str(copy), "--store", f"sqlite:///{store}")

    assert (code, complaint) == (0, "")
    assert printed == f"{copy}: {copy.stat().st_size} bytes, read back and sound\n"
    again = f"sqlite:///{tmp_path}/again.db"
    restored = f"{tmp_path}/again.db: restored from {copy}\n"
    assert run("restore", str(copy), "--store", again) == (0, restored, "")


def test_a_migration_says_what_it_did(store: Path) -> None:
    code, printed, _ = run("migrate", "--store", f"sqlite:///{store}")

    assert code == 0
    assert printed.endswith(", as before\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["stats", "--store", "sqlite:////nowhere/q.db"],
            1,
            "qtasks: /nowhere/q.db does not exist",
        ),
        (
            ["backup", "a.db", "--store", "postgresql://me:secret@db/q"],
            2,
            "by its own tools",
        ),
        (["check", "--store", "postgresql://me:secret@127.0.0.1:1/q"], 5, "does not answer"),
        (["check", "--store", "q.db"], 2, "--store must name a store: sqlite:///qtasks.db or postgresql"),
        (["restore", "/nowhere/copy.db"], 2, "File '/nowhere/copy.db' does not exist"),
        (["backup"], 2, "Missing argument 'TARGET'"),
        (["vacuum"], 2, "No such command 'vacuum'"),
    ],
)
def test_what_cannot_be_is_told_with_its_exit_code(arguments: list[str], code: int, text: str) -> None:
    found, printed, complaint = run(*arguments)

    assert (found, printed) == (code, "")
    assert text in complaint
    assert "secret" not in complaint


@pytest.mark.process
def test_a_broker_at_work_may_be_looked_at_and_not_migrated(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.broker()
        store = f"sqlite:///{processes.store}"

        assert run("check", "--store", store)[0] == 0
        code, _, complaint = run("migrate", "--store", store)

    assert code == 1
    assert "is in use by another process" in complaint
