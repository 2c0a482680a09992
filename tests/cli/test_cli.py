"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from qtasks.cli import main
from qtasks.version import VERSION
from tests.support.api import read_keys
from tests.support.processes import Processes, free_port
from tests.support.waiting import eventually

TOKEN = "0123456789abcdef0123456789abcdef"


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command that ends by itself; give its exit code and what it printed."""
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_the_version_is_told() -> None:
    assert run("--version") == (0, f"qtasks {VERSION}\n", "")


def test_help_names_the_commands() -> None:
    code, printed, _ = run("--help")

    assert code == 0
    assert re.search(r"broker +Run a broker", printed)


def test_the_broker_s_help_names_its_options_and_their_defaults() -> None:
    code, printed, _ = run("broker", "--help")

    assert code == 0
    for option in ("--store", "--host", "--port", "--allow-destination", "--concurrency", "--grace"):
        assert option in printed
    assert "127.0.0.1" in printed
    assert "8080" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["broker", "--port", "70000"], "70000 is not in the range"),
        (["broker", "--host", "0.0.0.0"], "does not start without a token"),
        (["broker", "--store", "mysql://x"], "is no store; use sqlite:///q.db"),
        (["broker", "--store", "postgresql://x/y"], "nodes on one PostgreSQL must have the same token"),
        (["broker", "--allow-destination", "10.0.0.0/99"], "is neither a network"),
        (["brokr"], "No such command 'brokr'"),
    ],
)
def test_a_command_that_cannot_be_ends_with_2_and_says_why(arguments: list[str], text: str) -> None:
    code, printed, complaint = run(*arguments)

    assert (code, printed) == (2, "")
    assert text in complaint


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        first = processes.broker()
        port = first.url.rpartition(":")[2]

        code, _, complaint = run("broker", "--store", f"sqlite:///{tmp_path}/other.db", "--port", port)

    assert code == 2
    assert complaint == (
        f"qtasks: cannot listen on 127.0.0.1:{port}: Address already in use; choose another port\n"
    )


def test_a_store_in_use_ends_with_1(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.broker()

        code, _, complaint = run("broker", "--store", f"sqlite:///{processes.store}", "--port", "0")

    assert code == 1
    assert f"{processes.store} is in use by another process" in complaint


def test_without_a_terminal_the_path_of_the_keys_is_printed_and_no_key(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        broker = processes.broker()
        broker.expect("token and signing keys are in")
        keys = processes.store.with_name("q.db.keys")

        assert f"token and signing keys are in {keys}" in broker.output
        assert broker.token not in broker.output
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600


def test_keys_that_were_given_are_not_printed_nor_stored(tmp_path: Path) -> None:
    given = {
        "QTASKS_TOKEN": TOKEN,
        "QTASKS_CURRENT_SIGNING_KEY": "sig_current",
        "QTASKS_NEXT_SIGNING_KEY": "sig_next",
    }
    with Processes(tmp_path) as processes:
        broker = processes.python(
            "-m", "qtasks", "broker", "--store", f"sqlite:///{processes.store}", "--port", "0", env=given
        )
        broker.expect("broker on http://")

        assert TOKEN not in broker.output
        assert not processes.store.with_name("q.db.keys").exists()


def test_on_a_terminal_the_four_lines_to_copy_are_printed(tmp_path: Path) -> None:
    with on_terminal(
        "-m", "qtasks", "broker", "--store", f"sqlite:///{tmp_path}/q.db", "--port", "0"
    ) as read:
        printed = eventually(
            lambda: found if "QSTASH_NEXT_SIGNING_KEY=" in (found := read()) else None, "the keys are printed"
        )

    for name in ("URL=http://", "TOKEN=", "CURRENT_SIGNING_KEY=sig_", "NEXT_SIGNING_KEY=sig_"):
        assert f"QSTASH_{name}" in printed


@contextmanager
def on_terminal(*arguments: str) -> Iterator[Callable[[], str]]:
    """Run Python on a pseudo-terminal; gives a function that tells all that was printed."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = subprocess.Popen([sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed = ""

    def read() -> str:
        nonlocal printed
        try:
            printed += os.read(ours, 65536).decode()
        except (BlockingIOError, OSError):
            pass
        return printed

    try:
        yield read
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        os.close(ours)


@pytest.mark.process
def test_with_json_logs_every_line_of_a_broker_is_an_object_and_none_has_a_secret(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/q.db"
    options = ["--log-format", "json", "--log-level", "info", "--port", "0"]
    with on_terminal("-m", "qtasks", "broker", "--store", store, *options) as read:
        printed = eventually(
            lambda: found if "are in" in (found := read()) else None, "it says where its keys are"
        )

    lines = [json.loads(line) for line in printed.splitlines()]
    secrets = read_keys(tmp_path / "q.db").values()
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any(line["message"].startswith("broker on http://127.0.0.1:") for line in lines)
    assert not any(secret in printed for secret in secrets)


@pytest.mark.process
def test_json_logs_tell_what_became_of_a_message_and_nothing_of_its_body(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        broker = processes.broker("--log-format", "json")
        headers = {"Authorization": f"Bearer {broker.token}", "Upstash-Retries": "0"}
        nobody = f"http://127.0.0.1:{free_port()}/hook"
        url = f"{broker.url}/v2/enqueue/mail/{nobody}"
        httpx.post(url, content=b"the body", headers=headers, trust_env=False).raise_for_status()
        broker.expect("message is dead")

        [line] = [json.loads(each) for each in broker.output.splitlines() if "message is dead" in each]

    assert (line["level"], line["logger"], line["queue"], line["attempt"]) == (
        "error",
        "qtasks.dispatcher",
        "mail",
        1,
    )
    assert "the body" not in broker.output
    assert broker.token not in broker.output


def test_with_json_logs_a_refusal_is_an_object_too() -> None:
    code, _, complaint = run("broker", "--log-format", "json", "--store", "mysql://x")

    assert code == 2
    assert json.loads(complaint)["level"] == "critical"
    assert "is no store" in json.loads(complaint)["message"]
