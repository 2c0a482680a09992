"""What the pages of the command line and of the client say is so: sessions run, lists are whole."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from qtasks.cli import COMMANDS, exits, main
from qtasks.client import Client, calls
from tests.docs.pages import blocks, commands, rows, text
from tests.support import ROOT
from tests.support.homes import TOKEN, running_server, server_setup, url_said
from tests.support.processes import Processes, clean_environment, free_port

PAGE = "docs/cli.md"
_SESSION = re.compile(r"^```sh\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def verbs() -> Iterator[str]:
    """Give all commands, those of groups by both of their words."""
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (f"qtasks {name} {verb}" for verb in command.commands)
        else:
            yield f"qtasks {name}"


def test_every_command_is_in_the_docs_and_no_other_is() -> None:
    documented = [row[0].strip("`") for row in rows(text(PAGE), "Commands")]

    assert sorted(documented) == sorted(verbs())


def test_every_option_in_the_docs_exists() -> None:
    context = click.Context(main)
    known: set[str] = {"--help"}
    for name in COMMANDS:
        command = main.get_command(context, name)
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        known |= {
            option
            for each in inner
            if each
            for param in each.params
            for option in (*param.opts, *param.secondary_opts)
        }

    inline = re.sub(r"^```.*?^```$", "", text(PAGE), flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"(--[a-z]+[a-z-]*)", inline)) <= known


def test_every_exit_code_is_in_the_docs() -> None:
    codes = {value for name, value in vars(exits).items() if name.isupper()}

    assert {int(row[0]) for row in rows(text(PAGE), "In scripts")} == codes


@pytest.mark.process
def test_the_session_runs_as_it_is_written(tmp_path: Path) -> None:
    page = text(PAGE)
    (tmp_path / "shop.py").write_text(blocks(page, "python")[0].text)
    with Processes(tmp_path) as processes:
        app = processes.python(
            *("-m", "uvicorn", "shop:app", "--port", str(free_port())),
            env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "QTASKS_BROKER": ""},
        )
        app.expect("Application startup complete")
        env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
        for script, expected in _SESSION.findall(page):
            printed = ""
            for words in commands(script):
                if words[0] == "export":
                    name, _, value = words[1].partition("=")
                    env[name] = value
                    continue
                printed += qtasks(tmp_path, env, [dlq_id(tmp_path, env, each) for each in words[1:]])
                if words[1:3] == ["run", "welcome"] and "--wait" not in words:
                    wait_for_letter(tmp_path, env)
            assert re.fullmatch(pattern_of(expected), printed), f"{script}\n{printed}"


def qtasks(folder: Path, env: dict[str, str], words: list[str]) -> str:
    """Run a command; give all that it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "qtasks", *words],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def dlq_id(folder: Path, env: dict[str, str], word: str) -> str:
    """Put in the id that a reader copies."""
    if word != "$DLQ_ID":
        return word
    found = re.search(r'"dlqId":"([^"]+)"', qtasks(folder, env, ["dlq", "ls", "--jsonl"]))
    assert found
    return found[1]


def wait_for_letter(folder: Path, env: dict[str, str]) -> None:
    """Wait until the call has failed."""
    for _ in range(50):
        if "dlqId" in qtasks(folder, env, ["dlq", "ls", "--jsonl"]):
            return
        threading.Event().wait(0.1)
    raise AssertionError("no dead letter came")


def pattern_of(expected: str) -> str:
    """Read `…` as anything on a line."""
    return "".join(".*" if each == "…" else re.escape(each) for each in re.split("(…)", expected))


@pytest.mark.process
async def test_the_client_s_page_runs_against_a_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_server(server_setup(tmp_path / "q.db")) as said:
        monkeypatch.setenv("QTASKS_BROKER", url_said(said))
        monkeypatch.setenv("QTASKS_TOKEN", TOKEN)

        def pause() -> None:
            with Client(url_said(said), TOKEN) as client:
                client.send(calls.set_queue("mail", paused=True))

        await asyncio.to_thread(pause)
        names: dict[str, Any] = {}
        for block in blocks(text("docs/client.md"), "python"):
            code = compile(block.text, "docs/client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, names)
            else:
                await asyncio.to_thread(exec, code, names)

    assert names["receiver"].current_signing_key == "sig_current"
