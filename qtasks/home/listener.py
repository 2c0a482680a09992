"""Serves the broker's API with uvicorn, without its log lines and signal handlers.

It can stop in two steps: the caller drains while requests are still answered, then stops it. What it
puts up with from clients is in `receipt.py`.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

from starlette.types import ASGIApp

from qtasks.home.receipt import HeaderGuard, ReceiptLimits, connections_within

if TYPE_CHECKING:
    from qtasks.home.receiving import Admission, Receiving

END_MS = 1000  # for answers that are being written when the listener stops
READ_BYTES = 256 * 1024  # asyncio reads no more at once

Parser = Literal["h11", "httptools"]
DEFAULT_LIMITS = ReceiptLimits()


class Listener:
    """An HTTP server on a socket that is already bound. Start and stop it on one event loop.

    `limits` say how long requests may take to arrive, how large their headers and how many the
    connections may be; the files that this process may open are a limit of connections too. The
    `parser` is the faster that is installed.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        limits: ReceiptLimits = DEFAULT_LIMITS,
        *,
        parser: Parser | None = None,
    ) -> None:
        # late: a guest never listens, and whether it serves is seen by these modules
        import uvicorn

        from qtasks.home.receiving import Admission

        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors != resource.RLIM_INFINITY:
            limits = replace(limits, connections=connections_within(limits.connections, descriptors))
        guard = HeaderGuard(app, limits)
        self._admission = Admission(limits, guard)
        config = uvicorn.Config(
            guard.serve,
            interface="asgi3",
            http=_protocol(self._admission, parser),
            # Each read is followed by a look of our own, so this is met by what no header is.
            h11_max_incomplete_event_size=limits.head_bytes + READ_BYTES,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            backlog=2048,
        )
        config.load()
        if listening.family != socket.AF_UNIX:
            # asyncio sees to this only for sockets that name their protocol, uvloop for all. Without it
            # an answer, which is written in two pieces, waits 40 ms for the client to confirm the first.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
            _accept_no_more(each)
        await asyncio.sleep(0)
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
        # What was accepted while all others were told, and what was broken off just now.
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # that is done in the next turn of the loop
        self._admission.close()
        self._socket.close()


def _accept_no_more(server: asyncio.Server) -> None:
    """Have no connection accepted in the turn of the loop in which the server closes.

    asyncio cannot attach such a one to the server any more, and leaves it open until it is collected.
    """
    loop = asyncio.get_running_loop()
    for each in server.sockets:
        loop.remove_reader(each.fileno())


def _protocol(admission: Admission, parser: Parser | None) -> type[asyncio.Protocol]:
    """Give the class of one listener's connections."""
    base: type[Receiving[Any]]
    if (parser or ("httptools" if find_spec("httptools") is not None else "h11")) == "httptools":
        from qtasks.home.receiving_httptools import HttpToolsReceiving as base
    else:
        from qtasks.home.receiving_h11 import H11Receiving as base
    return cast("type[asyncio.Protocol]", type(base.__name__, (base,), {"admission": admission}))
