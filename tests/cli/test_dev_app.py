"""`qtasks dev APP` as a person has it, on a terminal: the app reloads, the broker stays, keys steer both."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from qtasks.cli.dev_app import DevelopmentFormatter
from tests.support import FULL
from tests.support.processes import clean_environment, free_port
from tests.support.terminals import Terminal
from tests.support.waiting import eventually

RELOAD_S = 2.0
SLOW_RELOAD_S = 10.0
"""On a machine of which nobody knows how slow it is."""
EDITS = 3
"""The bar is for a machine that does nothing else, so it is that of the best of a few."""
SHOP = """
import asyncio

from qtasks import QTasks
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

tasks = QTasks()

@tasks.task
def greet(name):
    print(f"version 0 greets {name}")

@tasks.task
async def long():
    print("it begins")
    await asyncio.sleep(60)
    print("it ends")

@tasks.task(retries=1)
def broken():
    raise ValueError("no luck")

async def greeting(request):
    countdown = request.query_params.get("countdown")
    await greet.aapply_async([request.path_params["name"]], countdown=countdown)
    return PlainTextResponse("")

async def beginning(request):
    await {"long": long, "broken": broken}[request.path_params["task"]].adelay()
    return PlainTextResponse("")

routes = [Route("/greet/{name}", greeting), Route("/begin/{task}", beginning), Mount("/qtasks", app=tasks)]
app = Starlette(routes=routes, lifespan=tasks.lifespan)
"""


class Shop:
    """The app on its terminal."""

    def __init__(self, terminal: Terminal, port: int, code: Path) -> None:
        self.terminal = terminal
        self.code = code
        self._url = f"http://127.0.0.1:{port}"

    def visit(self, path: str) -> None:
        """Ask the app for something."""
        httpx.get(self._url + path, timeout=10, trust_env=False).raise_for_status()

    def edit(self, before: str, after: str) -> None:
        """Change the code, in one step, as editors do.

        By a line more: of two edits in one second Python sees the second by the length alone, and else takes
        what it has compiled for the first.
        """
        draft = self.code.with_suffix(".draft")
        draft.write_text(self.code.read_text().replace(before, after) + "\n")
        draft.replace(self.code)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    (tmp_path / "pyproject.toml").touch()
    code = tmp_path / "shop.py"
    code.write_text(SHOP)
    port = free_port()
    words = ("dev", "shop:app", "--port", "0", "--app-port", str(port))
    with Terminal(*words, folder=tmp_path, env=clean_environment()) as terminal:
        terminal.expect("keys: p pause")
        terminal.expect("Application startup complete")
        yield Shop(terminal, port, code)


@pytest.mark.process
def test_an_edited_task_runs_within_two_seconds_and_the_broker_stays(shop: Shop) -> None:
    shop.visit("/greet/ada")
    shop.terminal.expect("version 0 greets ada")
    spans = []
    for number in range(1, EDITS + 1):
        began_at = time.monotonic()
        shop.edit(f"version {number - 1} greets", f"version {number} greets")
        while f"version {number} greets" not in shop.terminal.output:
            with suppress(httpx.TransportError):  # the old process had accepted it
                shop.visit("/greet/bob")
            time.sleep(0.05)
            assert time.monotonic() - began_at < 30, shop.terminal
        spans.append(time.monotonic() - began_at)

    assert min(spans) <= (RELOAD_S if FULL else SLOW_RELOAD_S), spans
    assert shop.terminal.output.count("broker on http://") == 1


@pytest.mark.process
def test_what_runs_for_long_is_broken_off_and_run_again_by_the_new_code(shop: Shop) -> None:
    shop.visit("/begin/long")
    shop.terminal.expect("it begins")
    shop.edit("sleep(60)", "sleep(0)")

    shop.terminal.expect("it ends")
    assert shop.terminal.output.count("it begins") == 2
    assert "Traceback" not in shop.terminal.output


@pytest.mark.process
def test_the_app_ends_when_the_terminal_is_closed(shop: Shop) -> None:
    reloader = int(shop.terminal.expect(r"reloader process \[(\d+)\]")[1])

    shop.terminal.close()

    eventually(lambda: not os.path.exists(f"/proc/{reloader}"), "the end of the app", of=[shop.terminal])


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_the_app_ends_when_the_command_is_killed(shop: Shop) -> None:
    reloader = int(shop.terminal.expect(r"reloader process \[(\d+)\]")[1])

    os.kill(shop.terminal.pid, signal.SIGKILL)

    eventually(lambda: not os.path.exists(f"/proc/{reloader}"), "the end of the app", of=[shop.terminal])


@pytest.mark.process
def test_ctrl_z_leaves_the_terminal_as_it_was_and_keys_work_again_afterwards(shop: Shop) -> None:
    terminal = shop.terminal
    terminal.press("\x1a")
    eventually(lambda: _state(terminal.pid) == "T", "the stop of the process", of=[terminal])
    assert terminal.takes_lines()

    os.kill(terminal.pid, signal.SIGCONT)
    eventually(lambda: not terminal.takes_lines(), "single keys", of=[terminal])
    terminal.press("p")
    terminal.expect("paused: nothing is delivered until p")


def _state(pid: int) -> str:
    """Give the letter that stands for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.mark.process
def test_keys_hold_deliveries_clear_them_hasten_them_and_quit(shop: Shop) -> None:
    terminal = shop.terminal
    terminal.press("p")
    terminal.expect("paused: nothing is delivered until p")
    shop.visit("/greet/nobody")
    terminal.press("c")
    terminal.expect("cleared 1 message$")
    terminal.press("p")
    terminal.expect("deliveries go on")

    shop.visit("/greet/late?countdown=1h")
    terminal.press("f")
    terminal.expect("fast-forwarded 1 message$")
    terminal.expect("version 0 greets late")
    assert "greets nobody" not in terminal.output
    so_far = len(terminal.output)
    terminal.press("?")
    terminal.expect("keys: p pause.*\n", after=so_far)

    reloader = int(terminal.expect(r"reloader process \[(\d+)\]")[1])
    terminal.press("q")
    assert terminal.wait() == 0
    eventually(lambda: not os.path.exists(f"/proc/{reloader}"), "the end of the app", of=[terminal])


@pytest.mark.process
def test_a_task_that_fails_again_shows_its_place_and_its_traceback_once(shop: Shop) -> None:
    shop.visit("/begin/broken")
    last = shop.terminal.expect("task failed for good .*")

    assert "task=shop.broken" in last[0]
    assert "at=shop.py:23 in broken (traceback above)" in last[0]
    assert shop.terminal.output.count("Traceback (most recent call last)") == 1
    assert "\x1b[32mapp    |\x1b[0m " in shop.terminal.output


@pytest.mark.process
def test_it_ends_with_an_app_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "shop.py").write_text(SHOP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ("dev", "shop:app", "--port", "0", "--app-port", str(taken.getsockname()[1]))
        env = {**clean_environment(), "NO_COLOR": "1"}
        with Terminal(*words, folder=tmp_path, env=env) as terminal:
            terminal.expect(r"the app has ended with \d+, so this ends too")
            assert terminal.wait() == 1
    assert "address already in use" in terminal.output.lower()
    assert "\x1b[" not in terminal.output


def failing(text: str, **facts: str) -> logging.LogRecord:
    """Make the record of an error that is raised at one place."""
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("qtasks.task", logging.ERROR, "", 0, "it broke", None, sys.exc_info())
    record.__dict__.update(facts)
    return record


def test_what_a_reload_breaks_off_is_a_line() -> None:
    record = logging.LogRecord(
        "uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application", None, None
    )
    broken_off = asyncio.CancelledError()
    record.exc_info = (type(broken_off), broken_off, None)

    assert DevelopmentFormatter().format(record) == (
        "ERROR uvicorn.error: Exception in ASGI application (broken off: a reload waited long enough)"
    )


def test_only_the_same_failure_of_the_same_task_is_shortened() -> None:
    formatter = DevelopmentFormatter()

    told = [
        formatter.format(failing("once", task="mail")),
        formatter.format(failing("twice", task="mail", retry_in_ms="12000")),
        formatter.format(failing("once", task="other")),
        formatter.format(failing("once")),
        formatter.format(failing("once")),
    ]

    assert ["Traceback" in each for each in told] == [True, False, True, True, True]
    assert told[1].endswith(" in failing (traceback above)")
    assert "retry_in_ms" not in told[1]
