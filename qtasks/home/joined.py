"""A transport by which the header of an answer and its body leave in one piece.

uvicorn writes them one after the other, each by a system call, and the first wakes the client for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

COPIED = 64 * 1024
"""A body up to so many bytes is copied, to leave with its header."""
_FINAL = tuple(b"HTTP/1.%d %d" % (minor, kind) for minor in (0, 1) for kind in range(2, 6))


class Joined:
    """What a server's protocol writes to: a header is kept until its body follows, or the loop turns.

    All that is not about writing is the transport's own.
    """

    def __init__(self, wire: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._wire = wire
        self._loop = loop
        self._head = b""
        self.is_closing = wire.is_closing  # what each request asks for
        self.pause_reading = wire.pause_reading
        self.resume_reading = wire.resume_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def write(self, data: bytes) -> None:
        """Send bytes; the header of an answer waits for what follows in this turn of the loop."""
        if self._head:
            head, self._head = self._head, b""
            if len(data) <= COPIED:
                self._wire.write(head + data)
                return
            self._wire.write(head)
        elif data.startswith(_FINAL):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._wire.write(data)

    def close(self) -> None:
        """Close once all is sent."""
        self._flush()
        self._wire.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._wire.is_closing():
            self._wire.write(head)
