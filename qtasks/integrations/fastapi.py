"""FastAPI: `install` mounts an app's tasks, runs them with the app, and has `Depends` work in them.

Each task with dependencies is a route of a FastAPI app that nobody can reach from outside: its
signature has only the dependencies, and to run the task is to request that route, inside this process.
So it is FastAPI that resolves, caches, overrides and ends them.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, params
from fastapi.exceptions import FastAPIError, RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qtasks.errors import Reject
from qtasks.home.app import QTasks
from qtasks.tasks.context import Context
from qtasks.tasks.dependencies import Fill
from qtasks.tasks.task import Task


def install(app: FastAPI, tasks: QTasks, path: str = "/qtasks") -> None:
    """Mount the tasks at `path`, run them for as long as the app is up, and fill in their dependencies.

    Call it when the app has the lifespan that it is to have: that is begun before and ended after the
    tasks. Dependencies are resolved as in a request to `app`, its `dependency_overrides` included; the
    `Request` they see is made up: it has the app, its state and the delivery's headers, but no body, and
    its address is that of `QTASKS_PUBLIC_URL`. If several apps install the same tasks, the last one's
    dependencies hold.
    """
    routes = TaskRoutes(app, _address(tasks.public_url, path))
    tasks.resolve_with(routes)
    app.mount(path, tasks)
    own_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Any]:
        async with own_lifespan(served) as state:
            routes.state = dict(state or {})
            async with tasks.lifespan(served):
                yield state

    app.router.lifespan_context = lifespan


class TaskRoutes:
    """Resolves the dependencies of tasks by routes that only this object can request."""

    def __init__(self, app: FastAPI, address: Mapping[str, Any]) -> None:
        self._address = address
        self.state: Mapping[str, Any] = {}
        """What the lifespan of the app has yielded: `request.state` in dependencies."""
        self._app = app
        # Handlers that raise take the place of FastAPI's, which would make answers of these exceptions.
        self._inner = FastAPI(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            middleware=[Middleware(_Under, app)],
            exception_handlers={HTTPException: _raise, RequestValidationError: _raise},
        )
        self._paths: dict[Callable[..., Any], str] = {}

    def check(self, task: Task[..., Any, Any], /) -> None:
        """Make the route of a task; raises what FastAPI raises for a dependency that is wrong."""
        self._path(task)

    async def run(self, task: Task[..., Any, Any], context: Context, fill: Fill, /) -> Any:
        """Request the route of a task: see `Resolver`."""
        scope = self._scope(self._path(task), context)
        call = _Call(fill)
        token = _CALL.set(call)
        # The same dict for as long as nobody puts another one in its place, as tests do.
        self._inner.dependency_overrides = self._app.dependency_overrides
        failure = None
        try:
            await self._inner(scope, _NoBody().receive, _drop)
        except BaseException as error:
            failure = _reason(error, call, task.name)
        finally:
            _CALL.reset(token)
        if failure is not None:  # raised here, so that no exception of FastAPI's becomes its context
            raise failure
        return call.result

    def _path(self, task: Task[..., Any, Any]) -> str:
        path = self._paths.get(task.__wrapped__)  # and not the task, of which a kit of tests makes copies
        if path is None:
            path = f"/{quote(task.name, safe='')}"
            self._inner.add_api_route(path, _endpoint(task), methods=["POST"], include_in_schema=False)
            self._paths[task.__wrapped__] = path
        return path

    def _scope(self, path: str, context: Context) -> Scope:
        headers = [(name.lower(), value) for name, value in context.headers.items()]
        path = self._address["root_path"] + path
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            **self._address,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            # What says to whom a delivery was sent, or what body it had, is not true of this request.
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in headers
                if name not in _ABOUT_REQUEST
            ],
            "client": None,
            "state": dict(self.state),
            "router": self._app.router,
        }


def _address(public_url: str | None, path: str) -> dict[str, Any]:
    """Say where the app is for `request.url_for`: `public_url` is where the tasks are, at `path` in it."""
    if public_url is None:
        return {"scheme": "http", "server": None, "root_path": ""}
    parts = urlsplit(public_url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    mount = path.rstrip("/")
    root_path = parts.path.removesuffix(mount) if parts.path.endswith(mount) else ""
    return {"scheme": parts.scheme, "server": (parts.hostname, port), "root_path": root_path.rstrip("/")}


_ABOUT_REQUEST = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


@dataclass(slots=True)
class _Call:
    """One execution on its way through FastAPI: what it comes to is no affair of the HTTP response."""

    fill: Fill
    is_begun: bool = False
    result: Any = None
    error: BaseException | None = None
    trace: TracebackType | None = field(default=None, repr=False)


_CALL: ContextVar[_Call] = ContextVar("qtasks_fastapi_call")


def _endpoint(task: Task[..., Any, Any]) -> Callable[..., Awaitable[Response]]:
    """Make the function of a task's route: FastAPI sees the dependencies in its signature."""

    async def endpoint(**values: object) -> Response:
        call = _CALL.get()
        call.is_begun = True
        try:
            call.result = await call.fill(values)
        except BaseException as error:
            call.error, call.trace = error, error.__traceback__
            raise  # for dependencies that end what they began
        return Response(status_code=204)

    hints = typing.get_type_hints(inspect.unwrap(task.__wrapped__), include_extras=True)
    parameters = inspect.signature(task.__wrapped__).parameters
    endpoint.__name__ = task.__name__
    dependencies = [_dependency(parameters[name], hints.get(name, Any)) for name in task.dependencies]
    endpoint.__dict__["__signature__"] = inspect.Signature(dependencies)
    return endpoint


def _dependency(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    """Make a parameter of a route: FastAPI refuses `Depends` in default and annotation at once."""
    marker: params.Depends = parameter.default
    if typing.get_origin(hint) is typing.Annotated:
        kind, *extras = typing.get_args(hint)
        markers = [each for each in extras if isinstance(each, params.Depends)]
        if markers:
            marker, hint = (marker if marker.dependency is not None else markers[-1]), kind
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=marker, annotation=hint)


def _reason(error: BaseException, call: _Call, name: str) -> BaseException:
    """Say what a task has failed of, which FastAPI may have put into its own words."""
    if error is call.error:
        return error.with_traceback(call.trace)  # without FastAPI's frames
    if isinstance(error, FastAPIError) and call.error is not None:
        return call.error.with_traceback(call.trace)  # a dependency has caught it and said nothing
    if isinstance(error, RequestValidationError) and not call.is_begun:
        lacks = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        return Reject(f"a dependency of {name} wants of a request what a task does not have: {lacks}")
    return error


class _Under:
    """Middleware that lets dependencies see the app that they belong to, as `request.app`."""

    def __init__(self, inner: ASGIApp, app: FastAPI) -> None:
        self._inner = inner
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self._app
        await self._inner(scope, receive, send)


class _NoBody:
    """What is received of a made-up request: an empty body, and then nothing, as nobody disconnects."""

    def __init__(self) -> None:
        self._is_read = False

    async def receive(self) -> Message:
        if self._is_read:
            await asyncio.get_running_loop().create_future()
        self._is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def _raise(request: Request, error: Exception) -> NoReturn:
    raise error


async def _drop(message: Message) -> None:
    """Take the response, which nobody gets."""
