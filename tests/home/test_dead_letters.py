"""What the dead letter queue says of tasks that failed, whatever the broker: reasons and tracebacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from qtasks import QTasks
from qtasks.broker.config import BrokerConfig
from qtasks.home.ownership import owner_socket
from tests.support.api import read_keys
from tests.support.every_home import Mount
from tests.support.homes import (
    TOKEN,
    embedded,
    remote_settings,
    running_server,
    served,
    server_setup,
    until_found,
    url_said,
)

Letters = Callable[[], list[dict[str, Any]]]
HOMES = ["embedded", "standalone", "strict"]


@asynccontextmanager
async def home(kind: str, store: Path) -> AsyncIterator[tuple[QTasks, Letters]]:
    """Run an app with a broker of a kind; also give what reads its dead letters as the API shows them."""
    if kind == "embedded":
        tasks = embedded(store, unknown_task_window=0)
        async with tasks.lifespan():
            transport = httpx.HTTPTransport(uds=owner_socket(store))
            yield tasks, lambda: _letters("http://owner", read_keys(store)["QSTASH_TOKEN"], transport)
        return
    mount = Mount()
    setup = server_setup(store, config=BrokerConfig(grace_ms=2000, strict=kind == "strict"))
    async with running_server(setup) as said, served(mount) as address:
        url = url_said(said)
        mount.app = QTasks(settings=remote_settings(url, public_url=address), unknown_task_window=0)
        async with mount.app.lifespan():
            yield mount.app, lambda: _letters(url, TOKEN, None)


def _letters(url: str, token: str, transport: httpx.HTTPTransport | None) -> list[dict[str, Any]]:
    with httpx.Client(transport=transport, headers={"Authorization": f"Bearer {token}"}) as client:
        found: list[dict[str, Any]] = client.get(f"{url}/v2/dlq").json()["messages"]
        return found


@pytest.mark.parametrize("kind", HOMES)
async def test_a_traceback_can_be_read_in_the_dead_letter_queue(kind: str, store: Path) -> None:
    async with home(kind, store) as (tasks, letters):

        @tasks.task(retries=0)
        async def pay() -> None:
            raise ValueError("no card ☃")

        await pay.adelay()
        [letter] = await until_found(lambda: asyncio.to_thread(letters), bool)

    error = orjson.loads(letter["responseBody"])["error"]
    assert (error["type"], error["message"]) == ("ValueError", "no card ☃")
    assert 'raise ValueError("no card ☃")' in error["traceback"]


@pytest.mark.parametrize("kind", HOMES)
async def test_an_unknown_task_is_dead_after_the_window_and_says_so(kind: str, store: Path) -> None:
    async with home(kind, store) as (tasks, letters):
        await tasks.asend("missing")
        [letter] = await until_found(lambda: asyncio.to_thread(letters), bool)

    error = orjson.loads(letter["responseBody"])["error"]
    assert (letter["responseStatus"], error["type"], error["reason"]) == (489, "UnknownTask", "unknown_task")
