"""A node: one life of one broker process, with its loops. Started and stopped by the rooms in `home/`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from qtasks.broker.callbacks import callbacks_of
from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Deliverer
from qtasks.broker.dispatcher import Dispatcher
from qtasks.broker.janitor import Janitor
from qtasks.broker.relay import Relay
from qtasks.broker.scheduler import Scheduler
from qtasks.broker.service import Broker
from qtasks.broker.store import cancelling, settling
from qtasks.broker.store.records import NewMessage, Settlement
from qtasks.broker.telemetry import find_telemetry
from qtasks.errors import BrokerError, StoreError
from qtasks.ids import Ids

log = logging.getLogger("qtasks.node")

HEED_MS = 500
TAKEOVER_PAUSE_MS = 500


class Node:
    """Recovers what earlier lives left in flight, then dispatches until `stop`."""

    def __init__(
        self,
        broker: Broker,
        deliverer: Deliverer,
        config: BrokerConfig,
        *,
        app: str | None,
        ids: Ids,
    ) -> None:
        self.broker = broker
        self.boot_id = ids.boot_id()
        self._config = config
        self._clock = clock = broker.clock
        self._deliverer = deliverer
        self.dispatcher = Dispatcher(
            broker.database,
            deliverer,
            config,
            node=self.boot_id,
            app=app,
            clock=clock,
            ids=ids,
            waiters=broker.waiters,
            callbacks=self._callbacks,
            room=broker.room,
            metrics=broker.metrics,
        )
        broker.metrics.node = self
        self.scheduler = Scheduler(broker.database, broker.schedules, clock, broker.room)
        self.janitor = Janitor(broker.database, config, clock)
        outbox = broker.database.outbox
        self.relay = None if outbox is None else Relay(broker.database, outbox, broker.intake, clock)
        self._claiming: asyncio.Task[None] | None = None
        self._others: list[asyncio.Task[None]] = []
        self._dropping: set[asyncio.Task[None]] = set()
        self._takeovers: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """How many deliveries have not ended."""
        return self.dispatcher.in_flight

    @property
    def idle_ms(self) -> int | None:
        """How long ago it last looked for work; None if it has not yet."""
        return self.dispatcher.idle_ms

    @property
    def limits(self) -> Mapping[str, int]:
        """How many attempts may be in flight at destinations that are held back; of the lowest 20."""
        return self.dispatcher.slots.standings.shown()

    @property
    def held_back(self) -> int:
        """How many destinations are held back."""
        return self.dispatcher.slots.standings.held_back

    def _callbacks(self, settlement: Settlement) -> Sequence[NewMessage]:
        return callbacks_of(settlement, self.broker.intake)

    async def recover(self) -> int:
        """Put back in play what was in flight when the last owner of this store died."""
        now, margin = self._clock.now(), self._config.lease_margin_ms
        count = await self.broker.database.write(
            lambda session: settling.recover(
                session, node=self.boot_id, lease_margin_ms=margin, now=now, callbacks=self._callbacks
            )
        )
        if count:
            log.warning("recovered deliveries of an earlier life", extra={"count": count})
        return count

    async def start(self) -> None:
        """Recover and begin to dispatch."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.broker.database.join, self.boot_id, self._others_died)
        await self.recover()
        if (telemetry := find_telemetry()) is not None:
            telemetry.attach(self.broker)
        self.listen()
        self._claiming = asyncio.create_task(self.dispatcher.run(), name="qtasks-claiming")
        self._others = [
            asyncio.create_task(self.dispatcher.settle_forever(), name="qtasks-settling"),
            asyncio.create_task(self.scheduler.run(), name="qtasks-scheduler"),
            asyncio.create_task(self.janitor.run(), name="qtasks-janitor"),
        ]
        if self.broker.database.is_shared:
            self._others.append(asyncio.create_task(self._heed_others(), name="qtasks-heeding"))
        if self.relay is not None:
            self._others.append(asyncio.create_task(self.relay.run(), name="qtasks-relay"))
        if self.broker.room is not None:
            self._others.append(asyncio.create_task(self.broker.room.run(), name="qtasks-room"))

    def listen(self) -> None:
        """Hear on this loop of what is called off while it is in flight, from whatever thread."""
        loop = asyncio.get_running_loop()

        def begin(seqs: Sequence[int]) -> None:
            dropping = loop.create_task(self.dispatcher.drop(frozenset(seqs)))
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)

        def drop(seqs: Sequence[int]) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nothing is in flight any more
                loop.call_soon_threadsafe(begin, seqs)

        self.broker.drop = drop

    async def heed(self) -> None:
        """Break off what another node was asked to call off and this one has in flight."""
        database = self.broker.database
        await self.dispatcher.drop(
            await database.read(lambda session: cancelling.called_off(session, self.boot_id))
        )

    async def _heed_others(self) -> None:
        while True:
            await self._clock.sleep(HEED_MS)
            try:
                await self.heed()
            except BrokerError as error:
                log.warning("cannot look what was called off", extra={"reason": str(error)})

    def _others_died(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: this node has ended too
            self._loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        """Put back in play what nodes that have died had in flight (promise P07)."""
        task = asyncio.ensure_future(self._recover_quietly())
        self._takeovers.add(task)
        task.add_done_callback(self._takeovers.discard)

    async def _recover_quietly(self) -> None:
        """Recover, however long that takes: the dead are reported once, to one node."""
        while True:
            try:
                await self.recover()
                return
            except StoreError as error:
                log.error("cannot take over from a node that has died yet", extra={"reason": str(error)})
                await self._clock.sleep(TAKEOVER_PAUSE_MS)
            except BrokerError as error:
                log.error("cannot take over from a node that has died", extra={"reason": str(error)})
                return

    async def stop(self, grace_ms: int | None = None) -> int:
        """Stop claiming, let deliveries finish for up to `grace_ms`, hand back the rest (promise P17).

        Gives the number handed back.
        """
        self.dispatcher.stop_claiming()
        if self._claiming is not None:
            await self._claiming
        try:
            return await self.dispatcher.drain(self._config.grace_ms if grace_ms is None else grace_ms)
        except BrokerError:
            return 0  # a store that has failed or is full takes nothing back; the next owner recovers
        finally:
            others = [*self._others, *self._takeovers]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            with suppress(BrokerError):  # it does not answer: others will find this node dead
                await asyncio.to_thread(self.broker.database.leave)
            await self._deliverer.close()
            if (telemetry := find_telemetry()) is not None:
                telemetry.detach(self.broker)
