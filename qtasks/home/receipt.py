"""How long a request may take to arrive and how large its header may be: the limits, and what follows.

Pure but for `HeaderGuard`, which stands between the HTTP server and the app. The connections to which
all this is applied are in `receiving.py`; limits on the length of a body are the API's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

FIELD_EXTRA = 4  # bytes of a header line beside name and value: a colon, a space, the line's end
LINE_EXTRA = 12  # bytes of a request's first line beside method and target: two spaces, HTTP/1.1, its end
DRAINED_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReceiptLimits:
    """What a listener puts up with from whoever connects. Spans are in milliseconds, sizes in bytes."""

    head_ms: int = 10_000
    """From the first byte of a request to the end of its header; or from the connect, if nothing comes."""
    body_ms: int = 10_000
    """For the body, beside what `body_bytes_per_second` allows: a drip ends and a slow upload does not."""
    body_bytes_per_second: int = 64 * 1024
    """A body may take a second more for each so many bytes that have come, chunk marks among them."""
    unread_ms: int = 30_000
    """For how long a client may take in nothing of an answer that it is sent."""
    head_bytes: int = 128 * 1024
    """Of a whole header, first line included: forwarded headers alone may be 64 KiB."""
    head_fields: int = 200
    """Header fields of one request, trailers included."""
    target_bytes: int = 16 * 1024
    """Of path and query together."""
    connections: int = 1000
    """Open at once, those that idle included."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer after which the connection is closed."""

    status: int
    text: str
    retry_after_s: int | None = None

    @property
    def body(self) -> bytes:
        """The answer's JSON."""
        return json.dumps({"error": self.text}).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The answer's header fields."""
        found = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            (b"connection", b"close"),
        ]
        if self.retry_after_s is not None:
            found.append((b"retry-after", b"%d" % self.retry_after_s))
        return found

    @property
    def wire(self) -> bytes:
        """The whole answer, as it is sent."""
        first = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()
        lines = [first, *(b"%s: %s" % each for each in self.headers), b"", self.body]
        return b"\r\n".join(lines)


class Phase(Enum):
    """What a connection is doing, as far as receiving goes."""

    SILENT = "silent"
    """Nothing has come yet."""
    IDLE = "idle"
    """All that has come is a whole request; an answer may be under way."""
    HEAD = "head"
    BODY = "body"
    DEAF = "deaf"
    """What still comes is not looked at; it ends with the answers that are due."""
    LEAVING = "leaving"
    """The last answer is written, and what still comes is not looked at."""


class Due(Enum):
    """What is still owed to a client for the requests whose header has come."""

    NOTHING = "nothing"
    ANSWER = "answer"
    """The answer to the newest one, of which not a byte is written."""
    MORE = "more"
    """The rest of an answer, or several answers."""


class Ending(Enum):
    """How to end a connection whose client has gone beyond a limit."""

    ANSWER = "answer"
    CUT = "cut"
    FINISH = "finish"
    """Let what was asked before be answered, then close."""


def ending(phase: Phase, due: Due) -> Ending:
    """Say how to end a connection: with an answer wherever a client would take it for the right one."""
    if phase is Phase.BODY:
        return Ending.ANSWER if due is Due.ANSWER else Ending.CUT
    return Ending.ANSWER if due is Due.NOTHING else Ending.FINISH


def allowed_s(limits: ReceiptLimits, phase: Phase, received: int) -> float | None:
    """Say how many seconds a phase may last once `received` bytes have come in it, or None for any time."""
    if phase in (Phase.SILENT, Phase.HEAD):
        return limits.head_ms / 1000
    if phase is Phase.BODY:
        return limits.body_ms / 1000 + received / limits.body_bytes_per_second
    return None


def too_slow(limits: ReceiptLimits, phase: Phase) -> Refusal:
    """Say that a request did not arrive in time."""
    if phase is Phase.BODY:
        return Refusal(
            408,
            f"the request's body came too slowly: {limits.body_ms / 1000:g} s are allowed, and 1 s more for "
            f"each {limits.body_bytes_per_second} bytes; nothing of it was stored",
        )
    return Refusal(408, f"the request's header was not complete within {limits.head_ms / 1000:g} s")


def oversize(limits: ReceiptLimits, *, target: int, fields: int, size: int) -> Refusal | None:
    """Refuse a header, or as much of it as has come, whose target, fields or whole are too much."""
    if target > limits.target_bytes:
        return Refusal(
            414, f"path and query are longer than {limits.target_bytes} bytes; put less into the query"
        )
    if fields > limits.head_fields:
        return Refusal(431, f"the request has more than {limits.head_fields} header fields; send fewer")
    if size > limits.head_bytes:
        return Refusal(431, f"the request's header is longer than {limits.head_bytes} bytes; send less in it")
    return None


def overhead(limits: ReceiptLimits, *, fields: int, size: int) -> Refusal | None:
    """Refuse what comes in place of a body, once that has begun: too much around chunks, or behind them."""
    if fields > limits.head_fields:
        return oversize(limits, target=0, fields=fields, size=0)
    if size > limits.head_bytes:
        return Refusal(431, f"more than {limits.head_bytes} bytes of chunk marks and trailers came in a row")
    return None


def too_many(limits: ReceiptLimits) -> Refusal:
    """Say that a further connection is not served."""
    return Refusal(
        503,
        f"all {limits.connections} connections that the broker serves at once are taken; try again soon",
        retry_after_s=1,
    )


def connections_within(wanted: int, descriptors: int) -> int:
    """Say how many connections to serve where a process may have so many files open.

    A quarter stays free, for the store and for deliveries.

    >>> connections_within(1000, 1024), connections_within(1000, 65536)
    (768, 1000)
    """
    return max(1, min(wanted, descriptors * 3 // 4))


class HeaderGuard:
    """Stands before an ASGI app and lets it see only requests whose header is within the limits."""

    is_measuring = False
    """Whether header bytes are added up: of no use until so many have come at a stretch, and not cheap."""

    def __init__(self, app: ASGIApp, limits: ReceiptLimits) -> None:
        self._app = app
        self._limits = limits
        self._fields = limits.head_fields
        self._target_bytes = limits.target_bytes

    def serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Be an ASGI app. It is neither `async` nor `__call__`, as each would be felt by every request."""
        if (
            len(scope["headers"]) <= self._fields
            and len(scope["raw_path"]) + len(scope["query_string"]) <= self._target_bytes
            and not self.is_measuring
        ):
            return self._app(scope, receive, send)
        refusal = _judge(scope, self._limits)
        return self._app(scope, receive, send) if refusal is None else _answer(refusal, receive, send)


def _judge(scope: Scope, limits: ReceiptLimits) -> Refusal | None:
    headers = scope["headers"]
    target = len(scope["raw_path"]) + len(scope["query_string"])
    size = sum(map(len, chain.from_iterable(headers))) + FIELD_EXTRA * len(headers)
    size += len(scope["method"]) + target + LINE_EXTRA
    return oversize(limits, target=target, fields=len(headers), size=size)


async def _answer(refusal: Refusal, receive: Receive, send: Send) -> None:
    # What is not read when a connection closes makes the system reset it, and the client may then
    # never see the answer. So some of the body is taken in, no faster than it must come anyway.
    drained = 0
    while drained < DRAINED_BYTES:
        message = await receive()
        drained += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    await send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers})
    await send({"type": "http.response.body", "body": refusal.body})
