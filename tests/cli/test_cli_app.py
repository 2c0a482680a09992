"""`qtasks run`, `tasks` and edited replays: commands that work with an app and its embedded broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qtasks import Flow, QTasks
from qtasks.cli import exits
from tests.support.cli import Shell, on_terminal, run
from tests.support.homes import embedded, until_found

MODULE = "shop_of_test_cli_app"
SEEN: list[tuple[str, int, bool]] = []


def define(tasks: QTasks) -> None:
    """Give an app its tasks."""

    @tasks.task(name="shop.welcome", queue="mail", retries=0, bind=True)
    def welcome(context: Any, to: str, copies: int = 1) -> str:
        SEEN.append((to, copies, context.is_replay))
        if "@" not in to:
            raise ValueError(f"no address: {to}")
        return f"{copies} to {to}"

    @tasks.task(name="shop.keep")
    def keep(value: Any, *more: Any, when: str = "") -> list[Any]:
        return [value, *more, when]

    @tasks.task(name="shop.export", flow=Flow(rate=10, key="tenant:{tenant}"))
    def export(tenant: str) -> None: ...


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    """An app that runs, as a module to import, and a shell that names it."""
    SEEN.clear()
    store = tmp_path / "q.db"
    tasks = embedded(store)
    define(tasks)
    module = type(sys)(MODULE)
    vars(module).update(tasks=tasks, other=QTasks(f"sqlite:///{tmp_path}/other.db"), number=1)
    monkeypatch.setitem(sys.modules, MODULE, module)
    async with tasks.lifespan():
        yield Shell({"QTASKS_APP": f"{MODULE}:tasks", "QTASKS_BROKER": f"sqlite:///{store}"})


async def test_a_task_is_run_and_waited_for(app: Shell) -> None:
    done = await app("run", "shop.welcome", "-a", "to=a@b.c", "--arg", "copies=3", "--wait")

    assert (done.code, done.out) == (0, '"3 to a@b.c"\n')
    assert done.err.startswith("waiting for tsk_")


async def test_without_waiting_its_id_is_printed_and_shows_where_it_is(app: Shell) -> None:
    task_id = (await app("run", "welcome", "-a", "to=a@b.c")).out.strip()

    async def ask() -> dict[str, Any]:
        found: dict[str, Any] = (await app("tasks", "show", task_id, "--json")).json
        return found

    shown = await until_found(ask, lambda found: found["state"] == "SUCCEEDED")
    assert shown["result"] == "1 to a@b.c"
    assert 'result    "1 to a@b.c"' in (await app("tasks", "show", task_id)).out
    assert (await app("tasks", "forget", task_id)).err == f"forgot {task_id}\n"
    unknown = await app("tasks", "show", "tsk_nobody")
    assert unknown.code == exits.NOT_FOUND
    assert "nothing is known of tsk_nobody" in unknown.err
    assert (await app("tasks", "cancel", task_id)).code == exits.NOT_FOUND


async def test_a_failure_is_told_with_its_place(app: Shell) -> None:
    failed = await app("run", "welcome", "-a", "to=nobody", "--wait")

    assert (failed.code, failed.out) == (exits.FAILED, "")
    assert "ValueError: no address: nobody" in failed.err
    assert "test_cli_app.py" in failed.err


async def test_arguments_are_json_where_that_fits_and_text_where_not(app: Shell) -> None:
    text = await app("run", "welcome", "-a", "to=5@", "-a", "copies=2", "--wait")
    plain = await app(
        "run", "keep", "-a", 'value={"a": [1, null]}', "-a", "when=2026-01-01", "--wait", "--jsonl"
    )
    number = await app("run", "keep", "-a", "value=5", "-a", "when=7", "--wait", "--jsonl")
    whole = await app("run", "keep", "-d", '{"value": "5"}', "--wait", "--jsonl")

    assert text.out == '"2 to 5@"\n'
    assert plain.json == [{"a": [1, None]}, "2026-01-01"]
    assert number.json == [5, "7"]
    assert whole.json == ["5", ""]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["welcome"], "missing 1 required argument: 'to'"),
        (["welcome", "-a", "nope=1"], "shop.welcome() has no parameter 'nope'; there are: to, copies"),
        (["welcome", "-a", "to=x", "-a", "copies=two"], "copies"),
        (["welcme"], "there is no task 'welcme'; there are: shop.export, shop.keep, shop.welcome"),
        (["welcome", "-d", "[1]"], "must be a JSON object of the arguments"),
        (["welcome", "-d", "{"], "--data is not JSON"),
        (["welcome", "-a", "to"], "write name=value"),
    ],
)
async def test_a_call_that_does_not_fit_sends_nothing(app: Shell, arguments: list[str], text: str) -> None:
    failed = await app("run", *arguments)

    assert (failed.code, failed.out) == (exits.USAGE, "")
    assert text in failed.err
    assert (await app("messages", "ls", "--json")).json == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere:tasks", "there is no module 'nowhere'"),
        (f"{MODULE}:nope", f"names no QTasks; there are: {MODULE}:tasks, {MODULE}:other"),
        (MODULE, "names no QTasks; there are"),
        (f"{MODULE}:number", "names no QTasks; there are"),
    ],
)
async def test_an_app_that_is_not_there_is_said(app: Shell, name: str, text: str) -> None:
    failed = await app("tasks", "ls", "--app", name)

    assert (failed.code, failed.out) == (exits.USAGE, "")
    assert text in failed.err


def test_no_app_at_all_is_said() -> None:
    failed = run("tasks", "ls")

    assert failed.code == exits.USAGE
    assert "which app? Give --app module:tasks, or set QTASKS_APP" in failed.err


def test_an_app_whose_import_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_of_test_cli_app.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "bad_of_test_cli_app.py").write_text("raise ValueError('boom')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    missing = run("tasks", "ls", "--app", "broken_of_test_cli_app:x")
    broken = run("tasks", "ls", "--app", "bad_of_test_cli_app:x")

    assert "failed: No module named 'not_installed_anywhere'" in missing.err
    assert "failed: ValueError: boom" in broken.err
    assert (missing.code, broken.code) == (exits.USAGE, exits.USAGE)


async def test_the_tasks_of_an_app_are_listed(app: Shell) -> None:
    listed = await app("tasks", "ls", "--jsonl")

    ours = {each["name"]: each for each in listed.lines if each["name"].startswith("shop.")}
    assert (ours["shop.welcome"]["queue"], ours["shop.welcome"]["parameters"]) == ("mail", ["to", "copies"])
    assert ours["shop.export"]["queue"] is None, "its calls wait at their key"
    lines = [line.split()[:2] for line in (await app("tasks", "ls")).out.splitlines()]
    assert ["shop.welcome", "mail"] in lines
    assert ["shop.export", "-"] in lines


async def dead_letter(app: Shell, *arguments: str) -> str:
    """Have a call fail for good; gives the id of its dead letter."""
    await app("run", "welcome", *arguments)

    async def ask() -> list[dict[str, Any]]:
        return (await app("dlq", "ls", "--jsonl")).lines

    found = await until_found(ask, bool)
    return str(found[0]["dlqId"])


async def test_a_dead_letter_is_replayed_with_other_arguments(app: Shell) -> None:
    dlq_id = await dead_letter(app, "-a", "to=nobody", "-a", "copies=2")
    task_id = (await app("dlq", "show", dlq_id, "--json")).json["body"].partition('"id":"')[2][:36]

    edited = await app("dlq", "replay", dlq_id, "--edit", "to=a@b.c")

    async def ask() -> str:
        return str((await app("tasks", "show", task_id, "--json")).json["state"])

    await until_found(ask, lambda state: state == "SUCCEEDED")
    assert edited.code == 0
    assert edited.err.startswith(f"replayed {dlq_id} as msg_")
    assert SEEN == [("nobody", 2, False), ("a@b.c", 2, True)]
    assert (await app("dlq", "ls", "--json")).json == []


async def test_edited_arguments_must_fit_the_task_as_it_is_now(app: Shell) -> None:
    dlq_id = await dead_letter(app, "-a", "to=nobody")

    wrong = await app("dlq", "replay", dlq_id, "--edit", "copies=many")
    unknown = await app("dlq", "replay", dlq_id, "--edit", "cc=x")

    assert (wrong.code, unknown.code) == (exits.USAGE, exits.USAGE)
    assert "the arguments do not fit shop.welcome(): copies: expected int, got str" in wrong.err
    assert "has no parameter 'cc'" in unknown.err
    assert len((await app("dlq", "ls", "--json")).json) == 1


async def test_what_another_app_has_signed_cannot_be_edited(app: Shell) -> None:
    dlq_id = await dead_letter(app, "-a", "to=nobody")

    refused = await app("dlq", "replay", dlq_id, "--edit", "to=a@b", "--app", f"{MODULE}:other")

    assert refused.code == exits.USAGE
    assert "was not signed by this app" in refused.err
    assert "can be replayed as it is" in refused.err


async def test_a_plain_replay_keeps_the_task_and_tells_it(app: Shell) -> None:
    dlq_id = await dead_letter(app, "-a", "to=nobody")

    assert (await app("dlq", "replay", dlq_id)).err == f"replayed {dlq_id}\n"

    async def ask() -> int:
        return len(SEEN)

    await until_found(ask, lambda count: count == 2)
    assert SEEN[-1] == ("nobody", 1, True)


@pytest.mark.process
async def test_long_work_shows_how_far_it_has_come_on_a_terminal(app: Shell) -> None:
    await dead_letter(app, "-a", "to=nobody")

    shown = await asyncio.to_thread(on_terminal, "dlq", "replay", "--all", "--yes", env=app.env)

    assert "\rreplaying 1 …" in shown
    assert shown.rpartition("\x1b[K")[2].strip() == "replayed 1 dead letter"
