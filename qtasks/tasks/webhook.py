"""The webhook: an ASGI app that takes deliveries over HTTP and hands them to the executor.

Before anything else it checks, on the raw body, that the broker has signed this delivery for this
app's configured address. The Host header decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qtasks.clock import Clock
from qtasks.errors import InvalidValue, SignatureError
from qtasks.protocol.batches import BATCH, read_deliveries
from qtasks.protocol.signature import verify
from qtasks.tasks.answers import UNCOUNTED, Answer, uncounted
from qtasks.tasks.batches import BatchRun
from qtasks.tasks.envelope import SIGNATURE_HEADER
from qtasks.tasks.execution import Delivery, Executor
from qtasks.tasks.turns import Turns

RUN = "run"
FAILED = "failed"
CLOCK_TOLERANCE_S = 5  # two machines' clocks are never quite the same
MAX_BODY = 64 * 1024 * 1024
SEEN_MS = 1000 * (300 + 2 * CLOCK_TOLERANCE_S)
MOST_SEEN = 1_000_000
FULL_S = 0.2
"""For so long a message is put off that finds no slot: most tasks over HTTP free theirs sooner."""
MOST_WAITING = 4
"""How many times as many messages of batches may wait as run at once."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WebhookKeys:
    """What a delivery is checked against: the broker's keys, current first, and our own address."""

    signing_keys: Sequence[str]
    url: str
    """The full URL of deliveries, `/run` included."""
    is_counting: bool = False
    """Whether the broker counts every answer as an attempt, also one that says that none was made."""

    def url_of(self, name: str) -> str:
        """Give the address of another part of the webhook."""
        return self.url.removesuffix(RUN) + name


class Webhook:
    """Answers `POST …/run`, and `…/batch` with several messages. Closed (503) as long as `keys` are None.

    With `failures` it also takes `POST …/failed`, by which a broker tells what it has given up.
    """

    def __init__(
        self,
        executor: Callable[[], Executor],
        *,
        keys: WebhookKeys | None,
        concurrency: int,
        clock: Clock,
        failures: Callable[[bytes], Awaitable[Answer]] | None = None,
    ) -> None:
        self._executor = executor
        self._failures = failures
        self._keys = keys
        self._concurrency = concurrency
        self._clock = clock
        self._inside = 0
        self._turns = Turns(concurrency)
        self._seen = _Seen()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
            if isinstance(answer, BatchRun):
                await _until_gone(request, answer.answer(send), answer.cancel)
                return
        except ClientDisconnect:
            return
        headers = dict(answer.headers)
        if UNCOUNTED in headers and self._keys is not None and self._keys.is_counting:
            # The retries would be spent in seconds; without a hint the broker's ladder gives minutes.
            headers.pop("Retry-After", None)
        response = Response(answer.body, answer.status, headers, "application/json")
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Answer | BatchRun:
        # The last segment: what stands before it depends on where this app is mounted.
        name = request.scope["path"].rstrip("/").rpartition("/")[2]
        if name not in (RUN, BATCH) and (name != FAILED or self._failures is None):
            return _error(404, "nothing is here; deliveries go to …/run")
        if request.method != "POST":
            return _error(405, "deliveries are POST requests", {"Allow": "POST"})
        if self._keys is None:
            return _error(
                503,
                "not configured: this webhook takes no deliveries until QTASKS_PUBLIC_URL, "
                "QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY are set",
            )
        token = request.headers.get("upstash-signature")
        if not token:  # before its body is read: strangers get neither memory nor a slot
            return _error(401, "the delivery is not signed: header Upstash-Signature is missing")
        if self._is_full(name):
            return uncounted(429, "full", "all slots of this process are taken", FULL_S)
        self._inside += 1
        try:
            return await self._checked(request, token, self._keys.signing_keys, self._keys.url_of(name))
        finally:
            self._inside -= 1

    def _is_full(self, name: str) -> bool:
        """Whether there is no slot; the messages of a batch take turns, and some of them may wait."""
        if name == BATCH:
            return self._turns.waiting >= MOST_WAITING * self._concurrency
        return self._inside + self._turns.running >= self._concurrency

    async def _checked(
        self, request: Request, token: str, keys: Sequence[str], url: str
    ) -> Answer | BatchRun:
        body = await _read(request)
        if body is None:
            return _error(413, f"the body is larger than {MAX_BODY} bytes")
        try:
            claims = verify(
                token,
                body,
                keys=keys,
                url=url,
                now=self._clock.now(),
                tolerance_s=CLOCK_TOLERANCE_S,
            )
            self._seen.check(str(claims.get("jti", "")), self._clock.monotonic())
        except SignatureError as error:
            return _error(403, str(error))
        if self._failures is not None and url.endswith(f"/{FAILED}"):
            return await self._failures(body)
        if url.endswith(f"/{BATCH}"):
            try:
                return BatchRun(self._executor, read_deliveries(body), self._turns)
            except InvalidValue as error:
                return _error(400, str(error))
        delivery = Delivery(
            message_id=request.headers.get("upstash-message-id", ""),
            body=body,
            signature=request.headers.get(SIGNATURE_HEADER),
            retried=_number(request.headers.get("upstash-retried", "0")),
            headers=request.headers,
        )
        answer = await _until_gone(request, self._executor().execute(delivery), delivery.cancellation.cancel)
        if delivery.cancellation.is_cancelled:
            raise ClientDisconnect  # nobody is there to be answered
        return answer


async def _until_gone(request: Request, work: Coroutine[Any, Any, T], cancel: Callable[[], None]) -> T:
    """Do it; once the broker has dropped the request, what is done for it is called off."""
    watching = asyncio.create_task(_watch(request.receive, cancel))
    try:
        return await work
    finally:
        watching.cancel()


async def _watch(receive: Receive, cancel: Callable[[], None]) -> None:
    """Wait for the request to be dropped: there is nothing else left to be received."""
    message = await receive()
    if message["type"] == "http.disconnect":
        cancel()


class _Seen:
    """Remembers the deliveries of the last minutes, so that a captured one cannot be sent again.

    Every attempt is signed anew, with an id of its own; a signature is good for five minutes.
    """

    def __init__(self) -> None:
        self._until: dict[str, int] = {}  # in the order of arrival, so the oldest come first

    def check(self, token_id: str, now: int) -> None:
        """Raise `SignatureError` for an id that was here before; `now` is monotonic, in ms."""
        for old, until in list(islice(self._until.items(), 2)):  # two out for one in: it cannot grow for ever
            if until <= now or len(self._until) > MOST_SEEN:
                del self._until[old]
        if token_id in self._until:
            raise SignatureError("the delivery has been here before: its token was used already")
        self._until[token_id] = now + SEEN_MS


async def _read(request: Request) -> bytes | None:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, orjson.dumps({"error": text}), tuple((headers or {}).items()))
