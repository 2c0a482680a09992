"""One life of a node in a simulation: a broker and its loops, with destinations that it reaches.

It is started, stopped for a while, cut off, and killed by `simulation.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Answer, OneByOne
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.records import Claim, Reply, Trouble
from qtasks.ids import Ids
from tests.support.simulation_ledger import Attempt, Fate, Ledger
from tests.support.simulation_store import Store, UnsteadyDatabase, Weather
from tests.support.virtual_time import VirtualClock

CONFIG = BrokerConfig(concurrency=8, lease_margin_ms=1000)
LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)
REFUSED = Reply(489, (("Upstash-NonRetryable-Error", "true"),))
BUSY = Reply(429, (("Retry-After", "1"),))
TOO_COSTLY = ("qtasks-scheduler", "qtasks-heeding")
"""Loops that look again and again for nothing: there are no schedules, and attempts end soon."""
TIMED_OUT = Reply(0, error="timed out", trouble=Trouble.SILENT)


@dataclass(frozen=True, slots=True)
class Plan:
    """How an attempt goes: how long the work takes, what is answered, and whether that arrives."""

    takes_ms: int
    reply: Reply
    succeeds: bool = False
    is_lost: bool = False


class Destinations(OneByOne):
    """Does what `plan` says with each attempt of one life, and notes it in the ledger."""

    def __init__(self, life: Life, ledger: Ledger, plan: Callable[[Claim], Plan]) -> None:
        self._life = life
        self._ledger = ledger
        self._plan = plan
        self._dropped: dict[tuple[str, int], asyncio.Event] = {}

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        for claim in claims:
            await self._life.weather.awake.wait()
            attempt = self._ledger.start(claim, place_of(claim), self._life.fate, self._life.now())
            try:
                reply = await self._attempt(claim, attempt)
                await self._life.weather.awake.wait()
            except asyncio.CancelledError:
                attempt.was_handed_back = True
                raise
            finally:
                attempt.is_open = False
            yield [(claim, reply)]

    async def _attempt(self, claim: Claim, attempt: Attempt) -> Reply:
        plan = self._plan(claim)
        dropped = self._dropped[claim.id, claim.lease_epoch] = asyncio.Event()
        try:
            async with asyncio.timeout(plan.takes_ms / 1000):
                await dropped.wait()
        except TimeoutError:
            attempt.succeeded, attempt.was_lost = plan.succeeds, plan.is_lost
            return plan.reply
        finally:
            del self._dropped[claim.id, claim.lease_epoch]
        return Reply(0, error="cancelled")

    def drop(self, claim: Claim) -> None:
        dropped = self._dropped.get((claim.id, claim.lease_epoch))
        if dropped is not None:
            dropped.set()


def place_of(claim: Claim) -> str:
    """Name the queue or the flow-control key whose limits hold for a message."""
    return claim.extras.flow.key if claim.extras.flow is not None else claim.queue or ""


class Life:
    """A broker of its own on the shared store, from its start until it dies."""

    def __init__(
        self,
        name: str,
        store: Store,
        ledger: Ledger,
        plan: Callable[[Claim], Plan],
        *,
        rng: random.Random,
        tell: Callable[[], None],
    ) -> None:
        self.fate = Fate(name)
        self._store = store
        self.weather = Weather(rng, tell)
        self.weather.awake.set()
        self.clock = VirtualClock()
        self.seen_at = self.now()
        """When the others heard of it last."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_up = False
        self.is_ending = False
        self.database = UnsteadyDatabase(store.open(), self.weather)
        ids = Ids.seeded(rng.getrandbits(32))
        self.broker = Broker(
            self.database,
            CONFIG,
            clock=self.clock,
            ids=ids,
            rules=parse_rules((), loopback=True),
            keys=KeyRing("sig_current", "sig_next", lambda current, following: None),
        )
        destinations = Destinations(self, ledger, plan)
        self.node = Node(self.broker, destinations, CONFIG, app=None, ids=ids)

    def now(self) -> int:
        """Say the time of the simulation, which is no node's wall clock."""
        return self.clock.monotonic()

    async def start(self) -> None:
        """Begin; raises `StoreError` if the store cannot be reached."""
        await self._do(self.node.start())
        for task in self.tasks:
            if task.get_name() in TOO_COSTLY:
                task.cancel()
        self.is_up = True
        self.seen_at = self.now()

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        context = contextvars.copy_context()
        context.run(LIFE.set, self)
        await asyncio.create_task(work, context=context)

    def do(self, work: Callable[[], Any]) -> Any:
        """Call the broker, so that what comes of it ends with this life."""
        context = contextvars.copy_context()
        context.run(LIFE.set, self)
        return context.run(work)

    async def stop(self, grace_ms: int) -> None:
        """End in good order, as far as the store lets it."""
        self.is_ending = True
        await self._do(self._stop(grace_ms))

    async def _stop(self, grace_ms: int) -> None:
        await self.node.stop(grace_ms)
        self.is_up = False
        self.fate.died = self.node.dispatcher.in_flight > 0

    async def die(self) -> None:
        """End as a killed process does: nothing of what it was about to do is done."""
        self.fate.died = self.fate.died or self.is_up
        self.is_up = False
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks)
        self._store.let_go(self.database.inner)


def tag_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have each life know its tasks, so that they can die with it."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        context: contextvars.Context | None = options.get("context")
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        life = context.get(LIFE) if context is not None else LIFE.get()
        if life is not None:
            life.tasks.add(task)
            task.add_done_callback(life.tasks.discard)
        return task

    loop.set_task_factory(make)
