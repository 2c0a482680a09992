"""The app of the README works as it stands: under uvicorn, with one process and with four."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import BATCH_ENV, ROOT

HELLO = ROOT / "examples" / "hello" / "app.py"
LIMIT_S = 30

CALL = """
from app import send_email
print(send_email.delay("a@example.com", subject="hi").get(timeout=20))
"""

# The same app, but each process calls two tasks as soon as it is up, and notes what they return.
EACH_CALLS = """
import os
from contextlib import asynccontextmanager
from pathlib import Path

from app import app, send_email, tasks


@tasks.task
async def where() -> int:
    return os.getpid()


@asynccontextmanager
async def lifespan(app):
    async with tasks.lifespan(app):
        me = os.getpid()
        sent = await (await send_email.adelay(f"process {me}", subject="hi")).aget(timeout=20)
        ran_in = await (await where.adelay()).aget(timeout=20)
        Path(f"{me}.called").write_text(f"{ran_in}: {sent}\\n")
        yield


app.router.lifespan_context = lifespan
"""


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A folder with the app and nothing else; its database will stand there too."""
    shutil.copy(HELLO, tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("QTASKS_", "QSTASH_"))
    }
    return inherited | BATCH_ENV | {"PYTHONPATH": str(ROOT)}


@contextmanager
def uvicorn(folder: Path, *arguments: str) -> Iterator[Callable[[], str]]:
    """Run uvicorn in a folder; gives a function that reads what it has said."""
    log = folder / "uvicorn.log"
    command = [sys.executable, "-m", "uvicorn", *arguments, "--host", "127.0.0.1", "--port", "0"]
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment(), stdout=output, stderr=output)
    try:
        yield log.read_text
    finally:
        server.terminate()
        try:
            server.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise


def wait_until(is_so: Callable[[], object], said: Callable[[], str]) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < ends_at, said()
        time.sleep(0.02)


def call_from_a_script(folder: Path) -> str:
    script = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    return script.stdout


def owners(said: str) -> list[str]:
    return re.findall(r"^qtasks: process (\d+) runs the tasks of ", said, re.MULTILINE)


def guests(said: str) -> list[str]:
    return re.findall(r"^qtasks: process (\d+) forwards its tasks to ", said, re.MULTILINE)


@pytest.mark.process
def test_the_app_of_the_readme_runs_a_task_that_a_script_calls(hello: Path) -> None:
    with uvicorn(hello, "app:app") as said:
        wait_until(lambda: "Application startup complete" in said(), said)

        answer = call_from_a_script(hello)

    assert answer == "sent 'hi' to a@example.com\n"
    assert len(owners(said())) == 1
    assert f"runs the tasks of {hello / 'qtasks.db'}" in said()
    assert "ERROR" not in said()
    assert "Traceback" not in said()


@pytest.mark.process
def test_of_four_workers_one_runs_the_tasks_that_all_of_them_call(hello: Path) -> None:
    (hello / "calling.py").write_text(EACH_CALLS)

    with uvicorn(hello, "calling:app", "--workers", "4") as said:
        wait_until(lambda: said().count("Application startup complete") == 4, said)

        answer = call_from_a_script(hello)

    [owner], others = owners(said()), guests(said())
    assert len({owner, *others}) == 4
    notes = {each.stem: each.read_text() for each in hello.glob("*.called")}
    assert notes == {pid: f"{owner}: sent 'hi' to process {pid}\n" for pid in (owner, *others)}
    assert answer == "sent 'hi' to a@example.com\n"
    assert "Traceback" not in said()


def test_the_app_of_the_readme_has_twelve_lines() -> None:
    assert len(HELLO.read_text().splitlines()) <= 12
