"""Which apps a kit holds, and that each is as before when it lets go: no file, no socket, no thread."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from qtasks import QTasks, Settings, task
from qtasks.errors import KitError, QTasksError
from qtasks.home.apps import APPS
from qtasks.testing import Drained, Kit
from tests.support import shop
from tests.support.homes import embedded

AUDITED: list[str] = []
WATCHING: list[bool] = []
INSTALLED: list[bool] = []
SUSPECT = ("open", "sqlite3.connect", "socket.bind", "socket.connect", "os.mkdir")


def _audit(event: str, arguments: Any) -> None:
    if WATCHING and event in SUSPECT:
        AUDITED.append(f"{event} {arguments[0]!r}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """Note what is opened and connected in the block."""
    if not INSTALLED:  # a hook cannot be taken off again
        sys.addaudithook(_audit)
        INSTALLED.append(True)
    AUDITED.clear()
    WATCHING.append(True)
    try:
        yield AUDITED
    finally:
        WATCHING.clear()


@task(name="kit.note")
async def note() -> str:
    return "noted"


def test_a_kit_opens_no_file_and_no_socket() -> None:
    shop.done.clear()
    with Kit() as kit:  # what is loaded late, is loaded here
        shop.register("a@example.com")
        shop.charge.delay(shop.Order(-1))
        kit.drain(wait=True)
        assert kit.messages
        assert kit.dead_letters

    with watched() as seen, Kit() as kit:
        shop.register("a@example.com")
        shop.charge.delay(shop.Order(-1))
        kit.drain(wait=True)
        assert kit.messages
        assert kit.dead_letters

    # The loop has a pair of sockets to wake itself by, which it neither binds nor connects.
    allowed = ["sqlite3.connect ':memory:'"]
    if sys.version_info >= (3, 13):  # looks for the source of code that was made in memory
        allowed.append("open '<unknown>'")
    assert [each for each in seen if not each.startswith(tuple(allowed))] == []


def test_the_audit_would_see_a_file_and_a_socket(tmp_path: Path) -> None:
    with watched() as seen:
        (tmp_path / "x").touch()
        (tmp_path / "x").read_text()
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))

    assert {each.partition(" ")[0] for each in seen} >= {"open", "socket.bind"}


def test_a_kit_starts_no_threads_but_those_of_plain_functions() -> None:
    before = set(threading.enumerate())
    with Kit() as kit:
        shop.register("a@example.com")
        shop.charge.delay(shop.Order(1))
        kit.drain()
        during = {each.name for each in set(threading.enumerate()) - before}

    assert all(each.startswith("qtasks-task-") for each in during)


def test_an_app_is_exactly_as_before(tmp_path: Path) -> None:
    app = embedded(tmp_path / "q.db")
    before = dict(vars(app))
    with Kit(app):
        assert {name for name, value in vars(app).items() if before[name] is not value} >= {
            "_home",
            "_settings",
            "_clock",
        }

    assert vars(app) == before
    assert all(vars(app)[name] is value for name, value in before.items())


async def test_an_app_that_runs_already_goes_on_after_the_kit(tmp_path: Path) -> None:
    app = embedded(tmp_path / "q.db")

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app.lifespan():
        with Kit(app) as kit:
            inside = await double.adelay(1)
            await kit.adrain()
            assert kit.results(double) == [2]
        outside = await double.adelay(2)
        assert await outside.aget(timeout=10) == 4
        assert app.result(inside.id).state == "UNKNOWN"


def test_without_a_kit_calls_go_where_they_went_before() -> None:
    with Kit():
        shop.register("a@example.com")

    with pytest.raises(QTasksError, match="/nowhere/at/all"):
        shop.register("a@example.com")


def test_a_kit_holds_the_apps_that_it_is_given_and_no_others(tmp_path: Path) -> None:
    other = embedded(tmp_path / "q.db")

    @other.task(name="other.note")
    def note_elsewhere() -> None: ...

    with Kit(shop.tasks) as kit:
        shop.register("a@example.com")
        note_elsewhere.delay()
        assert len(kit.enqueued()) == 1

    assert (tmp_path / "q.db").exists()


def test_several_apps_have_messages_of_their_own(kit: Kit) -> None:
    apps = [QTasks(name="shop"), QTasks(name="shop")]
    for place, app in enumerate(apps):

        @app.task(name="same.name")
        def where(place: int = place) -> int:
            return place

        where.delay()

    kit.drain()

    assert [each.state for each in kit.enqueued("same.name")] == ["SUCCEEDED", "SUCCEEDED"]
    found = apps[1].find("same.name")
    assert found is not None
    assert kit.results(found) == [0, 1]


def test_an_app_made_by_a_factory_is_held_too(kit: Kit) -> None:
    app = QTasks("sqlite:////nowhere/at/all/qtasks.db")

    @app.task
    def double(n: int) -> int:
        return 2 * n

    double.delay(4)
    kit.drain()

    assert kit.results(double) == [8]


@pytest.mark.parametrize("run", [1, 2])
def test_the_only_app_of_a_test_has_the_tasks_of_the_module_level_decorator(run: int) -> None:
    alone = QTasks(name="alone")
    with Kit(alone) as kit:
        alone.send("kit.note")
        kit.drain()

        assert kit.results(note) == ["noted"]


def test_apps_that_an_earlier_test_has_made_are_not_in_the_next_kit() -> None:
    gc.collect()
    gc.disable()
    try:
        with Kit():
            QTasks()
            known = len(list(APPS))
        with Kit():
            assert len(list(APPS)) == known - 1
    finally:
        gc.enable()


def test_kits_stand_in_each_other() -> None:
    with Kit() as outer:
        shop.count.delay(1)
        with Kit() as inner:
            shop.count.delay(2)
            app = QTasks()

            @app.task
            def note() -> None: ...

            note.delay()
            assert inner.drain().succeeded == 2
        assert [each.arguments["numbers"] for each in outer.enqueued(shop.count)] == [(1,)]
        assert outer.drain().succeeded == 1


def test_a_kit_is_used_in_its_block() -> None:
    kit = Kit()

    with pytest.raises(KitError, match="not in use; do it in its block"):
        kit.drain()
    with kit, pytest.raises(KitError, match="open already"):
        kit.__enter__()


async def test_a_request_s_tasks_run_after_it(kit: Kit) -> None:
    tasks = QTasks()

    @tasks.task
    async def welcome(name: str) -> str:
        return f"welcome, {name}"

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tasks.lifespan(app):
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/qtasks", tasks)

    @app.post("/users/{name}")
    async def sign_up(name: str) -> str:
        return (await welcome.adelay(name)).id

    client = AsyncClient(transport=ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        assert (await client.post("/users/ann")).status_code == 200

    # Also when the app is down again: the kit is what runs them.
    assert await kit.adrain() == Drained(delivered=1, succeeded=1)
    assert kit.results(welcome) == ["welcome, ann"]


async def test_forged_deliveries_are_refused_in_a_kit_as_anywhere(kit: Kit) -> None:
    app = QTasks(settings=Settings())
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/run", content=b"{}", headers={"Upstash-Signature": "x.y.z"})

    assert answer.status_code == 403


def test_the_environment_needs_no_broker(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QTASKS_BROKER", "http://broker.example:8080")
    app = QTasks()

    @app.task
    def double(n: int) -> int:
        return 2 * n

    double.delay(1)

    assert kit.drain().succeeded == 1
    assert os.environ["QTASKS_BROKER"] == "http://broker.example:8080"
