"""A server on loopback that shows what arrived, byte for byte, and answers with the bytes it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def response(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Write a response with its length."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived; header names as they were written."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Give the value of the one header of that name."""
        [value] = [value for key, value in self.headers if key.lower() == name.lower()]
        return value

    @property
    def names(self) -> list[str]:
        """The names of all headers, sorted."""
        return sorted(name for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Script:
    """How to answer one request: `first`, then `more` as often as it is taken, then close or stay.

    With `last` it is `first`, and once `goes_on` is set, that; the connection takes other requests after it.
    """

    first: bytes = b""
    more: bytes = b""
    then_close: bool = False
    last: bytes = b""
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)


HANG = Script()
DROP = Script(then_close=True)


class WireServer:
    """Answers each request with the next step of `answers`, and with 200 once these are used up."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self.answers: deque[bytes | Script] = deque()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address of it, without a slash at the end."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def last(self) -> Seen:
        """The newest request."""
        return self.requests[-1]

    async def reached(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        async with asyncio.timeout(10):
            while len(self.requests) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it; say whether the connection goes on."""
        self.requests.append(await _read(reader))
        self._arrived.set()
        answer = self.answers.popleft() if self.answers else OK
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
            return True
        writer.write(answer.first)
        await writer.drain()
        if answer.last:
            await answer.goes_on.wait()
            writer.write(answer.last)
            return True
        while answer.more:
            writer.write(answer.more)
            await writer.drain()
        if not answer.then_close:
            await reader.read()
        return False


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = [line.split(": ", 1) for line in lines]
    headers = tuple((name, value) for name, value in pairs)
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Seen(method, target, headers, await reader.readexactly(length))
