"""`qtasks doctor`: broken setups, each named with what mends it, and nothing of a sound one."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qtasks import QTasks, Settings
from qtasks.broker.store import upkeep
from qtasks.cli.doctor.facts import Facts
from qtasks.cli.doctor.findings import Finding, Level, examine
from qtasks.cli.doctor.gathering import gather
from qtasks.cli.doctor.settings_checks import KNOWN
from qtasks.cli.doctor.table import CHECKS
from qtasks.clock import ManualClock, SystemClock
from qtasks.home.keys import keys_path
from qtasks.home.ownership import Ownership
from tests.docs.pages import rows, text
from tests.support.cli import Ran, Shell, run
from tests.support.homes import SECRET, embedded
from tests.support.postgres import require_postgres

OK, WARN, FAIL = "OK", "WARN", "FAIL"


def found(ran: Ran, name: str) -> tuple[str, str, str | None]:
    """Give level, text and remedy of a check."""
    [finding] = [each for each in ran.lines if each["name"] == name]
    return finding["level"], finding["text"], finding["remedy"]


def levels(ran: Ran) -> dict[str, str]:
    """Give the level of each check, those left away that are well."""
    return {each["name"]: each["level"] for each in ran.lines if each["level"] != OK}


REMOTE = {
    "QTASKS_BROKER": "http://127.0.0.1:1",
    "QTASKS_TOKEN": "token",
    "QTASKS_CURRENT_SIGNING_KEY": "sig_one",
    "QTASKS_NEXT_SIGNING_KEY": "sig_two",
    "QTASKS_SECRET": SECRET,
    "QTASKS_PUBLIC_URL": "http://127.0.0.1:1/qtasks",
}
HOSTED = {**REMOTE, "QTASKS_BROKER": "qstash+http://127.0.0.1:1"}

BROKEN_ENVIRONMENTS = {
    "a guessable secret": (
        {"QTASKS_SECRET": "changeme" * 8},
        ("settings", FAIL, "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"),
    ),
    "a public URL without a scheme": (
        {**REMOTE, "QTASKS_PUBLIC_URL": "app.example.com"},
        ("settings", FAIL, "it must be the address where the webhook is mounted"),
    ),
    "a misspelt name": (
        {"QTASKS_TOKNE": "x"},
        ("unknown-settings", WARN, "rename or unset QTASKS_TOKNE"),
    ),
    "a setting of another broker": (
        {**REMOTE, "QTASKS_DURABILITY": "relaxed"},
        ("idle-settings", WARN, "unset QTASKS_DURABILITY"),
    ),
    "two tokens": (
        {**REMOTE, "QSTASH_TOKEN": "another"},
        ("shadowed-settings", WARN, "unset QSTASH_TOKEN"),
    ),
    "no broker": (
        {"QTASKS_BROKER": "redis://localhost"},
        ("broker", FAIL, "use sqlite:///qtasks.db, postgresql://…, http://host:port or https://…"),
    ),
    "a database without a name": (
        {"QTASKS_BROKER": "sqlite:///"},
        ("broker", FAIL, "use sqlite:///qtasks.db"),
    ),
    "a broker in memory": (
        {"QTASKS_BROKER": "sqlite:///:memory:"},
        ("broker", FAIL, "use a file, sqlite:///qtasks.db"),
    ),
    "a schema that is no name": (
        {"QTASKS_BROKER": "postgresql://127.0.0.1:1/db?schema=NO"},
        ("broker", FAIL, "it is up to 48 small letters, digits and underscores"),
    ),
    "an address with half a bracket": (
        {"QTASKS_BROKER": "http://[::1"},
        ("broker", FAIL, "http://host:port"),
    ),
    "an address without a host": (
        {"QTASKS_BROKER": "http://"},
        ("broker", FAIL, "http://host:port"),
    ),
    "a public URL with half a bracket": (
        {**REMOTE, "QTASKS_PUBLIC_URL": "http://[::1/qtasks"},
        ("settings", FAIL, "it must be the address where the webhook is mounted"),
    ),
    "a token in quotes": (
        {**REMOTE, "QTASKS_TOKEN": '"tökén"'},
        ("token", FAIL, "copy it into QTASKS_TOKEN once more, alone"),
    ),
    "no token": (
        {**REMOTE, "QTASKS_TOKEN": ""},
        ("token", FAIL, "set QTASKS_TOKEN; the broker's file of keys has it"),
    ),
    "no secret": (
        {**REMOTE, "QTASKS_SECRET": ""},
        ("secret", FAIL, "secrets.token_hex(32))' and set it for all of them"),
    ),
    "one key": (
        {**REMOTE, "QTASKS_NEXT_SIGNING_KEY": ""},
        ("signing-keys", FAIL, "to what `qtasks keys show` prints"),
    ),
    "the same key twice": (
        {**REMOTE, "QTASKS_NEXT_SIGNING_KEY": "sig_one"},
        ("signing-keys", WARN, "set both to what `qtasks keys show` prints"),
    ),
    "no public URL": (
        {**REMOTE, "QTASKS_PUBLIC_URL": ""},
        ("public-url", FAIL, "such as https://app.example.com/qtasks"),
    ),
    "a public URL in the clear": (
        {**REMOTE, "QTASKS_PUBLIC_URL": "http://app.invalid/qtasks"},
        ("public-url", WARN, "serve it by https://"),
    ),
    "a public URL with the part that is added": (
        {**REMOTE, "QTASKS_PUBLIC_URL": "http://127.0.0.1:1/qtasks/run/"},
        ("public-path", FAIL, "set it to http://127.0.0.1:1/qtasks"),
    ),
    "a double slash": (
        {**REMOTE, "QTASKS_PUBLIC_URL": "http://127.0.0.1:1//qtasks"},
        ("public-path", WARN, "leave one of them away"),
    ),
    "a proxy": (
        {**REMOTE, "QTASKS_BROKER": "http://broker.invalid", "HTTPS_PROXY": "http://proxy:3128"},
        ("proxies", WARN, "NO_PROXY=broker.invalid"),
    ),
    "a destination that is none": (
        {"QTASKS_ALLOW_DESTINATIONS": "https://a.b/path"},
        ("destinations", FAIL, ""),
    ),
    "relaxed durability": (
        {"QTASKS_DURABILITY": "relaxed"},
        ("durability", WARN, "unset QTASKS_DURABILITY"),
    ),
    "a broker that is not there": (
        REMOTE,
        ("answer", FAIL, "start it (qtasks broker), or say where it is: QTASKS_BROKER"),
    ),
    "an app that is not there": (
        REMOTE,
        ("webhook", FAIL, "start the app, or correct QTASKS_PUBLIC_URL"),
    ),
    "an app that cannot be imported": (
        {"QTASKS_APP": "no_such_module_of_ours:tasks"},
        ("app", FAIL, "run this where you start your app, and write --app module:tasks"),
    ),
    "a plan that is none": (
        {**HOSTED, "QTASKS_QSTASH_PLAN": "gold"},
        ("hosted-plan", FAIL, "it must be one of free, pay-as-you-go, fixed-1m, fixed-10m"),
    ),
    "results that nobody keeps": (
        HOSTED,
        ("hosted-results", WARN, "set QTASKS_RESULTS=sqlite:///results.db, unless nobody asks for results"),
    ),
}


@pytest.mark.parametrize("case", BROKEN_ENVIRONMENTS)
def test_a_broken_environment_is_named_with_its_remedy(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, (name, level, remedy) = BROKEN_ENVIRONMENTS[case]
    monkeypatch.chdir(tmp_path)

    ran = run("doctor", "--jsonl", env=env)

    was, told, mend = found(ran, name)
    assert was == level, told
    assert remedy in (mend or "")
    assert ran.code == (1 if FAIL in levels(ran).values() else 0)
    assert SECRET not in ran.out
    assert os.listdir(tmp_path) == []


async def sound_store(folder: Path) -> Path:
    """Make a store as an app does, which has stopped."""
    store = folder / "q.db"
    async with embedded(store).lifespan():
        pass
    return store


def _foreign(store: Path) -> None:
    store.unlink()
    with sqlite3.connect(store) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()


def _no_database(store: Path) -> None:
    store.write_bytes(b"this is a text, and no database of any kind" * 100)


def _newer(store: Path) -> None:
    _set_schema(store, upkeep.newest_schema() + 1)


def _older(store: Path) -> None:
    _set_schema(store, 1)


def _set_schema(store: Path, number: int) -> None:
    with sqlite3.connect(store) as connection:
        connection.execute(f"PRAGMA user_version = {number}")
    connection.close()


def _open_file(store: Path) -> None:
    store.chmod(0o644)


def _open_keys(store: Path) -> None:
    keys_path(store).chmod(0o640)


def _halved_keys(store: Path) -> None:
    keys_path(store).write_text("QSTASH_TOKEN=abc\n")


def _old_keys(store: Path) -> None:
    long_ago = SystemClock().now() / 1000 - 400 * 86_400
    os.utime(keys_path(store), (long_ago, long_ago))


def _nothing(store: Path) -> None:
    pass


def _no_folder(store: Path) -> None:
    for each in store.parent.iterdir():
        each.unlink()
    store.parent.rmdir()


BROKEN_FILES: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "of another program": (
        _foreign,
        "database",
        FAIL,
        "name another file: QTASKS_BROKER=sqlite:///qtasks.db",
    ),
    "no database": (_no_database, "database", FAIL, "name another file"),
    "without its folder": (_no_folder, "database", FAIL, "make it: mkdir -p "),
    "of a newer version": (_newer, "schema", FAIL, "upgrade qtasks to the version"),
    "of an older version": (_older, "schema", WARN, "take a backup first (qtasks db backup FILE)"),
    "that others may read": (_open_file, "file-rights", WARN, "run: chmod 600 "),
    "with keys that others may read": (_open_keys, "keys-file", FAIL, "run: chmod 600 "),
    "with half of its keys": (_halved_keys, "keys-file", FAIL, "restore it from a backup"),
    "with old keys": (_old_keys, "key-age", WARN, "roll them: qtasks keys status, then qtasks keys roll"),
    "that nobody runs": (_nothing, "owner", WARN, "start your app, and pass lifespan=tasks.lifespan to it"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
async def test_a_broken_file_is_named_with_its_remedy(case: str, tmp_path: Path) -> None:
    damage, name, level, remedy = BROKEN_FILES[case]
    folder = tmp_path / "data"
    folder.mkdir()
    store = await sound_store(folder)
    damage(store)
    before = _contents(folder)

    ran = await Shell({"QTASKS_BROKER": f"sqlite:///{store}"})("doctor", "--jsonl")

    was, told, mend = found(ran, name)
    assert was == level, told
    assert remedy in (mend or "")
    assert ran.code == (1 if FAIL in levels(ran).values() else 0)
    if level == FAIL:
        assert _contents(folder) == before  # what is broken is not touched


def _contents(folder: Path) -> dict[str, bytes]:
    """Give what stands in files, but for those that SQLite makes to read one."""
    files = folder.iterdir() if folder.exists() else ()
    return {each.name: each.read_bytes() for each in files if not each.name.endswith(("-wal", "-shm"))}


async def test_an_app_that_runs_is_well(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with embedded(store).lifespan():
        ran = await Shell({"QTASKS_BROKER": f"sqlite:///{store}"})("doctor", "--jsonl")

    assert ran.code == 0
    assert set(levels(ran)) <= {"sqlite"}
    assert found(ran, "owner")[1] == "a process runs the tasks, and others forward to it"
    assert found(ran, "answer")[1] == "the broker answers"


async def test_a_file_that_is_held_by_who_does_not_listen_is_named(tmp_path: Path) -> None:
    store = await sound_store(tmp_path)
    ownership = Ownership.try_acquire(store)
    assert ownership is not None
    ran = await Shell({"QTASKS_BROKER": f"sqlite:///{store}"})("doctor", "--jsonl")
    ownership.release()

    assert found(ran, "owner")[0] == WARN
    assert "QTASKS_BROKER=http://127.0.0.1:8080" in (found(ran, "owner")[2] or "")


def finding(facts: Facts, name: str) -> Finding:
    """Judge facts that no test can have for real."""
    [check] = [each for each in CHECKS if each.name == name]
    [result] = examine(facts, [check])
    return result


def facts_of(tmp_path: Path) -> Facts:
    """The facts of a setup that is not made yet."""
    env = {"QTASKS_BROKER": f"sqlite:///{tmp_path}/q.db"}
    return gather(env, ManualClock(), broker=None, app=None, is_for_hosted=False)


def test_an_old_sqlite_is_named_and_a_new_one_is_well(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    old = finding(replace(facts, sqlite_version=(3, 51, 2)), "sqlite")
    new = finding(replace(facts, sqlite_version=(3, 51, 3)), "sqlite")

    assert (old.level, new.level) == (Level.WARN, Level.OK)
    assert old.text.startswith("SQLite 3.51.2: before 3.51.3")
    assert old.remedy == "let no other program write to the file, or use a Python with a newer SQLite"


def test_a_disk_of_the_network_and_a_full_one_are_named(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    assert facts.file is not None
    away = finding(replace(facts, file=replace(facts.file, filesystem="nfs4")), "filesystem")
    full = finding(replace(facts, file=replace(facts.file, free_bytes=0)), "disk")
    scarce = finding(replace(facts, file=replace(facts.file, free_bytes=facts.file.wanted_bytes)), "disk")

    assert (away.level, full.level, scarce.level) == (Level.FAIL, Level.FAIL, Level.WARN)
    assert away.remedy == "put it on a disk of this machine, or use PostgreSQL"
    assert full.remedy == f"make room on the disk of {tmp_path}"


def test_few_open_files_are_named(tmp_path: Path) -> None:
    few = finding(replace(facts_of(tmp_path), open_files=256), "open-files")

    assert (few.level, few.remedy) == (Level.WARN, "raise it where the app is started: ulimit -n 4096")


async def test_an_asynchronous_postgres_is_named_with_its_remedy() -> None:
    url = require_postgres().new_store()
    env = {"QTASKS_BROKER": f"{url}&options=-csynchronous_commit%3Doff", "QTASKS_SECRET": SECRET}

    ran = await Shell(env)("doctor", "--jsonl")

    # The server of the tests has fsync off as well, which is worse.
    assert found(ran, "postgres-durability")[0] == FAIL
    assert "set fsync = on" in (found(ran, "postgres-durability")[2] or "")
    assert found(ran, "postgres-version")[0] == OK
    assert found(ran, "schema")[1] == "there is none yet, the first start makes it"
    facts = gather(env, SystemClock(), broker=None, app=None, is_for_hosted=False)
    assert facts.postgres is not None
    synced = replace(facts.postgres, parameters={**facts.postgres.parameters, "fsync": "on"})
    alone = finding(replace(facts, postgres=synced), "postgres-durability")
    assert alone.level is Level.WARN
    assert "ALTER ROLE … SET synchronous_commit = on" in (alone.remedy or "")
    old = finding(replace(facts, postgres=replace(synced, version=130_010)), "postgres-version")
    assert (old.level, old.remedy) == (Level.FAIL, "upgrade it to 14 or newer")


async def test_a_shared_database_at_work_is_well_and_other_settings_than_its_apps_are_named() -> None:
    url = require_postgres().new_store()
    async with QTasks(settings=Settings(broker=url, secrets=(SECRET,))).lifespan():
        sound = await Shell({"QTASKS_BROKER": url, "QTASKS_SECRET": SECRET})("doctor", "--jsonl")
        lacking = await Shell({"QTASKS_BROKER": url})("doctor", "--jsonl")

    assert set(levels(sound)) <= {"postgres-durability", "open-files"}  # the tests' own has fsync off
    assert found(sound, "answer")[:2] == (OK, "the broker answers")
    assert found(sound, "nodes")[:2] == (OK, "1 node alive")
    gone = await Shell({"QTASKS_BROKER": url, "QTASKS_SECRET": SECRET})("doctor", "--jsonl")
    assert found(gone, "nodes") == (
        WARN,
        "no node is alive, so tasks wait",
        "start your app with lifespan=tasks.lifespan, or `qtasks broker --store URL`",
    )
    assert found(lacking, "secret")[0] == FAIL
    assert lacking.code == 1


async def test_a_pooler_and_a_postgres_that_is_not_there_are_named_without_a_password() -> None:
    url = "postgresql://u:hidden@127.0.0.1:6432/db"
    ran = await Shell({"QTASKS_BROKER": url, "QTASKS_SECRET": SECRET})("doctor", "--jsonl")

    assert found(ran, "database")[0] == FAIL
    assert "see that it runs" in (found(ran, "database")[2] or "")
    assert found(ran, "pooler") == (
        WARN,
        "postgresql://127.0.0.1:6432/db (schema qtasks) looks like a pooler, which carries no wake-ups",
        "add ?pooler=on to QTASKS_BROKER, or name PostgreSQL itself",
    )
    assert "hidden" not in ran.out


def test_the_doctor_knows_every_setting() -> None:
    class Recorder(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return default

    read = {"QTASKS_APP"}  # of commands
    Settings.from_env(Recorder())

    assert {each for each in read if each.startswith("QTASKS_")} == set(KNOWN)


def test_the_page_lists_every_check_in_the_order_of_the_report() -> None:
    documented = [(row[0].strip("`"), row[1]) for row in rows(text("docs/doctor.md"), "What is checked")]

    assert documented == [(each.name, each.about) for each in CHECKS]
    assert len(CHECKS) >= 20


def test_the_names_of_checks_are_unique_words() -> None:
    names = [each.name for each in CHECKS]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z-]+", each) for each in names)
