"""Any ASGI app: `with_tasks` puts an app's tasks in front of it, for frameworks that cannot mount.

Starlette, FastAPI and Litestar mount a `QTasks` themselves; Django and Quart are given this.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from starlette.routing import Mount, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qtasks.home.app import QTasks


def with_tasks(app: ASGIApp, tasks: QTasks, path: str = "/qtasks") -> ASGIApp:
    """Give an app that serves the tasks at `path` and `app` everywhere else.

    Tasks begin once `app` has started, and end before it does. An `app` that knows no lifespan, as
    Django's, need not.
    """
    return _WithTasks(app, tasks, path)


class _WithTasks:
    def __init__(self, app: ASGIApp, tasks: QTasks, path: str) -> None:
        self._app = app
        self._tasks = tasks
        self._router = Router([Mount(path, app=tasks), Mount("", app=app)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(scope, receive, send)
        else:
            await self._router(scope, receive, send)

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_asked = False
        running = AsyncExitStack()

        async def receive_before() -> Message:
            nonlocal has_asked
            has_asked = True
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await running.aclose()
            return message

        async def send_after(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await running.enter_async_context(self._tasks.lifespan())
            await send(message)

        async with running:
            try:
                await self._app(scope, receive_before, send_after)
            except Exception:
                if has_asked:
                    raise
        if not has_asked:  # it knows no lifespan
            await self._tasks(scope, receive, send)
