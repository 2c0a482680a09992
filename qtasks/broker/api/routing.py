"""Finds the operation for a request, checks the token, and turns errors into answers."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from urllib.parse import parse_qsl, unquote

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from qtasks.broker.api.limits import Burst, Room, Uploads
from qtasks.broker.service import Broker
from qtasks.broker.tokens import Bearer, Scope, digest_of
from qtasks.errors import (
    BadRequest,
    BrokerError,
    BrokerUnavailable,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    QuotaExceeded,
    RequestError,
    StoreFull,
    TooManyRequests,
    Unauthorized,
)
from qtasks.protocol.received import Pairs, Received, pairs_of
from qtasks.values import dataclass

log = logging.getLogger("qtasks.api")

OWNER = Bearer("", Scope.FULL)
PATHS_KEPT, LONGEST_KEPT = 256, 512
"""Of so many paths up to so many bytes it is remembered which operations they are."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an operation. `params` are the decoded path segments in braces."""

    broker: Broker
    request: Request
    params: Mapping[str, str]
    room: Room
    token_in_header: bool = True
    """Whether `Authorization` carries the broker's token, which is never forwarded."""

    @property
    def raw_path(self) -> bytes:
        """The path as it was sent, undecoded."""
        path: bytes = self.request.scope.get("raw_path") or self.request.scope["path"].encode()
        return path

    @property
    def raw_query(self) -> bytes:
        """The query as it was sent, undecoded."""
        query: bytes = self.request.scope["query_string"]
        return query

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """The request's headers, in order; as for hosted QStash, ours mean nothing to a strict broker."""
        return known_pairs(pairs_of(received(self.request)), self.broker)

    @property
    def sent(self) -> Pairs | Received:
        """The same, still in bytes where none is left out."""
        return self.headers if self.broker.config.strict else received(self.request)

    @property
    def caller_ip(self) -> str | None:
        """The address that the request came from; None over a Unix socket."""
        client: tuple[str, int] | None = self.request.scope.get("client")
        return (client[0] or None) if client else None

    def query(self, *known: str, empty_is_refused: bool = False) -> dict[str, list[str]]:
        """Give the query's values by lower-case name; raises `BadRequest` for one that is not `known`.

        Empty values are left out, or refused. `qstash_token` is always allowed.
        """
        found: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.raw_query.decode("latin-1"), keep_blank_values=True):
            key = name.lower()
            if key == "qstash_token" or not (value or empty_is_refused):
                continue
            if key not in {each.lower() for each in known}:
                raise BadRequest(f"unknown query parameter {name!r}; known here: {', '.join(known)}")
            if not value:
                raise BadRequest(f"query parameter {name!r} is empty")
            found.setdefault(key, []).append(value)
        return found

    async def body(self, limit: int, quota: str = "maxMessageSize") -> bytes:
        """Read the body; raises `QuotaExceeded` as soon as it is longer than `limit` bytes."""
        announced = header(self.request, b"content-length")
        if announced.isdecimal() and int(announced) > limit:
            raise QuotaExceeded(f"quota {quota} exceeded, current limit: {limit} bytes")
        body: BytesIO | None = None  # gives its bytes away without copying them
        while True:
            message = await self.request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            if self.room.take(len(chunk)) > limit:
                raise QuotaExceeded(f"quota {quota} exceeded, current limit: {limit} bytes")
            if not message.get("more_body", False):
                if body is None:
                    return chunk
                body.write(chunk)
                return body.getvalue()
            body = body or BytesIO()
            body.write(chunk)


Handler = Callable[[Call], Awaitable[Response]]


class Route:
    """One operation: a method, a path with `{names}`, and its handler.

    `{name...}` takes all the rest of the path. An `is_open` route needs no token, nor does an `is_local` one
    where only this machine can reach the broker. A `secret` one needs the full
    scope even to read, and one that `reads` only that of reading, whatever its method. Publishing is not
    counted against the burst limit, and an `extra` route is one that hosted QStash does not have.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        is_open: bool = False,
        is_local: bool = False,
        secret: bool = False,
        publishes: bool = False,
        extra: bool = False,
        reads: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self.is_open = is_open
        self.is_local = is_local
        self.needs_full = secret or (method != "GET" and not reads)
        self.publishes = publishes
        self.extra = extra or path.startswith("/qtasks/")
        self._segments = path.strip("/").split("/")
        self.beginning = _beginning(self._segments)
        self._takes_rest = path.endswith("...}")
        self._rest = self._segments[-1][1:-4]

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """Give the path's parameters, or None if it is another path."""
        wanted = self._segments[:-1] if self._takes_rest else self._segments
        if len(segments) < len(wanted) or (len(segments) > len(wanted) and not self._takes_rest):
            return None
        params: dict[str, str] = {}
        for pattern, segment in zip(wanted, segments, strict=False):
            if pattern.startswith("{"):
                params[pattern[1:-1]] = unquote(segment)
            elif pattern.lower() != segment.lower():
                return None
        if self._takes_rest and self._rest != "destination":  # that one is read from the raw path
            if len(segments) == len(wanted):
                return None
            params[self._rest] = unquote("/".join(segments[len(wanted) :]))
        return params


def _beginning(segments: Sequence[str]) -> tuple[str, ...]:
    """Give what tells most paths apart: the first two segments, of which no route leaves one open."""
    return tuple(each.lower() for each in segments[:2])


class Api:
    """An ASGI app that serves `routes` of a broker to whoever bears one of the `tokens`, or a named one.

    `is_local` says that only this machine can reach it.
    """

    def __init__(
        self, broker: Broker, routes: Sequence[Route], tokens: Sequence[str], *, is_local: bool = False
    ) -> None:
        self._broker = broker
        self._is_local = is_local
        self._routes: dict[tuple[str, ...], list[Route]] = {}
        for each in routes:
            if not (broker.config.strict and each.extra):
                self._routes.setdefault(each.beginning, []).append(each)
        self._find_usual = lru_cache(PATHS_KEPT)(self._find)
        self._digests = [digest_of(each) for each in tokens]
        self._burst = Burst(broker.config.burst_limit)
        largest = max(broker.config.max_batch_bytes, broker.config.max_message_bytes)
        self._uploads = Uploads(max(broker.config.uploads_bytes, largest))

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except Exception as error:
            response = error_response(error, strict=self._broker.config.strict)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        self._broker.check_alive()  # whatever is asked: nothing may succeed any more
        route, params = self._route(request)
        # Nearly every request publishes with the owner's token, and there is nothing more to ask of that.
        is_owners = route.publishes and self._is_owners(header(request, b"authorization"))
        token_in_header = is_owners or await self._admit(route, request)
        with self._uploads.room() as room:  # until the answer: a body waits for its commit as well
            return await route.handler(Call(self._broker, request, params, room, token_in_header))

    async def _admit(self, route: Route, request: Request) -> bool:
        """Let in who may use an operation; says whether a header has told who that is."""
        if route.is_open or (route.is_local and self._is_local):
            return True
        bearer, in_header = await self._authenticate(route, request)
        if route.needs_full and bearer.scope is not Scope.FULL:
            raise Forbidden(f"unable to authorize: {bearer.name!r} is a read-only token")
        if not route.publishes:
            self._burst.count(bearer.name, self._broker.clock.now())
        return in_header

    def _route(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        find = self._find_usual if len(raw) <= LONGEST_KEPT else self._find
        return find(request.method, raw)

    def _find(self, method: str, raw: bytes) -> tuple[Route, Mapping[str, str]]:
        segments = raw.decode("latin-1").strip("/").split("/") if raw.strip(b"/") else []
        allowed: list[str] = []
        for route in self._routes.get(_beginning(segments), ()):
            params = route.match(segments)
            if params is not None:
                if route.method == method:
                    return route, params
                allowed.append(route.method)
        if allowed:
            methods = tuple(dict.fromkeys(allowed))
            text = f"method {method} is not allowed here; allowed: {', '.join(methods)}"
            raise MethodNotAllowed(text, methods)
        raise NotFound(f"no such operation: {method} {unquote(raw.decode('latin-1'))[:200]}")

    async def _authenticate(self, route: Route, request: Request) -> tuple[Bearer, bool]:
        """Say who calls, and whether the header tells it: that wins over the query (contract 7.1).

        Who publishes with the token in the query may have an `Authorization` of their own, which is to be
        forwarded (contract 3.5).
        """
        scheme, _, header_token = header(request, b"authorization").partition(" ")
        raw_query: bytes = request.scope["query_string"]
        pairs = parse_qsl(raw_query.decode("latin-1")) if raw_query else ()
        query_token = next((value for name, value in pairs if name.lower() == "qstash_token"), "")
        is_bearer = scheme.lower() == "bearer"
        if is_bearer and (bearer := await self._recognize(header_token)) is not None:
            return bearer, True
        if not is_bearer or (route.publishes and query_token):
            bearer = await self._recognize(query_token)
            if bearer is not None:
                return bearer, False
        raise Unauthorized("unable to authenticate: invalid token")

    def _is_owners(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self._is_owner(digest_of(token.strip()))

    def _is_owner(self, digest: bytes) -> bool:
        # All are compared, and digests rather than tokens, so that timing tells nothing.
        matches = [hmac.compare_digest(digest, each) for each in self._digests]
        return any(matches)

    async def _recognize(self, token: str) -> Bearer | None:
        digest = digest_of(token.strip())
        if self._is_owner(digest):
            return OWNER
        named = self._broker.tokens
        if not named.is_read:
            await asyncio.to_thread(named.all)
        return named.recognize(digest)


class _Json(Response):
    """An answer whose header is known, at half the cost of having it worked out."""

    def __init__(self, body: bytes, status: int) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]


def json_response(content: object, status: int = 200) -> Response:
    """Answer with JSON."""
    return _Json(orjson.dumps(content), status)


def error_response(error: Exception, *, strict: bool = False) -> Response:
    """Answer with `{"error": text}` and the status that an exception stands for (contract 2.0).

    Hosted QStash knows no 507, so with `strict` a store without room answers 503.
    """
    status, headers = 500, {}
    text = str(error)
    if isinstance(error, RequestError):
        status = error.status
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(error.allowed)
        elif isinstance(error, TooManyRequests) and error.limit is not None:
            # Never RateLimit-Limit: clients take that for the limit of a day (contract 7.2).
            headers["Burst-RateLimit-Limit"] = str(error.limit)
            headers["Burst-RateLimit-Remaining"] = "0"
            headers["Burst-RateLimit-Reset"] = str(error.reset_at)
    elif isinstance(error, StoreFull) and not strict:
        status = 507
    elif isinstance(error, BrokerError):
        status = 503
        after = error.retry_after if isinstance(error, BrokerUnavailable) else None
        headers["Retry-After"] = f"{after or 1:g}"
        if isinstance(error, BrokerUnavailable):
            # It is about to stop: the next request must not meet the end of this connection.
            headers["Connection"] = "close"
    else:
        log.error("request failed", exc_info=error)
        text = "internal error; the broker's log says more"
    response = json_response({"error": text}, status)
    response.headers.update(headers)
    return response


def received(request: Request) -> Received:
    """Give the headers of a request as they came, their names in lower case."""
    headers: Received = request.scope["headers"]
    return headers


def header(request: Request, name: bytes) -> str:
    """Give the first value of a header, named in lower case; "" if there is none."""
    for key, value in received(request):
        if key == name:
            return value.decode("latin-1")
    return ""


def known_pairs(pairs: Sequence[tuple[str, str]], broker: Broker) -> Sequence[tuple[str, str]]:
    """Leave out our own settings where the broker is strict: hosted QStash does not know them."""
    if not broker.config.strict:
        return pairs
    return [each for each in pairs if not each[0].lower().startswith("qtasks-")]
