"""`qtasks health`: one line and an exit code, for whatever checks containers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from qtasks.cli import main
from tests.support.processes import Processes, free_port


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("QTASKS_", "QSTASH_")):
            monkeypatch.delenv(name)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["health", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.process
def test_a_broker_that_works_is_well_whatever_way_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Processes(tmp_path) as processes:
        url = processes.broker().url

        assert run(url) == (0, f"qtasks: ok: {url}/readyz\n", "")
        assert run(f"{url}/", "--live") == (0, f"qtasks: ok: {url}/livez\n", "")
        monkeypatch.setenv("QTASKS_BROKER", url)
        assert run() == (0, f"qtasks: ok: {url}/readyz\n", "")


@pytest.mark.process
def test_an_embedded_broker_is_asked_over_its_socket(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.app()

        assert run(f"sqlite:///{processes.store}") == (0, f"qtasks: ok: {processes.store}/readyz\n", "")


@pytest.mark.process
def test_a_broker_that_drains_is_not_ready_and_says_why(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        broker = processes.broker()
        broker.terminate()
        broker.expect("draining")

        code, printed, complaint = run(broker.url)

    assert (code, printed) == (1, "")
    assert complaint == f"qtasks: {broker.url}/readyz answered 503: the broker is shutting down\n"


def test_nobody_there_is_1_and_one_line() -> None:
    port = free_port()

    code, printed, complaint = run(f"http://127.0.0.1:{port}")

    assert (code, printed) == (1, "")
    assert complaint == f"qtasks: http://127.0.0.1:{port} does not answer: [Errno 111] Connection refused\n"


def test_a_file_that_no_process_works_on_is_1(tmp_path: Path) -> None:
    code, _, complaint = run(f"sqlite:///{tmp_path}/q.db")

    assert code == 1
    assert complaint == f"qtasks: {tmp_path}/q.db does not answer: no process runs its tasks\n"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1",
        "127.0.0.1:8080",
        "http://",
        "http://a:b",
        "postgresql://me:secret@db/q",
        "sqlite://",
    ],
)
def test_what_cannot_be_asked_is_2_and_no_password_is_told(url: str) -> None:
    code, printed, complaint = run(url)

    assert (code, printed) == (2, "")
    assert "Invalid value for URL" in complaint
    assert "secret" not in complaint


def test_a_password_in_the_address_is_not_told() -> None:
    _, _, complaint = run(f"http://me:secret@127.0.0.1:{free_port()}")

    assert "does not answer" in complaint
    assert "secret" not in complaint


@pytest.mark.process
def test_it_loads_neither_the_client_nor_the_broker(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        script = (
            "import sys; from qtasks.cli import main\n"
            "try: main(['health', 'http://127.0.0.1:1'])\n"
            "except SystemExit: print([each for each in HEAVY if each in sys.modules])"
        ).replace("HEAVY", "('httpx', 'starlette', 'sqlite3', 'msgspec')")
        asked = processes.python("-c", script)
        asked.wait()

        assert asked.output.splitlines()[-1] == "[]", sys.version
