"""`Receiving` over httptools, which is faster than h11, optional, and without any limit of its own."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from qtasks.home.receipt import Due
from qtasks.home.receiving import Receiving, due


class HttpToolsReceiving(Receiving[RequestResponseCycle], HttpToolsProtocol):
    """uvicorn's protocol on httptools, watched over."""

    url = b""  # until a first line begins, which may never come

    def on_body(self, body: bytes) -> None:
        """Take note that a part of a body came; the parser calls this."""
        self._received_to_body = self._received
        HttpToolsProtocol.on_body(self, body)  # `super()` costs more than all the rest

    def _due(self) -> Due:
        return due(self.cycle, queued=bool(self.pipeline))

    def _target_bytes(self) -> int:
        return len(self.url)

    def _fields(self) -> int:
        return len(self.headers or ())

    def _overhead(self) -> int:
        return self._received - self._received_to_body

    def _finish(self) -> None:
        self.shutdown()
