"""The shops under FastAPI and Django work as they stand: a page stores an order, a task packs it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import ROOT
from tests.support.processes import Process, clean_environment
from tests.support.waiting import eventually

CALL_FROM_A_SHELL = """
from shop.tasks import count
print(count.delay("packed").get(timeout=20))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which an example is copied, so that its files stay with the test."""
    return tmp_path / "shop"


def python(folder: Path, name: str, *arguments: str) -> Process:
    return Process(name, [sys.executable, "-W", "error", *arguments], folder, clean_environment())


@contextmanager
def served(folder: Path, app: str) -> Iterator[tuple[httpx.Client, Process]]:
    """Serve an app of a folder by uvicorn, stop it as one does, and see that nothing broke."""
    server = python(folder, "server", "-m", "uvicorn", app, "--port", "0", "--lifespan", "on")
    try:
        url = server.expect(r"Uvicorn running on (http://\S+) ")[0][1]
        with httpx.Client(base_url=url, trust_env=False) as client:
            yield client, server
        server.terminate()
        server.wait()
    finally:
        server.clear_away()
    assert "Traceback" not in server.output, server.output
    assert "Application shutdown complete" in server.output


def order_and_await(client: httpx.Client, server: Process) -> str:
    """Order tea, and give the page once it is packed."""
    placed = client.post("/orders?item=tea")
    assert placed.status_code == 200, f"{placed.text}\n{server}"

    def packed() -> str | None:
        page = client.get("/").text
        return page if "packed" in page else None

    return eventually(packed, "the order packed", of=[server])


@pytest.mark.process
def test_the_fastapi_example_packs_what_is_ordered(folder: Path) -> None:
    shutil.copytree(ROOT / "examples" / "fastapi", folder)

    with served(folder, "app:app") as (client, server):
        page = order_and_await(client, server)

    assert "<li>1: tea, packed</li>" in page


@pytest.mark.process
def test_the_django_example_packs_what_is_ordered_and_counts_for_a_shell(folder: Path) -> None:
    shutil.copytree(ROOT / "examples" / "django", folder)
    migrated = python(folder, "migrate", "manage.py", "migrate", "--run-syncdb")
    assert migrated.wait() == 0, migrated

    with served(folder, "shop.asgi:application") as (client, server):
        page = order_and_await(client, server)
        shell = python(folder, "shell", "manage.py", "shell", "--command", CALL_FROM_A_SHELL)
        assert shell.wait() == 0, shell

    assert "<li>1: tea, packed</li>" in page
    assert shell.output.splitlines()[-1] == "1"
