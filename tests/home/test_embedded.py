"""Owners and guests of one file, here as two apps in one process: who stores, forwards, takes over."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from qtasks import QTasks, Settings
from qtasks.client import calls
from qtasks.clock import SystemClock
from qtasks.errors import BadRequest, BrokerUnreachable, ConfigurationError
from qtasks.home.ownership import Ownership, owner_socket
from qtasks.tasks.task import Task
from tests.support import BATCH
from tests.support.api import read_keys
from tests.support.homes import SOON_S, ask_owner, embedded, until
from tests.support.processes import free_port


class FastClock(SystemClock):
    """A clock on which a second lasts five milliseconds, for waits that run out."""

    def monotonic(self) -> int:
        return super().monotonic() * 200


async def where(name: str) -> str:
    return f"{name} ran"


def with_task(tasks: QTasks) -> Task[..., str, Any]:
    return tasks.task(name="where")(where)


def is_free(store: Path) -> bool:
    ownership = Ownership.try_acquire(store)
    if ownership is not None:
        ownership.release()
    return ownership is not None


async def test_a_guest_with_no_owner_stores_and_gives_the_file_up(store: Path) -> None:
    result = with_task(embedded(store)).delay("a")

    assert is_free(store)
    assert owner_socket(store) is None
    assert result.state == "QUEUED"

    owner = embedded(store)
    with_task(owner)
    async with owner.lifespan():
        assert await owner.result(result.id).aget(SOON_S) == "a ran"


async def test_a_guest_forwards_to_the_owner_and_hears_the_result_from_it(store: Path) -> None:
    owner, guest = embedded(store), embedded(store)
    with_task(owner)
    task = with_task(guest)
    async with owner.lifespan():
        awaited = await task.adelay("a")
        assert await awaited.aget(SOON_S) == "a ran"
        assert await asyncio.to_thread(lambda: task.delay("b").get(SOON_S)) == "b ran"
        async with guest.lifespan():  # its end closes the guest's connection
            pass


async def test_a_refusal_of_the_owner_reaches_the_guest(store: Path) -> None:
    owner, guest = embedded(store), embedded(store)
    task = with_task(guest)
    async with owner.lifespan():
        with pytest.raises(BadRequest, match="invalid queue name"):
            await asyncio.to_thread(ask_owner, store, calls.pause_queue("no such name!"))
        async with guest.lifespan():
            assert (await task.adelay("a")).id


async def test_a_guest_takes_over_when_the_owner_has_gone(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = embedded(store), embedded(store)
    with_task(first)
    task = with_task(second)
    first_life, second_life = first.lifespan(), second.lifespan()
    await first_life.__aenter__()
    await second_life.__aenter__()

    await first_life.__aexit__(None, None, None)
    result = await task.adelay("a")
    assert await result.aget(2) == "a ran"

    assert not is_free(store)
    await second_life.__aexit__(None, None, None)
    lines = [each for each in capfd.readouterr().err.splitlines() if str(store) in each]
    assert ["runs the tasks of" in each for each in lines] == [True, False, True]
    assert "forwards its tasks to the process that owns" in lines[1]
    assert is_free(store)


async def test_a_standby_that_stops_leaves_the_owner_alone(store: Path) -> None:
    owner, standby = embedded(store), embedded(store)
    task = with_task(owner)
    async with owner.lifespan():
        async with standby.lifespan():
            pass
        assert await task.delay("a").aget(SOON_S) == "a ran"


async def test_a_task_of_another_app_is_refused_by_the_owner(store: Path) -> None:
    shop, other = embedded(store, name="shop"), embedded(store, name="other")
    task = with_task(other)
    async with shop.lifespan():
        with pytest.raises(
            BadRequest,
            match="no app named 'other' runs in this broker; an embedded SQLite broker serves the one app",
        ):
            await task.adelay("a")
        assert ask_owner(store, calls.queues()) == []
        async with other.lifespan():
            pass


# httpcore leaves a Unix socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_a_note_of_an_owner_that_died_holds_nobody_up(store: Path) -> None:
    gone = str(store.with_name("gone.sock"))
    store.with_name("q.db.lock").write_text(json.dumps({"pid": 1, "socket": gone}))

    result = await with_task(embedded(store)).adelay("a")

    assert result.state == "QUEUED"


async def test_an_owner_that_never_answers_is_unreachable_and_the_call_can_be_repeated(store: Path) -> None:
    task = with_task(embedded(store, clock=FastClock()))
    silent = Ownership.try_acquire(store)
    assert silent is not None

    with pytest.raises(
        BrokerUnreachable, match=rf"the process that owns {store} did not answer within 5 s"
    ) as caught:
        task.delay("a")
    silent.release()
    result = caught.value.repeat()
    again = caught.value.repeat()

    assert caught.value.task_id == result.id == again.id
    assert result.state == "QUEUED"
    owner = embedded(store)
    with_task(owner)
    async with owner.lifespan():
        await until(lambda: ask_owner(store, calls.queue("default")).lag == 0)
        assert len([each for each in ask_owner(store, calls.log()).items if each.state == "CREATED"]) == 1


async def test_a_server_whose_lifespan_was_forgotten_is_told_once(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    importlib.import_module("uvicorn")  # it is what shows that this process may be a server
    task = with_task(embedded(store))
    with caplog.at_level(logging.WARNING, "qtasks.home"):
        await task.adelay("a")
        await task.adelay("b")

    [said] = [each.getMessage() for each in caplog.records if "no process runs them yet" in each.getMessage()]
    assert said == (
        f"tasks are stored in {store}, but no process runs them yet: pass lifespan=tasks.lifespan to your app"
    )


async def test_an_embedded_broker_serves_its_api_on_a_port_if_asked_to(store: Path) -> None:
    port = free_port()
    settings = Settings(
        broker=f"sqlite:///{store}", durability="relaxed", listen=("127.0.0.1", port), batch=BATCH
    )
    owner = QTasks(settings=settings)
    async with owner.lifespan():
        token = read_keys(store)["QSTASH_TOKEN"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            refused = await client.get("/v2/keys")
            found = await client.get("/v2/keys", headers={"Authorization": f"Bearer {token}"})

    assert refused.status_code == 401
    assert found.json()["current"] == read_keys(store)["QSTASH_CURRENT_SIGNING_KEY"]


async def test_a_port_that_is_taken_is_one_clear_error_and_the_file_is_given_up(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(
            broker=f"sqlite:///{store}", durability="relaxed", listen=("127.0.0.1", port), batch=BATCH
        )

        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with QTasks(settings=settings).lifespan():
                pass

    assert is_free(store)
