"""Calls an ASGI app with a request just as it would arrive: raw path, raw headers, body in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Answered:
    """What the app answered; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


class NoAnswer(Exception):
    """The app ended without answering."""


async def call(
    app: ASGIApp,
    method: str,
    target: bytes,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    chunks: Iterable[bytes] = (b"",),
    disconnects: bool = False,
    root_path: str = "",
) -> Answered:
    """Make a request; with `disconnects` the client goes away before the last chunk.

    Raises `NoAnswer` if the app ends without an answer.
    """
    path, _, query = target.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "root_path": root_path,
        "headers": [(name.lower(), value) for name, value in headers],
        "client": ("203.0.113.9", 50000),
        "server": ("broker.example", 80),
    }
    sent: list[Message] = []
    parts = list(chunks)
    incoming: list[Message] = [
        {"type": "http.request", "body": part, "more_body": disconnects or number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]

    answered = asyncio.Event()

    async def receive() -> Message:
        if incoming:
            return incoming.pop(0)
        if not disconnects:  # the client stays until it has its answer
            await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    await app(scope, receive, send)
    if not sent:
        raise NoAnswer
    raw = {name.decode().lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], raw, b"".join(each.get("body", b"") for each in sent[1:]))
