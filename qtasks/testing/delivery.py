"""Delivers messages to the apps under test: the request of the wire, signed, handed over by an ASGI call.

No socket and no HTTP library is between the broker and the webhook.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message

from qtasks.broker.delivery import Answer, OneByOne
from qtasks.broker.delivery_headers import delivery_headers
from qtasks.broker.store.records import Claim, Reply
from qtasks.broker.store.results import CANCELLED
from qtasks.clock import Clock
from qtasks.ids import Ids
from qtasks.protocol.signature import sign
from qtasks.testing.attempts import ATTEMPT, Attempt, Failures
from qtasks.testing.faults import Faults

LOST = Reply(0, error="the reply was lost, as the test wished")
NOBODY = "the testing kit calls nobody but the apps that it holds; they have no network either"


class AsgiDeliverer(OneByOne):
    """Makes one attempt for each claim, or two. `apps` are by their destination.

    `name_of` gives the task that a claim is a call of.
    """

    def __init__(
        self,
        apps: Mapping[str, ASGIApp],
        faults: Faults,
        *,
        name_of: Callable[[Claim], str | None],
        signing_key: Callable[[], str],
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._apps = apps
        self._faults = faults
        self._name_of = name_of
        self._signing_key = signing_key
        self._clock = clock
        self._ids = ids
        self.failures = Failures()
        self.begin()

    def begin(self) -> None:
        """Get ready to deliver, perhaps on another loop than before."""
        self._answers: list[Answer] = []
        self._exchanges: dict[int, _Exchange] = {}
        self.answered = asyncio.Event()
        """Set when an attempt ends."""

    def take_answers(self) -> list[Answer]:
        """Give what came of the attempts since this was last asked."""
        answers, self._answers = self._answers, []
        return answers

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        for claim in claims:
            answer = claim, await self._attempt(claim)
            self._answers.append(answer)
            self.answered.set()
            yield [answer]

    def drop(self, claim: Claim) -> None:
        exchange = self._exchanges.get(claim.seq)
        if exchange is not None:
            exchange.drop()

    async def _attempt(self, claim: Claim) -> Reply:
        app = self._apps.get(claim.url)
        if app is None:
            return Reply(0, error=NOBODY)
        reply = await self._hand_over(app, claim)
        if self._faults.is_doubling and reply.status == 200:
            reply = await self._hand_over(app, claim)
        is_lost = self._faults.is_losing and self._faults.loses(self._name_of(claim))
        return LOST if is_lost else reply

    async def _hand_over(self, app: ASGIApp, claim: Claim) -> Reply:
        now, token_id = self._clock.now(), self._ids.token_id()
        signature = sign(claim.url, claim.body, key=self._signing_key(), now=now, jti=token_id)
        attempt = Attempt()
        ATTEMPT.set(attempt)
        exchange = self._exchanges[claim.seq] = _Exchange(claim.body)
        try:
            reply = await _call(app, claim, delivery_headers(claim, signature=signature), exchange)
        finally:
            del self._exchanges[claim.seq]
        if reply.error != CANCELLED and (failure := attempt.failure(claim, reply)) is not None:
            self.failures.add(failure, claim)
        return reply


async def _call(app: ASGIApp, claim: Claim, headers: Sequence[tuple[str, str]], exchange: _Exchange) -> Reply:
    try:
        await app(_scope(claim, headers), exchange.receive, exchange.send)
    finally:
        exchange.is_over.set()
    if exchange.is_dropped:
        return Reply(0, error=CANCELLED)
    problem = None if exchange.status == 200 else f"unexpected status {exchange.status}"
    return Reply(exchange.status, tuple(exchange.headers), bytes(exchange.body), problem)


def _scope(claim: Claim, headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    url = urlsplit(claim.url)
    host = url.netloc.encode()
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": claim.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", host), (b"content-length", b"%d" % len(claim.body)), *pairs],
        "client": ("127.0.0.1", 1),
        "server": (url.hostname, 443),
    }


class _Exchange:
    """One request and its answer; the client stays until the answer is complete."""

    def __init__(self, body: bytes) -> None:
        self._request: bytes | None = body
        self.is_over = asyncio.Event()
        self.is_dropped = False
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()

    def drop(self) -> None:
        """Go away without the answer, if it is not complete."""
        self.is_dropped = not self.is_over.is_set()
        self.is_over.set()

    async def receive(self) -> Message:
        if self._request is None:
            await self.is_over.wait()
            return {"type": "http.disconnect"}
        body, self._request = self._request, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
            ]
        else:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                self.is_over.set()
