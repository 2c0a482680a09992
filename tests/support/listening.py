"""A listener on loopback with an app that records what reaches it, and a client that sends raw bytes.

The client drips as an attacker would, pipelines, or reads nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive, Scope, Send

from qtasks.home.listener import Listener, Parser
from qtasks.home.receipt import ReceiptLimits

SOON_S = 10.0
"""For waits that end at once unless something is broken."""
DRIP_S = 0.02

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
"""A whole request."""


def post(body: bytes, *headers: bytes, path: bytes = b"/a") -> bytes:
    """Write a whole request with a body."""
    lines = [b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


class RecordingApp:
    """Answers with the length of the body, once that has come and `gate` is open.

    `/early` is answered before the body is read, `/half` half so, `/late` reads it once the gate is
    open, and `/big` is answered with a million bytes.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        """The path of each request whose header has reached the app."""
        self.bodies: list[bytes] = []
        """Each body that has reached it entirely."""
        self.disconnects = 0
        """How often a body ended before it was whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope["path"])
        if scope["path"] == "/late":
            await self.gate.wait()
        if scope["path"] == "/half":
            await _send(send, b"half", length=8)
        if scope["path"] != "/early" and not await self._read(receive):
            return
        await self.gate.wait()
        content = b"x" * 1_000_000 if scope["path"] == "/big" else b"%d" % len((self.bodies or [b""])[-1])
        await _send(send, content, length=len(content))

    async def _read(self, receive: Receive) -> bool:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return False
            body += message.get("body", b"")
            if not message.get("more_body", False):
                self.bodies.append(body)
                return True


async def _send(send: Send, content: bytes, *, length: int) -> None:
    headers = [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": len(content) < length})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the listener or the app answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The text of a refusal, which says itself that the connection ends."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["connection"] == "close"
        content: Any = json.loads(self.body)
        [(key, text)] = content.items()
        assert key == "error"
        assert isinstance(text, str)
        return text


class RawClient:
    """One connection; every wait of it ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._dripping: asyncio.Task[None] | None = None
        self.was_reset = False
        """Whether the connection was seen to end by force."""

    def send(self, content: bytes) -> None:
        """Send it all."""
        self._writer.write(content)

    def drip(self, content: bytes) -> None:
        """Begin to send it again and again, a byte at a time, until the connection ends."""
        self._dripping = asyncio.create_task(self._drip(content))

    async def _drip(self, content: bytes) -> None:
        while not self._writer.is_closing():
            for index in range(len(content)):
                self._writer.write(content[index : index + 1])
                await asyncio.sleep(DRIP_S)

    async def answer(self) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(SOON_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            pairs = (line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in pairs}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Read what still comes before the connection ends."""
        async with asyncio.timeout(SOON_S):
            rest = b""
            try:
                rest = await self._reader.read()
                await self._writer.drain()
            except ConnectionError:
                self.was_reset = True
        return rest

    async def close(self) -> None:
        """End the connection."""
        if self._dripping is not None:
            self._dripping.cancel()
            await asyncio.gather(self._dripping, return_exceptions=True)
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass  # the listener was quicker


class Listening:
    """A listener that runs, its app, and the connections to it."""

    def __init__(self, limits: ReceiptLimits, parser: Parser | None) -> None:
        self.app = RecordingApp()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._listener = Listener(self.app, self._socket, limits, parser=parser)
        self._clients: list[RawClient] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    async def connect(self, *, buffer: int | None = None) -> RawClient:
        """Open a connection, closed by the end of the test; `buffer` bytes may be on their way each way."""
        opened = socket.socket()
        if buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", self.port))
        # What is not asked for stays with the system, so that a client can be slow to read.
        client = RawClient(*await asyncio.open_connection(sock=opened, limit=1024))
        self._clients.append(client)
        return client

    async def admits(self) -> int:
        """Wait until a connection is served; say how many were refused before."""
        async with asyncio.timeout(SOON_S):
            refused = 0
            while True:
                client = await self.connect()
                client.send(GET)
                answer = await client.answer()
                if answer.status == 200:
                    return refused
                assert answer.status == 503
                refused += 1
                await client.close()

    async def __aenter__(self) -> Self:
        await self._listener.start()
        return self

    async def stop(self) -> None:
        """Stop the listener; clients stay."""
        self.app.gate.set()
        await self._listener.stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()


@asynccontextmanager
async def listening(limits: ReceiptLimits, parser: Parser | None = None) -> AsyncIterator[Listening]:
    """Run a listener with these limits."""
    async with Listening(limits, parser) as running:
        yield running
