"""Delivers messages over HTTP with aiohttp: signs, sends, reads a bounded answer.

Redirects are not followed, answers are asked for uncompressed, certificates are verified, and a
connection goes only to an address that the destination rules admit: they are asked about an address
in the URL before aiohttp sees it, and about those of a name in the resolver that aiohttp is given.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from qtasks.broker.addresses import Endpoint, call_url
from qtasks.broker.batch_delivery import OK, BatchDelivery
from qtasks.broker.batching import Requests, parted, written
from qtasks.broker.config import ApiTarget
from qtasks.broker.delivery import Admission, Answer, spare
from qtasks.broker.delivery_headers import USER_AGENT, delivery_headers
from qtasks.broker.pace import Paces
from qtasks.broker.response_budget import BUDGET_BYTES, PATIENCE_MS, PAUSE_MS, Hold, ResponseBudget
from qtasks.broker.security import DestinationRules
from qtasks.broker.store.messages import LARGE_BYTES
from qtasks.broker.store.records import Claim, Reply, Trouble
from qtasks.broker.store.results import CANCELLED
from qtasks.clock import Clock, stopwatch_ns
from qtasks.errors import BadRequest
from qtasks.ids import Ids
from qtasks.protocol.batches import CONTENT_TYPE, batch_url
from qtasks.protocol.signature import sign

Body = bytes | BytesIO
# Shorter than the 5 s after which uvicorn closes an idle connection: a request that meets the close
# would be a failed attempt for nothing.
KEEPALIVE_S = 3.0
AHEAD = 4
"""How many times as many claims as there may be requests at once are in hand, if batches spare requests."""
QUICK_NS = 100_000_000
"""What answers within that is delivered together."""
MOST_PACES = 1000
"""Of so many kinds it is known whether they are quick: more than apps have tasks, and 8 MiB at the worst."""


class _RefusedAddress(OSError):
    """A URL, or what its host resolved to, may not be called."""


class GuardedResolver(AbstractResolver):
    """Resolves names for calls of one scheme and passes on only addresses that the rules admit.

    What aiohttp keeps of it holds for a scheme, a host and a port, so each scheme needs its own
    connector: the same host may be admitted for one and refused for the other.
    """

    def __init__(self, rules: DestinationRules, scheme: str, resolver: AbstractResolver) -> None:
        self._rules = rules
        self._scheme = scheme
        self._resolver = resolver

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        addresses = [ipaddress.ip_address(each["host"].partition("%")[0]) for each in found]
        endpoint = Endpoint(self._scheme, host.removesuffix("."), port)
        reach = self._rules.reach(addresses)
        if reach is None:
            raise OSError(f"{host} has no address")
        self._rules.answers.remember(endpoint.host, reach)
        if (objection := self._rules.objection(endpoint, reach)) is not None:
            raise _RefusedAddress(objection)
        if self._rules.is_named(endpoint):
            return found
        return [
            each
            for each, address in zip(found, addresses, strict=True)
            if self._rules.admits(self._scheme, address)
        ]

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
        response_budget_bytes: int = BUDGET_BYTES,
        response_patience_ms: int = PATIENCE_MS,
        apis: Mapping[str, ApiTarget] | None = None,
        region: str | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        self._signing_key = signing_key
        self._max_response_bytes = max_response_bytes
        self._connections = connections
        self._clock = clock
        self._ids = ids
        self._budget = ResponseBudget(response_budget_bytes)
        self._patience_ms = response_patience_ms
        self._apis = apis or {}
        self._region = region
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._limits: dict[int, asyncio.Timeout] = {}
        self._dropped: set[int] = set()
        self._paces = Paces(QUICK_NS, MOST_PACES)
        self._batches: list[BatchDelivery] = []
        self._spared = 0
        """How many requests fewer than claims the last of these took."""

    @property
    def response_budget_left(self) -> int:
        """How many more bytes answers may hold that are longer than what each has for free."""
        return self._budget.left

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        """Deliver one claim, or several in one request: those that `part` has put together."""
        began_at = stopwatch_ns()
        if len(claims) == 1:
            reply = await self._attempt(claims[0])
            self._paces.took(_work(claims[0]), stopwatch_ns() - began_at)
            yield [(claims[0], reply)]
            return
        batch = BatchDelivery(claims)
        self._batches.append(batch)
        hold = self._budget.growing()
        try:
            async for answers in batch.answers(
                self._ask_together, self._whole, partial(self._grow, hold), hold
            ):
                took_ns = stopwatch_ns() - began_at
                for work, count in Counter(_work(claim) for claim, _ in answers).items():
                    self._paces.took(work, took_ns, count)
                yield answers
        finally:
            self._batches.remove(batch)

    def part(self, claims: Sequence[Claim]) -> Sequence[Sequence[Claim]]:
        parts = parted(claims, self._is_quick)
        if claims:
            self._spared = len(claims) - len(parts)
        return parts

    def _is_quick(self, claim: Claim) -> bool:
        return self._paces.is_quick(_work(claim))

    def begin_early(self, claims: Sequence[Claim], loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is begun before `deliver`."""

    def window(self, concurrency: int) -> int:
        """A batch takes the place of one attempt: as many claims more as it has messages are welcome."""
        spared = sum(max(0, len(each.left) - 1) for each in self._batches)
        return min(concurrency + spared, concurrency * AHEAD)

    def admission(self, concurrency: int, in_hand: int) -> Admission:
        """What is claimed next is likely to go together as what came last did: so many more are looked at."""
        slots = self.window(concurrency) - in_hand
        most = min(slots + self._spared, concurrency * AHEAD - in_hand) if slots > 0 else 0
        return Admission(most, partial(Requests, slots, self._is_quick))

    def drop(self, claim: Claim) -> None:
        for each in self._batches:
            each.drop(claim)
        limit = self._limits.get(claim.seq)
        if limit is not None and not limit.expired():
            self._dropped.add(claim.seq)
            limit.reschedule(0)  # its time is over now, which closes the connection

    async def close(self) -> None:
        for each in self._sessions.values():
            await each.close()

    async def _attempt(self, claim: Claim) -> Reply:
        """Send once; whatever goes wrong on the way is a reply with status 0 (contract 4.3)."""
        try:
            endpoint, url = call_url(claim.url)
            self._check(endpoint)
            async with asyncio.timeout(claim.timeout_ms / 1000) as limit:
                self._limits[claim.seq] = limit
                return await self._exchange(claim, endpoint.scheme, url)
        except TimeoutError:
            if claim.seq in self._dropped:
                return Reply(0, error=CANCELLED)
            problem = f"no complete answer within {claim.timeout_ms / 1000:g} s"
            return Reply(0, error=problem, trouble=Trouble.SILENT)
        except (aiohttp.ClientError, OSError, ValueError, BadRequest) as error:
            return Reply(0, error=_reason(error), trouble=_trouble(error))
        finally:
            self._limits.pop(claim.seq, None)
            self._dropped.discard(claim.seq)

    def _check(self, endpoint: Endpoint) -> None:
        """Judge what the URL says: no resolver sees an address that is written in it."""
        objection = self._rules.objection(endpoint, self._rules.reach(endpoint.addresses))
        if objection is not None:
            raise _RefusedAddress(objection)

    async def _exchange(self, claim: Claim, scheme: str, url: str) -> Reply:
        session = await self._session(scheme)
        # aiohttp copies what it is given whole, to send it together with the header; and it may hold on to
        # what it has sent, so a large body is taken back at the end.
        large = BytesIO(claim.body) if len(claim.body) > LARGE_BYTES else None
        try:
            return await self._ask(session, claim, url, large or claim.body)
        finally:
            if large is not None:
                large.close()

    async def _ask(self, session: aiohttp.ClientSession, claim: Claim, url: str, body: Body) -> Reply:
        async with session.request(
            claim.method,
            URL(url, encoded=True),
            data=body,
            headers=self._headers(claim),
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "Accept"),
        ) as response:
            answer, is_cut = await self._read(response)
            headers = tuple((str(name), value) for name, value in response.headers.items())
            ok = 200 <= response.status < 300
            error = None if ok else f"unexpected status {response.status}"
            hold = self._budget.hold(len(answer))
            return Reply(response.status, headers, answer, error, truncated=is_cut, hold=hold)

    async def _ask_together(self, claims: Sequence[Claim]) -> aiohttp.client._RequestContextManager:
        """Send claims to where their destination takes them together."""
        endpoint, url = call_url(batch_url(claims[0].url))
        self._check(endpoint)
        body = written(claims, self._region)
        headers = {
            "User-Agent": USER_AGENT,
            "Content-Type": CONTENT_TYPE,
            "Accept-Encoding": "identity",
            "Upstash-Signature": self._sign(batch_url(claims[0].url), body),
        }
        session = await self._session(endpoint.scheme)
        return session.post(
            URL(url, encoded=True),
            data=BytesIO(body) if len(body) > LARGE_BYTES else body,
            headers=headers,
            allow_redirects=False,
        )

    async def _whole(self, response: aiohttp.ClientResponse) -> Reply:
        """Read an answer that is one for all, such as that the app is full, or has no place for batches."""
        answer, is_cut = await self._read(response)
        headers = tuple((str(name), value) for name, value in response.headers.items())
        return Reply(
            response.status if response.status != OK else 0,  # no message was answered
            headers,
            answer,
            f"unexpected status {response.status} to a batch",
            truncated=is_cut,
            is_alone_next=True,
            hold=self._budget.hold(len(answer)),
        )

    async def _grow(self, hold: Hold, by: int) -> bool:
        """Take room for more of the answers to a batch; they share what one answer has for free."""
        granted = await self._granted(hold.held, by)
        hold.grow(granted)
        return granted == by

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """Read what there is room for, and say whether that was not all; the rest stays on the wire."""
        body = BytesIO()  # gives its bytes away without copying them
        held = 0
        try:
            async for chunk in response.content.iter_any():
                kept = await self._granted(held, min(len(chunk), self._max_response_bytes - held))
                held += body.write(chunk[:kept])
                if kept < len(chunk):
                    response.close()
                    return body.getvalue(), True
        except BaseException:
            self._budget.give_back(held)
            raise
        return body.getvalue(), False

    async def _granted(self, held: int, wanted: int) -> int:
        """Take room for more of an answer, waiting a little where there is none: others are stored soon."""
        granted = self._budget.grant(held, wanted)
        waited_ms = 0
        while granted < wanted and waited_ms < self._patience_ms:
            await self._clock.sleep(PAUSE_MS)
            waited_ms += PAUSE_MS
            granted += self._budget.grant(held + granted, wanted - granted)
        return granted

    def _headers(self, claim: Claim) -> list[tuple[str, str]]:
        signature = self._sign(claim.url, claim.body)
        api = self._apis.get(claim.extras.api or "")
        return delivery_headers(
            claim, signature=signature, region=self._region, key=None if api is None else api.key
        )

    def _sign(self, url: str, body: bytes) -> str:
        return sign(url, body, key=self._signing_key(), now=self._clock.now(), jti=self._ids.token_id())

    async def _session(self, scheme: str) -> aiohttp.ClientSession:
        if scheme not in self._sessions:
            # Reads a file of some hundred certificates, so not on the loop.
            tls = await asyncio.to_thread(_verifying) if scheme == "https" else None
            if scheme not in self._sessions:  # nobody was quicker meanwhile
                self._sessions[scheme] = self._new_session(scheme, tls)
        return self._sessions[scheme]

    def _new_session(self, scheme: str, tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._rules, scheme, self._resolver or ThreadedResolver()),
            ssl=tls or True,
            limit=self._connections + spare(self._connections),
            use_dns_cache=True,
            ttl_dns_cache=10,
            keepalive_timeout=KEEPALIVE_S,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        # aiohttp would send a GET, PUT or DELETE again, unseen, when a used connection breaks. What
        # is sent again is for the broker to decide, which counts it.
        session._retry_connection = False
        return session


def _work(claim: Claim) -> tuple[str, str | None]:
    """Say of which work a claim is: a destination's, and of it that kind which its sender told."""
    return claim.url, claim.extras.kind


def _verifying() -> ssl.SSLContext:
    """Trust the authorities of the system, or those in SSL_CERT_FILE; nothing turns verification off."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reason(error: Exception) -> str:
    """Say what went wrong; aiohttp hides what a resolver said."""
    shown = error.__cause__ if isinstance(error.__cause__, _RefusedAddress) else error
    return str(shown) or type(shown).__name__


def _trouble(error: Exception) -> Trouble | None:
    """Say what it tells of the destination, if it is not us who would not call it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return None if isinstance(error.__cause__, _RefusedAddress) else Trouble.UNREACHABLE
    broke_off = isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError)
    return Trouble.SILENT if broke_off else None
