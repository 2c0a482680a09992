"""The broker of a kit, in memory, and its rounds: claim what is due, have it delivered, settle, go on.

Whatever falls due while time is moved runs at its own instant, in order. Nothing runs by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from qtasks.broker.config import BrokerConfig
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store import schedules
from qtasks.broker.store.memory import MemoryDatabase
from qtasks.broker.store.records import Claim, Reply
from qtasks.errors import KitError
from qtasks.ids import Ids
from qtasks.tasks.answers import CONTINUED
from qtasks.testing.clocks import KitClock
from qtasks.testing.delivery import AsgiDeliverer

DOMAIN = "qtasks.test"
LONGEST_MS = 1000  # of real time; then look again


@dataclass(frozen=True, slots=True)
class Drained:
    """What was delivered by one `drain` or `advance`, and what became of it."""

    delivered: int = 0
    """Attempts that were made."""
    succeeded: int = 0
    retried: int = 0
    """Attempts after which another one follows, or did."""
    dead: int = 0
    """Attempts after which none follows, as none is left or none is wanted."""


class Rounds:
    """A broker whose node is made anew for each drain, on the loop that drains."""

    def __init__(
        self, deliverer: AsgiDeliverer, clock: KitClock, ids: Ids, *, keys: KeyRing, concurrency: int
    ) -> None:
        self._deliverer = deliverer
        self.failures = deliverer.failures
        self._clock = clock
        self._ids = ids
        self._config = replace(BrokerConfig(), concurrency=concurrency)
        self._database = MemoryDatabase()
        self.broker = Broker(
            self._database,
            self._config,
            clock=clock,
            ids=ids,
            rules=parse_rules((f"*.{DOMAIN}",), loopback=False),
            keys=keys,
        )

    async def run(self, *, until: int | None = None, waits: bool = False, limit: int) -> Drained:
        """Run what is due now, and what falls due `until` then, or with `waits` whatever else there is.

        Raises `KitError` after `limit` deliveries.
        """
        node = Node(self.broker, self._deliverer, self._config, app=None, ids=self._ids)
        node.listen()
        self._deliverer.begin()
        drained = Drained()
        try:
            while True:
                drained, next_at = await self._run_due(node, drained, limit)
                next_at = await self._next_at(next_at, until, waits)
                if next_at is None:
                    break
                self._clock.move(next_at - self._clock.now())
        finally:
            await node.dispatcher.drain(0)  # gives back what was cut short by an error or by Ctrl-C
        return drained

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    async def _run_due(self, node: Node, drained: Drained, limit: int) -> tuple[Drained, int | None]:
        """Go on until nothing is due; also give when the next message is."""
        while await node.scheduler.step():
            pass
        while True:
            claimed = await node.dispatcher.step()
            if not claimed.claims and not node.dispatcher.in_flight:
                return drained, claimed.next_due_at
            if claimed.claims and drained.delivered >= limit:
                raise KitError(
                    f"{limit} deliveries were made and there are more: do tasks enqueue each other for ever? "
                    "If not, allow more of them: drain(limit=...)"
                )
            if self._config.concurrency == 1:
                await node.dispatcher.idle()
            else:
                await self._something_happens()
                await node.dispatcher.settle()
            drained = await self._counted(drained)

    async def _something_happens(self) -> None:
        """Wait until an attempt has ended, or a task that runs has enqueued another."""
        waits = [
            asyncio.ensure_future(self._deliverer.answered.wait()),
            asyncio.ensure_future(self._database.changed(LONGEST_MS)),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self._deliverer.answered.clear()
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def _next_at(self, message_at: int | None, until: int | None, waits: bool) -> int | None:
        """Say to when time is to be moved next; None at the end.

        Schedules go on for ever, so it is messages alone that are waited for without an `until`.
        """
        now = self._clock.now()
        fire_at = await self._database.read(schedules.next_due_at)
        # What is due and was not claimed waits for something other than time.
        instants = [each for each in (message_at, fire_at, until) if each is not None and each > now]
        goes_on = until in instants or (waits and message_at in instants)
        return min(instants) if goes_on else None

    async def _counted(self, drained: Drained) -> Drained:
        ends = [await self._end(claim, reply) for claim, reply in self._deliverer.take_answers()]
        return Drained(
            delivered=drained.delivered + len(ends),
            succeeded=drained.succeeded + ends.count("succeeded"),
            retried=drained.retried + ends.count("retried"),
            dead=drained.dead + ends.count("dead"),
        )

    async def _end(self, claim: Claim, reply: Reply) -> str:
        if 200 <= reply.status < 300:
            goes_on = any(name.lower() == CONTINUED.lower() for name, _ in reply.headers)
            return "retried" if goes_on else "succeeded"
        return "retried" if await self._is_pending(claim.id) else "dead"

    async def _is_pending(self, message_id: str) -> bool:
        row = await self._database.read(lambda session: session.one("pending_of_message", {"id": message_id}))
        return row is not None


class SteadyIds(Ids):
    """Spreads nothing: a retry comes at its instant, to the millisecond."""

    def fraction(self) -> float:
        return 0.0
