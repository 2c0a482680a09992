"""An HTTP server that answers every request at once with what a broker answers a call, and does nothing else.

What a client does against it is what the client alone costs; with `--listener` an empty endpoint of Starlette
answers on the broker's own HTTP server, which is the least that a call over HTTP can take beside its commit.
Prints its address as its first line.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from qtasks.cli.bench.rig import new_loop
from qtasks.home.listener import Listener

BODY = b'{"messageId":"msg_0123456789abcdef0123456789abcdef"}'
ANSWER = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
END = b"\r\n\r\n"


class Answering(asyncio.Protocol):
    """One connection: an answer for each whole request."""

    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(END)) >= 0:
            length = LENGTH.search(bytes(self._received[: head + 2]))
            whole = head + len(END) + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            del self._received[:whole]
            self._transport.write(ANSWER)


async def answer(request: Request) -> Response:
    """Read a request and answer it, as an endpoint that does nothing else."""
    await request.body()
    return Response(BODY, 201, media_type="application/json")


async def listen() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/v2/enqueue/{rest:path}", answer, methods=["POST"])])
    await Listener(app, listening).start()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(listen() if "--listener" in sys.argv else serve())


if __name__ == "__main__":
    main()
