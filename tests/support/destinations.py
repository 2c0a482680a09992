"""Simulated destinations in virtual time: with a capacity, down for a while, or hanging."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Answer, OneByOne
from qtasks.broker.dispatcher import Dispatcher
from qtasks.broker.standings import place_of
from qtasks.broker.store import messages
from qtasks.broker.store.memory import MemoryDatabase
from qtasks.broker.store.records import Claim, Reply, Trouble
from qtasks.broker.waiters import Waiters
from qtasks.ids import Ids
from tests.support.store import new_message
from tests.support.virtual_time import VirtualClock, run_virtually

REFUSED_MS = 2  # to be refused takes less than to be served


@dataclass
class Destination:
    """Serves `capacity` attempts at once, each within `takes_ms`, and gives `refusal` to what is more."""

    capacity: int
    takes_ms: float = 100
    refusal: Reply = field(default_factory=lambda: Reply(429))
    is_down: bool = False
    hangs: bool = False
    inside: int = 0
    most_inside: int = 0
    attempts: list[float] = field(default_factory=list)
    """When each came, in ms."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often each message came."""
    refused: int = 0
    served: list[tuple[float, str]] = field(default_factory=list)
    """When each was served, and which message it was."""

    async def take(self, claim: Claim) -> Reply:
        """Make one attempt."""
        loop = asyncio.get_running_loop()
        self.attempts.append(loop.time() * 1000)
        self.seen[claim.id] += 1
        if self.is_down:
            await asyncio.sleep(REFUSED_MS / 1000)
            return Reply(0, error="connection refused", trouble=Trouble.UNREACHABLE)
        if self.inside >= self.capacity:
            self.refused += 1
            await asyncio.sleep(REFUSED_MS / 1000)
            return self.refusal
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if self.hangs:
                await asyncio.sleep(claim.timeout_ms / 1000)
                return Reply(0, error="timed out", trouble=Trouble.SILENT)
            await asyncio.sleep(self.takes_ms / 1000)
        finally:
            self.inside -= 1
        self.served.append((loop.time() * 1000, claim.id))
        return Reply(200)


class SimulatedDeliverer(OneByOne):
    """Takes attempts to the destinations, which are by scheme, host and port."""

    def __init__(self, destinations: dict[str, Destination]) -> None:
        self.destinations = destinations
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        for claim in claims:
            place = place_of(claim.url)
            self.in_flight[place] += 1
            self.most_in_flight[place] = max(self.most_in_flight[place], self.in_flight[place])
            reply = await self.destinations[place].take(claim)
            self.in_flight[place] -= 1
            yield [(claim, reply)]


class Site:
    """A node's dispatcher on a store in memory, and the destinations that it delivers to."""

    def __init__(self, destinations: dict[str, Destination], *, seed: int = 1, **config: Any) -> None:
        self.clock = VirtualClock()
        self.database = MemoryDatabase()
        self.deliverer = SimulatedDeliverer(destinations)
        self.dispatcher = Dispatcher(
            self.database,
            self.deliverer,
            BrokerConfig(**config),
            node="n",
            app=None,
            clock=self.clock,
            ids=Ids.seeded(seed),
            waiters=Waiters(),
        )

    @property
    def now_ms(self) -> float:
        """Say the time of the simulation."""
        return asyncio.get_running_loop().time() * 1000

    def send(self, url: str, count: int = 1, **changes: Any) -> None:
        """Accept messages to `url`, in a queue without order and limits if `changes` say nothing else."""
        wide: dict[str, Any] = {"queue": "wide", "parallelism": 100_000, "ordered": False, "url": url}
        now = self.clock.now()
        self.database.run(
            lambda session: messages.enqueue(
                session, [new_message(now=now, **(wide | changes)) for _ in range(count)], now
            )
        )

    def ready(self, queue: int) -> int:
        """Count what is ready in a queue, which are numbered as they were first used."""
        wanted = {"queue": queue, "app": None, "count": 10_000}
        return len(self.database.look(lambda session: session.all("claim_ahead", wanted)))

    async def wait_until(self, is_so: Callable[[], bool], within_s: float) -> None:
        """Let time pass until something is so."""
        async with asyncio.timeout(within_s):
            while not is_so():  # noqa: ASYNC110  # time passes at once
                await asyncio.sleep(0.01)


def play(story: Callable[[Site], Coroutine[Any, Any, None]], make: Callable[[], Site]) -> None:
    """Tell a story of a site that delivers meanwhile, in virtual time."""

    async def run() -> None:
        site = make()
        loops = [
            asyncio.create_task(site.dispatcher.run()),
            asyncio.create_task(site.dispatcher.settle_forever()),
        ]
        try:
            await story(site)
        finally:
            for each in loops:
                each.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await site.dispatcher.drain(0)
            site.database.close()

    run_virtually(run())
