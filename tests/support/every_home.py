"""The same app in each of its homes: embedded, with a broker of its own over HTTP, and with hosted QStash.

A broker in strict mode stands for the last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from qtasks import QTasks, Settings
from qtasks.broker.config import BrokerConfig, strict_config
from tests.support import BATCH
from tests.support.homes import (
    SECRET,
    embedded,
    remote_settings,
    running_server,
    served,
    server_setup,
    url_said,
)
from tests.support.postgres import require_postgres

MakeApp = Callable[..., AbstractAsyncContextManager[QTasks]]
"""Takes the arguments of `QTasks`, and gives an app that runs, with its broker, for the block."""


class Mount:
    """Passes requests on to an app that is made once its own address is known."""

    app: QTasks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@asynccontextmanager
async def in_embedded(store: Path, **arguments: Any) -> AsyncIterator[QTasks]:
    """Run an app whose broker is inside."""
    tasks = embedded(store, **arguments)
    async with tasks.lifespan():
        yield tasks


@asynccontextmanager
async def in_standalone(store: Path, **arguments: Any) -> AsyncIterator[QTasks]:
    """Run a standalone broker and an app that it delivers to, both on this loop."""
    mount = Mount()
    async with running_server(server_setup(store)) as said, served(mount) as address:
        mount.app = QTasks(settings=remote_settings(url_said(said), public_url=address), **arguments)
        async with mount.app.lifespan():
            yield mount.app


@asynccontextmanager
async def in_hosted(store: Path, **arguments: Any) -> AsyncIterator[QTasks]:
    """Run a strict broker and an app that takes it for hosted QStash, both on this loop."""
    mount = Mount()
    results = f"sqlite:///{store.with_name('results.db')}"
    setup = server_setup(store, config=strict_config(BrokerConfig(grace_ms=2000)))
    async with running_server(setup) as said, served(mount) as address:
        settings = remote_settings(f"qstash+{url_said(said)}", public_url=address)
        mount.app = QTasks(settings=settings, results=results, **arguments)
        async with mount.app.lifespan():
            yield mount.app


@asynccontextmanager
async def in_postgres(store: Path, **arguments: Any) -> AsyncIterator[QTasks]:
    """Run an app that is a node of a broker on PostgreSQL."""
    settings = Settings(broker=require_postgres().new_store(), secrets=(SECRET,), batch=BATCH)
    tasks = QTasks(settings=settings, **arguments)
    async with tasks.lifespan():
        yield tasks


OURS = ("embedded", "standalone", "postgres")
"""The homes that can do what hosted QStash cannot."""
HOMES: dict[str, Callable[..., AbstractAsyncContextManager[QTasks]]] = {
    "embedded": in_embedded,
    "standalone": in_standalone,
    "postgres": in_postgres,
    "hosted": in_hosted,
}
