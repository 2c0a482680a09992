"""An app that takes a broker in strict mode for hosted QStash, and what was delivered to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from qtasks import QTasks
from qtasks.broker.config import BrokerConfig, strict_config
from qtasks.client.clients import AsyncClient
from tests.support.homes import TOKEN, remote_settings, running_server, served, server_setup, url_said

STRICT = strict_config(BrokerConfig(grace_ms=2000))


@dataclass
class Recorder:
    """Passes requests on to an app, unless they are to fail, and remembers the headers of each."""

    app: QTasks | None = None

    def __post_init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.failing: list[Exception] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        assert self.app is not None
        if self.failing:
            raise self.failing.pop()
        await self.app(scope, receive, send)


@dataclass
class Hosted:
    """An app, what was delivered to it, and a client of the broker that it takes for hosted QStash."""

    app: QTasks
    deliveries: list[dict[str, str]]
    client: AsyncClient
    failing: list[Exception]
    """What the next deliveries meet before they reach the app."""


@asynccontextmanager
async def hosted(
    folder: Path, config: BrokerConfig = STRICT, changes: dict[str, Any] | None = None, **arguments: Any
) -> AsyncIterator[Hosted]:
    """Run a strict broker and an app that takes it for hosted QStash, both on this loop."""
    recorder = Recorder()
    arguments = {"results": f"sqlite:///{folder / 'results.db'}", **arguments}
    setup = server_setup(folder / "q.db", config=config)
    async with running_server(setup) as said, served(recorder) as address:
        url = url_said(said)
        settings = remote_settings(f"qstash+{url}", public_url=address)
        app = recorder.app = QTasks(settings=replace(settings, **(changes or {})), **arguments)
        async with app.lifespan(), AsyncClient(url, TOKEN) as client:
            yield Hosted(app, recorder.seen, client, recorder.failing)
