"""A small HTTP server on loopback that behaves well, or badly in one of several manners."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from enum import Enum
from typing import Self

DRIP_S = 0.5
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


class Manner(Enum):
    """What a destination does with a request that it has read."""

    ANSWER = "answer"
    HANG = "hang"
    DRIP = "drip"
    """Begins its answer, and never comes to its end."""
    FAIL = "fail"
    REFUSE = "refuse"
    DROP = "drop"
    """Closes the connection."""


WHOLE = {Manner.ANSWER: OK, Manner.FAIL: BROKEN, Manner.REFUSE: BUSY}


class Loopback:
    """Notes when each message came, by its id, and how many requests were inside at once."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.came_at: dict[str, float] = {}
        """By `time.time`, for the first attempt of each."""
        self.inside = 0
        self.most_inside = 0
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}/work"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for each in self._open:
            each.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        await reader.readexactly(int(headers.get("content-length", "0")))
        self.came_at.setdefault(headers["upstash-message-id"], time.time())
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            return await self._behave(reader, writer)
        finally:
            self.inside -= 1

    async def _behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.manner is Manner.HANG:
            await reader.read()  # until the caller has had enough
            return False
        if self.manner is Manner.DRIP:
            writer.write(ENDLESS)
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(DRIP_S)
            return False
        if self.manner is Manner.DROP:
            return False
        writer.write(WHOLE[self.manner])
        await writer.drain()
        return True
