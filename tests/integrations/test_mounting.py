"""A standalone broker delivers to tasks under every framework, and behind proxies of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from qtasks import QTasks
from tests.support.homes import (
    SOON_S,
    embedded,
    remote_settings,
    running_server,
    served,
    server_setup,
    url_said,
)
from tests.support.lifespans import lifespan_of

Make = Callable[[QTasks], ASGIApp]


def starlette(tasks: QTasks) -> ASGIApp:
    return Starlette(routes=[Mount("/qtasks", app=tasks)], lifespan=tasks.lifespan)


def fastapi(tasks: QTasks) -> ASGIApp:
    from fastapi import FastAPI

    from qtasks.integrations.fastapi import install

    app = FastAPI()
    install(app, tasks)
    return app


def litestar(tasks: QTasks) -> ASGIApp:
    from litestar import Litestar, asgi

    @asgi("/qtasks", is_mount=True, copy_scope=False)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        app: Any = tasks
        await app(scope, receive, send)

    return cast(ASGIApp, Litestar([mounted], lifespan=[tasks.lifespan]))


def quart(tasks: QTasks) -> ASGIApp:
    from quart import Quart

    from qtasks.integrations.asgi import with_tasks

    app: Any = Quart(__name__)
    app.asgi_app = with_tasks(app.asgi_app, tasks)
    return cast(ASGIApp, app)


def django(tasks: QTasks) -> ASGIApp:
    from django.core.asgi import get_asgi_application

    from qtasks.integrations.django import with_tasks
    from tests.support.django_site import configure

    configure()
    return with_tasks(get_asgi_application(), tasks)


FRAMEWORKS = pytest.mark.parametrize("make", [starlette, fastapi, litestar, quart, django])


class Proxy:
    """Stands where the public address leads, and hands on what it is asked under `/public`."""

    app: ASGIApp

    def __init__(self, change: Callable[[Scope], Scope]) -> None:
        self._change = change
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
        headers += [(b"host", b"elsewhere.example"), (b"x-forwarded-host", b"evil.example")]
        await self.app({**self._change(scope), "headers": headers}, receive, send)


def stripping(scope: Scope) -> Scope:
    path = scope["path"].removeprefix("/public")
    return {**scope, "path": path, "raw_path": path.encode()}


def keeping(scope: Scope) -> Scope:
    return {**scope, "root_path": "/public"}


def adding_a_slash(scope: Scope) -> Scope:
    path = scope["path"].removeprefix("/public") + "/"
    return {**scope, "path": path, "raw_path": path.encode()}


def double_of(tasks: QTasks) -> Any:
    @tasks.task
    async def double(number: int) -> int:
        return 2 * number

    return double


@FRAMEWORKS
@pytest.mark.parametrize("change", [stripping, keeping, adding_a_slash])
async def test_a_standalone_broker_delivers_under_any_framework_behind_a_proxy(
    store: Path, make: Make, change: Callable[[Scope], Scope]
) -> None:
    proxy = Proxy(change)

    async with running_server(server_setup(store)) as said, served(proxy) as address:
        tasks = QTasks(settings=remote_settings(url_said(said), public_url=f"{address}/public/qtasks"))
        double = double_of(tasks)
        proxy.app = make(tasks)
        async with lifespan_of(proxy.app):
            assert await (await double.adelay(4)).aget(SOON_S) == 8

    assert proxy.asked == ["/public/qtasks/run"]


@FRAMEWORKS
async def test_the_lifespan_of_any_framework_runs_an_embedded_broker(store: Path, make: Make) -> None:
    tasks = embedded(store)
    double = double_of(tasks)

    async with lifespan_of(make(tasks)):
        assert await (await double.adelay(4)).aget(SOON_S) == 8
