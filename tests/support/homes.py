"""Apps with an embedded broker, standalone brokers in this process, and a way to ask either of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.types import ASGIApp

from qtasks import QTasks, Settings
from qtasks.broker.config import BrokerConfig
from qtasks.client.calls import Call
from qtasks.client.clients import Client
from qtasks.clock import Clock
from qtasks.home.keys import keys_path
from qtasks.home.listener import Listener
from qtasks.home.ownership import owner_socket
from qtasks.home.ports import bind_port
from qtasks.home.server import Server, ServerSetup
from tests.support import BATCH
from tests.support.api import read_keys

T = TypeVar("T")

SOON_S = 10.0
"""For waits that end at once unless something is broken."""
TOKEN = "the-token-of-a-test"
KEYS = ("sig_the_current_key", "sig_the_next_key")
SECRET = "2718281828459045235360287471352662497757"


def embedded(store: Path, *, public_url: str | None = None, **arguments: Any) -> QTasks:
    """Make an app on this file, untouched by the environment. The machine is not switched off meanwhile."""
    settings = Settings(broker=f"sqlite:///{store}", durability="relaxed", public_url=public_url, batch=BATCH)
    return QTasks(settings=settings, **arguments)


def embedded_client(store: Path) -> Client:
    """Give a client that speaks to the owner of a file over its socket; to be closed."""
    token = read_keys(store)["QSTASH_TOKEN"]
    return Client("", token, socket=owner_socket(store), timeout=SOON_S)


def ask_owner(store: Path, call: Call[T]) -> T:
    """Ask the owner of a file something over its socket; it runs on a thread, so this may block."""
    with embedded_client(store) as client:
        return client.send(call)


def keys_of(store: Path) -> Path:
    """Say where the secrets beside a database are."""
    return keys_path(store)


def remote_settings(url: str, public_url: str | None = "http://127.0.0.1:9/qtasks") -> Settings:
    """Settings of an app whose broker is elsewhere, with nothing missing."""
    return Settings(
        broker=url, token=TOKEN, signing_keys=KEYS, secrets=(SECRET,), public_url=public_url, batch=BATCH
    )


def server_setup(store: Path, **changes: Any) -> ServerSetup:
    """Say how to run a standalone broker on this file, at a free port, with the secrets above."""
    settings = Settings(token=TOKEN, signing_keys=KEYS, durability="relaxed")
    members: dict[str, Any] = {
        "port": 0,
        "settings": settings,
        "config": BrokerConfig(grace_ms=2000),
        "linger_ms": 0,
    }
    return ServerSetup(store=f"sqlite:///{store}", **(members | changes))


@asynccontextmanager
async def running_server(setup: ServerSetup, clock: Clock | None = None) -> AsyncIterator[list[str]]:
    """Run a standalone broker in this process, on the test's loop; gives what it says, line by line.

    It is stopped as it would be elsewhere: by SIGTERM, once it has a handler for it.
    """
    said: list[str] = []
    running = asyncio.create_task(Server(setup, say=said.append, clock=clock).run())
    try:
        await until(lambda: running.done() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)
        if running.done():
            running.result()
        yield said
    finally:
        if not running.done():
            signal.raise_signal(signal.SIGTERM)
        await asyncio.wait({running}, timeout=SOON_S)
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
    running.result()


def url_said(said: list[str]) -> str:
    """Find the address among what a standalone broker has said."""
    [line] = [each for each in said if each.startswith("broker on ")]
    return line.removeprefix("broker on ").partition(",")[0]


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an app on loopback; gives its address. Its lifespan is the test's affair."""
    listening = bind_port("127.0.0.1", 0)
    listener = Listener(app, listening)
    await listener.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        await listener.stop()


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so: for what nothing announces."""

    async def ask() -> object:
        return is_so()

    await until_found(ask, bool)


async def until_found(ask: Callable[[], Awaitable[T]], is_it: Callable[[T], object]) -> T:
    """Ask until the answer is as wanted, and give it."""
    async with asyncio.timeout(SOON_S):
        found = await ask()
        while not is_it(found):
            await asyncio.sleep(0.005)
            found = await ask()
        return found
