"""`with_tasks`: what goes to the tasks, what to the app, and whose life is inside whose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qtasks.integrations.asgi import with_tasks
from tests.support.homes import SOON_S, embedded
from tests.support.lifespans import lifespan_of


def break_down() -> None:
    raise LookupError("no luck")


async def told(app: ASGIApp) -> list[Message]:
    """Start an app by the lifespan protocol and give all that it says."""
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        said.append(message)

    with pytest.raises(Exception, match="no luck"):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return said


async def test_the_tasks_live_inside_the_life_of_the_app(store: Path) -> None:
    tasks = embedded(store)
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        order.append("app begins")
        yield {"kept": "state"}
        order.append(f"app ends, tasks {'up' if tasks._lifespans else 'over'}")

    app = with_tasks(Starlette(lifespan=lifespan), tasks)

    async with lifespan_of(app):
        order.append(f"serving, tasks {'up' if tasks._lifespans else 'over'}")

    assert order == ["app begins", "serving, tasks up", "app ends, tasks over"]


async def test_an_app_that_ignores_or_refuses_the_lifespan_protocol_needs_not_know_it(store: Path) -> None:
    async def ignoring(scope: Scope, receive: Receive, send: Send) -> None: ...

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(f"not {scope['type']}")

    for app in (ignoring, refusing):
        tasks = embedded(store)

        @tasks.task(name="double")
        async def double(number: int) -> int:
            return 2 * number

        async with lifespan_of(with_tasks(app, tasks)):
            assert await (await double.adelay(4)).aget(SOON_S) == 8


async def test_an_app_that_cannot_start_starts_no_tasks(store: Path) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        break_down()
        yield

    tasks = embedded(store)
    said = await told(with_tasks(Starlette(lifespan=lifespan), tasks))

    assert [each["type"] for each in said] == ["lifespan.startup.failed"]
    assert tasks._lifespans == 0


async def test_tasks_that_cannot_start_stop_the_app_from_starting(store: Path) -> None:
    tasks = embedded(store)

    @asynccontextmanager
    async def broken(app: object = None) -> AsyncIterator[None]:
        break_down()
        yield

    tasks.__dict__["lifespan"] = broken

    said = await told(with_tasks(Starlette(), tasks))

    assert [each["type"] for each in said] == ["lifespan.startup.failed"]


async def test_only_what_is_below_the_path_goes_to_the_tasks(store: Path) -> None:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.scope['path']} of the app")

    inner = Starlette(routes=[Route("/{rest:path}", page, methods=["GET", "POST"])])
    app = with_tasks(inner, embedded(store), path="/hooks/tasks")

    async with (
        lifespan_of(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):
        found = {
            path: (await client.post(path)).status_code
            for path in ("/hooks/tasks/run", "/hooks/tasks", "/hooks/tasksrun", "/run", "/")
        }
        text = (await client.get("/hooks/tasks")).text

    assert found == {
        "/hooks/tasks/run": 503,  # nobody delivers over HTTP to an app with a broker of its own
        "/hooks/tasks": 200,
        "/hooks/tasksrun": 200,
        "/run": 200,
        "/": 200,
    }
    assert text == "/hooks/tasks of the app"
