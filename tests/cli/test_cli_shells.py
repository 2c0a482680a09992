"""The command line in real processes: its speed, its pipes, its colours and its completion."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import pytest

from qtasks.cli import COMMANDS, main
from qtasks.client import AsyncClient, calls
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing
from tests.support import ROOT
from tests.support.cli import Shell, on_terminal, run
from tests.support.homes import TOKEN, embedded, until_found
from tests.support.processes import Processes, clean_environment, free_port
from tests.support.wire import WireServer


def start(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "qtasks", *arguments],
        cwd=ROOT,
        env={**clean_environment(), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_imports_no_group_of_commands_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom qtasks.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    loaded = set(ran.stderr.split())
    assert not {"httpx", "starlette", "asyncio", "orjson", "sqlite3"} & loaded
    assert {each for each in loaded if each.startswith("qtasks.cli.")} == {"qtasks.cli.lazy"}


def test_every_command_in_the_table_exists_and_has_help() -> None:
    context = click.Context(main)

    for name, (_, about) in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None, name
        assert command.name == name
        assert about.endswith(".")
        assert command.get_short_help_str()


def all_commands() -> list[tuple[str, ...]]:
    """List the paths of all commands, groups among them."""
    context = click.Context(main)
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = main.get_command(context, name)
        found.append((name,))
        if isinstance(command, click.Group):
            found.extend((name, verb) for verb in command.commands)
    return found


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_each_command_explains_itself(path: tuple[str, ...]) -> None:
    shown = run(*path, "--help")

    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("Usage: ")


def test_a_mistyped_command_is_a_mistake() -> None:
    failed = start("queues", "lst")

    assert failed.returncode == 2
    assert "No such command 'lst'" in failed.stderr


def test_a_process_exits_with_the_code_of_its_failure() -> None:
    failed = start("queues", "ls", "--broker", f"http://127.0.0.1:{free_port()}", QTASKS_TOKEN="t")

    assert (failed.returncode, failed.stdout) == (5, "")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_a_shell(shell: str) -> None:
    printed = run("completion", shell)

    assert printed.code == 0
    assert "_QTASKS_COMPLETE" in printed.out


async def test_names_are_completed_live(shell: Shell) -> None:
    for name in ("mail", "main", "other"):
        await shell("queues", "set", name)

    found = await shell(
        *(), _QTASKS_COMPLETE="bash_complete", COMP_WORDS="qtasks queues pause ma", COMP_CWORD="3"
    )

    assert found.out.splitlines() == ["plain,mail", "plain,main"]


def test_a_completion_without_a_broker_offers_nothing_and_says_nothing() -> None:
    found = start(
        _QTASKS_COMPLETE="bash_complete",
        COMP_WORDS="qtasks queues pause ma",
        COMP_CWORD="3",
        QTASKS_BROKER=f"http://127.0.0.1:{free_port()}",
        QTASKS_TOKEN="t",
    )

    assert (found.stdout.strip(), found.stderr) == ("", "")


@pytest.mark.process
async def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with embedded(store).lifespan():
        await asyncio.to_thread(start, "queues", "set", "mail", QTASKS_BROKER=f"sqlite:///{store}")

        async def listed(**env: str) -> str:
            return await asyncio.to_thread(
                on_terminal, "queues", "ls", env={"QTASKS_BROKER": f"sqlite:///{store}", **env}
            )

        piped = await asyncio.to_thread(start, "queues", "ls", QTASKS_BROKER=f"sqlite:///{store}")
        coloured, plain = await listed(), await listed(NO_COLOR="1")

    assert "\x1b[" not in piped.stdout
    assert "\x1b[1mNAME" in coloured
    assert "\x1b[32mactive" in coloured
    assert "\x1b[" not in plain
    assert "mail" in plain


@pytest.mark.process
async def test_following_the_log_goes_on_with_what_comes(
    shell: Shell, hook: WireServer, tmp_path: Path
) -> None:
    await shell("send", hook.url, "--label", "before")
    await hook.reached(1)
    with Processes(tmp_path) as processes:
        following = processes.python("-m", "qtasks", "logs", "ls", "-f", "--jsonl", env=shell.env)
        await asyncio.to_thread(following.expect, '"state":"DELIVERED"')
        await shell("send", hook.url, "--label", "after")
        await asyncio.to_thread(following.expect, '"state":"DELIVERED"', count=2)

    states = [json.loads(each)["state"] for each in following.output.splitlines()]
    assert states == ["CREATED", "ACTIVE", "DELIVERED"] * 2


@pytest.mark.process
def test_a_reader_that_goes_away_is_no_traceback() -> None:
    ran = subprocess.run(
        f"{sys.executable} -m qtasks --help | head -c 1",
        shell=True,
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.stdout, ran.stderr) == ("U", "")


@pytest.mark.full
def test_help_comes_within_150_ms_above_a_bare_start() -> None:
    def fastest(*arguments: str) -> float:
        def once() -> float:
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=clean_environment(),
                capture_output=True,
                check=True,
            )
            return time.perf_counter() - begun

        return min(once() for _ in range(7))

    assert fastest("-m", "qtasks", "--help") - fastest("-c", "pass") <= 0.150


@pytest.mark.full
async def test_ten_thousand_queues_are_listed_within_a_second(shell: Shell) -> None:
    async with AsyncClient(shell.env["QTASKS_BROKER"], TOKEN) as client:
        for number in range(10_000):
            await client.send(calls.set_queue(f"queue-{number}"))

    begun = time.perf_counter()
    listed = await asyncio.to_thread(start, "queues", "ls", **shell.env)

    assert time.perf_counter() - begun <= 1
    assert len(listed.stdout.splitlines()) == 10_001


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests of two bytes, as a destination that is there and takes nothing."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


@pytest.mark.full
async def test_ten_thousand_dead_letters_are_replayed_within_twenty_seconds(shell: Shell) -> None:
    options = Options(retries=0, queue=QueueSpec(parallelism=64, ordered=False))
    async with (
        await asyncio.start_server(_refuse, "127.0.0.1", 0) as server,
        AsyncClient(shell.env["QTASKS_BROKER"], TOKEN, timeout=60) as client,
    ):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(10):
            await client.send(calls.batch([Outgoing(url, b"{}", options, queue="bad")] * 1000))
            await until_found(lambda: client.send(calls.queue("bad")), lambda queue: queue.lag == 0)
        await client.send(calls.pause_queue("bad"))

    begun = time.perf_counter()
    replayed = await asyncio.to_thread(start, "dlq", "replay", "--queue", "bad", "--yes", **shell.env)

    assert replayed.stderr == "replayed 10,000 dead letters\n"
    assert time.perf_counter() - begun <= 20
