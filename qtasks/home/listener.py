"""Serves the broker's API with uvicorn, without its log lines and signal handlers.

It can stop in two steps: the caller drains while requests are still answered, then stops it.
"""

from __future__ import annotations

import asyncio
import socket

from starlette.types import ASGIApp

END_MS = 1000  # for answers that are being written when the listener stops


class Listener:
    """An HTTP server on a socket that is already bound. Start and stop it on one event loop."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        import uvicorn  # late: a guest never listens, and whether it serves is seen by this module

        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            backlog=2048,
        )
        config.load()
        self._socket = listening
        self._server = uvicorn.Server(config)
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer; connections are accepted when this returns."""
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._socket])
        self._loop_task = asyncio.create_task(self._server.main_loop(), name="qtasks-listener")

    async def stop(self) -> None:
        """Accept nothing more, let answers be written, close."""
        server = self._server
        server.should_exit = True
        for each in server.servers:
            each.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        if self._loop_task is not None:
            await self._loop_task
        tasks = list(server.server_state.tasks)
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=END_MS / 1000)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        self._socket.close()
