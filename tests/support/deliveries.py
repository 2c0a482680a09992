"""Makes one delivery over HTTP, as the dispatcher would, and gives what came of it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from qtasks.broker.http_delivery import HttpDeliverer
from qtasks.broker.security import DestinationRules, parse_rules
from qtasks.broker.store.records import Claim, Reply
from qtasks.clock import ManualClock
from qtasks.ids import Ids
from tests.support.store import new_claim

NOW = 1_700_000_000_000
KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
LIMIT = 1000


class FakeResolver(AbstractResolver):
    """Resolves every name to the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.asked: list[str] = []
        self.is_closed = False

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0)
            for each in self._addresses
        ]

    async def close(self) -> None:
        self.is_closed = True


def new_deliverer(rules: DestinationRules | None = None, **changes: Any) -> HttpDeliverer:
    """Make a deliverer that admits loopback and keeps `LIMIT` bytes of an answer, if nothing else is said."""
    settings: dict[str, Any] = {
        "signing_key": lambda: KEY,
        "max_response_bytes": LIMIT,
        "connections": 8,
        "clock": ManualClock(NOW),
        "ids": Ids.seeded(1),
    }
    return HttpDeliverer(rules or parse_rules((), loopback=True), **settings | changes)


def claim(url: str, **changes: Any) -> Claim:
    """Make a claim of a message to `url`."""
    return new_claim(url, now=NOW, **changes)


async def deliver(deliverer: HttpDeliverer, claim: Claim) -> Reply:
    """Make one attempt; give its reply."""
    async with asyncio.timeout(10):
        [[(answered, reply)]] = [each async for each in deliverer.deliver([claim])]
    assert answered is claim
    return reply
