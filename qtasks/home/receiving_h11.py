"""`Receiving` over h11, which is always there."""

from __future__ import annotations

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from qtasks.home.receipt import Due
from qtasks.home.receiving import Receiving, due


class H11Receiving(Receiving[RequestResponseCycle], H11Protocol):
    """uvicorn's protocol on h11, watched over."""

    def _due(self) -> Due:
        return due(self.cycle)

    def _target_bytes(self) -> int:
        begun, _ = self.conn.trailing_data
        _, _, rest = begun.partition(b"\r\n")[0].partition(b" ")
        return len(rest.partition(b" ")[0])

    def _fields(self) -> int:
        return 0  # h11 keeps an incomplete header, and trailers, as the bytes that came

    def _overhead(self) -> int:
        return 0  # h11 has a limit for this itself

    def _finish(self) -> None:
        self.shutdown()
