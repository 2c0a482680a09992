"""Delivers messages over HTTP with aiohttp: signs, sends, reads a bounded answer.

Redirects are not followed, answers are asked for uncompressed, and a connection goes only to an
address that the destination rules admit.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from qtasks.broker.delivery import Answer
from qtasks.broker.security import DestinationRules, literal_address
from qtasks.broker.store.records import Claim, Reply
from qtasks.clock import Clock
from qtasks.ids import Ids
from qtasks.protocol.signature import sign

USER_AGENT = "Upstash-QStash"
# Shorter than the 5 s after which uvicorn closes an idle connection: a request that meets the close
# would be a failed attempt for nothing.
KEEPALIVE_S = 3.0


class _RefusedAddress(OSError):
    """A name resolved to addresses that may not be called."""


class GuardedResolver(AbstractResolver):
    """Resolves names and passes on only addresses that the rules admit."""

    def __init__(self, rules: DestinationRules, resolver: AbstractResolver) -> None:
        self._rules = rules
        self._resolver = resolver

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not found:
            raise OSError(f"{host} has no address")
        if self._rules.allows_host(host.rstrip(".")):
            return found
        addresses = [ipaddress.ip_address(each["host"].partition("%")[0]) for each in found]
        admitted = [
            each
            for each, address in zip(found, addresses, strict=True)
            if self._rules.allows_address(address)
        ]
        if not admitted:
            raise _RefusedAddress(self._rules.refusal(host, addresses[0]))
        return admitted

    async def close(self) -> None:
        await self._resolver.close()


class HttpDeliverer:
    """Makes delivery attempts over HTTP. `signing_key` gives the current key at each attempt."""

    def __init__(
        self,
        rules: DestinationRules,
        *,
        signing_key: Callable[[], str],
        max_response_bytes: int,
        connections: int,
        clock: Clock,
        ids: Ids,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        self._signing_key = signing_key
        self._max_response_bytes = max_response_bytes
        self._connections = connections
        self._clock = clock
        self._ids = ids
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Answer]:
        if len(claims) == 1:
            yield claims[0], await self._attempt(claims[0])
            return
        attempts = [asyncio.ensure_future(self._answer(each)) for each in claims]
        try:
            for attempt in asyncio.as_completed(attempts):
                yield await attempt
        finally:
            for each in attempts:
                each.cancel()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _answer(self, claim: Claim) -> Answer:
        return claim, await self._attempt(claim)

    async def _attempt(self, claim: Claim) -> Reply:
        """Send once; whatever goes wrong on the way is a reply with status 0 (contract 4.3)."""
        try:
            self._check_literal(claim.url)
            async with asyncio.timeout(claim.timeout_ms / 1000):
                return await self._exchange(claim)
        except TimeoutError:
            return Reply(0, error=f"no complete answer within {claim.timeout_ms / 1000:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(0, error=_reason(error))

    def _check_literal(self, url: str) -> None:
        """Judge an address written in the URL itself: no resolver sees it."""
        host = (urlsplit(url).hostname or "").rstrip(".")
        address = literal_address(host)
        if address is None or self._rules.allows_host(host) or self._rules.allows_address(address):
            return
        raise _RefusedAddress(self._rules.refusal(host, address))

    async def _exchange(self, claim: Claim) -> Reply:
        async with self._open().request(
            claim.method,
            URL(claim.url, encoded=True),
            data=claim.body,
            headers=self._headers(claim),
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "Accept"),
        ) as response:
            body = await self._read(response)
            headers = tuple((name, value) for name, value in response.headers.items())
            ok = 200 <= response.status < 300
            return Reply(
                response.status,
                headers,
                body[: self._max_response_bytes],
                None if ok else f"unexpected status {response.status}",
                truncated=len(body) > self._max_response_bytes,
            )

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read at most one byte more than is kept; the rest is never taken off the wire."""
        limit = self._max_response_bytes + 1
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) >= limit:
                response.close()
                break
        return bytes(body[:limit])

    def _headers(self, claim: Claim) -> list[tuple[str, str]]:
        """Contract 4.1; the broker's own names win over forwarded ones."""
        now = self._clock.now()
        own = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "Upstash-Message-Id": claim.id,
            "Upstash-Retried": str(claim.attempt - 1),
            "Upstash-Signature": sign(
                claim.url, claim.body, key=self._signing_key(), now=now, jti=self._ids.token_id()
            ),
        }
        if claim.caller_ip is not None:
            own["Upstash-Caller-Ip"] = claim.caller_ip
        forwarded = [each for each in claim.headers if each[0] not in own and each[0] != "Upstash-Caller-Ip"]
        return [*forwarded, *own.items()]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=GuardedResolver(self._rules, self._resolver or ThreadedResolver()),
                limit=self._connections,
                use_dns_cache=True,
                ttl_dns_cache=10,
                keepalive_timeout=KEEPALIVE_S,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
            # aiohttp would send a GET, PUT or DELETE again, unseen, when a used connection breaks. What
            # is sent again is for the broker to decide, which counts it.
            self._session._retry_connection = False
        return self._session


def _reason(error: Exception) -> str:
    """Say what went wrong; aiohttp hides what a resolver said."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    shown = cause if isinstance(cause, _RefusedAddress) else error
    return str(shown) or type(shown).__name__
