"""The loop that claims what is due, has it delivered, and settles what came of it.

Leases are committed before a byte leaves. Replies that come while a settlement is being committed
share the next one. `step` and `settle` are the loop's two halves, for tests with a hand-moved clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from qtasks.broker.callbacks import CallbacksOf
from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Deliverer
from qtasks.broker.endings import facts, is_final, tell
from qtasks.broker.in_flight import InFlight, large_bytes
from qtasks.broker.judging import Judging
from qtasks.broker.looks import Looks
from qtasks.broker.metrics import Metrics
from qtasks.broker.room import Room
from qtasks.broker.slots import STILL_MS, Slots
from qtasks.broker.store import claiming, messages, settling
from qtasks.broker.store.arrivals import Arrival
from qtasks.broker.store.changes import Errand
from qtasks.broker.store.database import FEW, FEW_BYTES, Database, Session
from qtasks.broker.store.records import NOTHING, Again, Claim, Claimed, Lease, Reply, Settlement
from qtasks.broker.waiters import Waiters
from qtasks.clock import Clock
from qtasks.errors import BrokerError, BrokerFailed, StoreError, StoreFull
from qtasks.ids import Ids

log = logging.getLogger("qtasks.dispatcher")

LONGEST_WAIT_MS = 1000  # then look again: the wall clock may have been set
STORE_PAUSE_MS = 500
CLOCK_STEP_MS = 2000  # smaller ones are NTP's daily bread
ALONE_MS = 500
HAND_BACK = Reply(0, error="handed back: the broker is shutting down")


class Dispatcher:
    """Delivers what the store holds. `node` names this life of the process; leases bear it."""

    def __init__(
        self,
        database: Database,
        deliverer: Deliverer,
        config: BrokerConfig,
        *,
        node: str,
        app: str | None,
        clock: Clock,
        ids: Ids,
        waiters: Waiters,
        callbacks: CallbacksOf = lambda settlement: (),
        room: Room | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._deliverer = deliverer
        self._config = config
        self._node = node
        self._app = app
        self._clock = clock
        self._finished = waiters.finish
        self._judging = Judging(config, ids, callbacks)
        self._room = room
        self._metrics = metrics or Metrics()
        self.slots = Slots(deliverer, config.concurrency, clock=clock, fraction=ids.fraction)
        self._looked_at: int | None = None
        self._in_flight = InFlight(waiters)
        self._is_unsure = False
        """Whether a claim may have been committed whose answer was lost, so that nobody carries it."""
        self._alone_since: dict[Lease, int] = {}
        self._wall_offset = clock.now() - clock.monotonic()
        self._answers: list[tuple[Claim, Reply]] = []
        self._verdicts: dict[Lease, Settlement] = {}
        """What is being recorded: a stop that can wait no longer does not hand it back."""
        self._answered = asyncio.Event()
        self._looks = Looks()
        self._carriers: set[asyncio.Task[None]] = set()
        self._claim_lock = asyncio.Lock()  # two claims at once would count the same free slots
        self._errand: Errand[Claimed | None] | None = None
        """A claim that others may make for it, while it waits for work."""
        self._stopping = asyncio.Event()
        self.is_held = False
        self._hurried = False
        self._drained_by: int | None = None

    @property
    def in_flight(self) -> int:
        """How many deliveries are claimed and not yet settled."""
        return len(self._in_flight)

    @property
    def idle_ms(self) -> int | None:
        """How long ago it last looked for work; None if it has not yet."""
        return None if self._looked_at is None else self._clock.monotonic() - self._looked_at

    async def step(self) -> Claimed:
        """Claim what is due, up to the free slots, and start its delivery."""
        self._looked_at = self._clock.monotonic()
        async with self._claim_lock:
            if self.slots.window <= len(self._in_flight) or self._may_not_claim:
                return NOTHING
            await self._follow_the_wall(self._clock.now())
            try:
                with self._metrics.timed("claim"):
                    claimed = await self._database.write(self._claim_of(len(self._in_flight)))
            except BrokerError:
                self._is_unsure = True
                raise
            self._is_unsure = False
            self._start(claimed)
        return claimed

    @property
    def _may_not_claim(self) -> bool:
        """Whether nothing more may begin. Room that is spent is for the ends of what has begun."""
        is_spent = self._room is not None and self._room.is_spent
        return self.is_held or is_spent or self._stopping.is_set()

    def hold(self, is_held: bool) -> None:
        """Begin no delivery, of whatever queue, or begin them again; what is in flight goes on."""
        self.is_held = is_held
        self._looks.ask()

    def _claim_of(self, in_hand: int, freed_bytes: int = 0, *, is_small: bool = False) -> claiming.Claiming:
        claim = self._leasing(in_hand, freed_bytes, is_small=is_small)
        if not self._is_unsure:
            return claim
        known = self._in_flight.leases

        def give_back_and_claim(session: Session) -> Claimed:
            settling.give_back_unknown(session, self._node, known, self._clock.now())
            return claim(session)

        return give_back_and_claim

    def _leasing(self, in_hand: int, freed_bytes: int = 0, *, is_small: bool = False) -> partial[Claimed]:
        held = self.slots.held(len(self._in_flight))
        admission = self.slots.admission(in_hand)
        return partial(
            claiming.claim,
            node=self._node,
            app=self._app,
            slots=min(admission.most, FEW) if is_small else admission.most,
            admit=admission.admit,
            alone_is_free=self._alone_for_ms() is None,
            lease_margin_ms=self._config.lease_margin_ms,
            now=self._clock.now(),
            large_bytes=self._config.in_flight_bytes - self._in_flight.large_bytes + freed_bytes,
            has_others=self._database.is_shared,
            held=held,
            first=self.slots.standings.next_queues(held),
        )

    async def _follow_the_wall(self, now: int) -> None:
        """Keep the backoff of retries what it is when somebody sets the wall clock (promise P16).

        One of several nodes leaves them alone: its clock is not that of the others, and a machine that was
        suspended would have the retries of all wait as long.
        """
        offset = now - self._clock.monotonic()
        step = offset - self._wall_offset
        if abs(step) >= CLOCK_STEP_MS:
            log.warning("the wall clock was set", extra={"step_ms": step})
            if not self._database.is_shared:
                await self._database.write(lambda session: messages.shift_retries(session, step))
            self._wall_offset = offset

    def _alone_for_ms(self) -> int | None:
        """Say for how long the message that runs alone still does; None if no message does.

        What was in flight at crash after crash may have caused them. So it runs alone at first, but
        not for as long as it takes: hours may be nothing unusual.
        """
        now = self._clock.monotonic()
        left = [
            since + ALONE_MS - now for lease, since in self._alone_since.items() if lease in self._in_flight
        ]
        return max((each for each in left if each > 0), default=None)

    def _start(self, claimed: Claimed) -> None:
        claims = claimed.claims
        if claimed.ended:
            self._finished(claimed.ended)
        self._in_flight.add(claims)
        self.slots.standings.claimed(claimed)
        self._alone_since.update((each.lease, self._clock.monotonic()) for each in claims if each.is_suspect)
        for part in self._deliverer.part(claims):
            carrier = asyncio.create_task(self._carry(part))
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carriers.discard)

    async def _carry(self, claims: Sequence[Claim]) -> None:
        left = {each.seq: each for each in claims}
        try:
            async for answers in self._deliverer.deliver(claims):
                for claim, reply in answers:
                    if left.get(claim.seq) is claim:
                        del left[claim.seq]
                        self._answer(claim, reply)
        except Exception as error:  # a wall: one destination's surprise must not stop the others
            log.exception("delivery broke", extra={"message_ids": [each.id for each in left.values()]})
            lost = Reply(0, error=f"{type(error).__name__}: {error}")
        else:
            lost = Reply(0, error="the delivery ended without a reply")
        for claim in left.values():
            self._answer(claim, lost)

    def _answer(self, claim: Claim, reply: Reply) -> None:
        if claim.app is None:
            self.slots.standings.end(claim, reply)
        if self._database.failure is not None:
            self._forget(claim)
        elif claim.lease in self._in_flight:  # not handed back meanwhile
            self._answers.append((claim, reply))
            self._answered.set()

    async def drop(self, seqs: Collection[int]) -> None:
        """Break off deliveries that were called off, as far as they are in flight here."""
        await self._take_up()  # a claim that has been committed is begun before this goes on
        await asyncio.sleep(0)  # and its carrier has begun as well
        for claim in [each for each in self._in_flight if each.seq in seqs]:
            self._deliverer.drop(claim)

    async def settle(self) -> int:
        """Record what became of the deliveries that have answered; say how many there were."""
        settlements = self._take_answers()
        if settlements:
            await self._record(settlements)
        return len(settlements)

    async def settle_and_claim(self) -> None:
        """Do what `settle` does and fill the slots that it frees, in one transaction and one fsync."""
        settlements = self._take_answers()
        if self._claim_lock.locked() or self._may_not_claim or not self._has_withdrawn():
            await self._record(settlements)
            return
        async with self._claim_lock:
            await self._record(settlements, then_claim=True)

    def _take_answers(self) -> list[Settlement]:
        self._answered.clear()
        answers, self._answers = self._answers, []
        now = self._clock.now()
        return [self._judging.judged(claim, reply, now) for claim, reply in answers]

    async def _record(self, settlements: Sequence[Settlement], *, then_claim: bool = False) -> None:
        """Commit; a store that is full or busy for a while loses no verdict."""
        self._verdicts.update((each.claim.lease, each) for each in settlements)
        is_small = len(settlements) <= FEW and sum(len(each.reply.body) for each in settlements) <= FEW_BYTES
        alone = partial(_settle_and_claim, settlements=settlements, claim=lambda session: NOTHING)
        work = alone
        if then_claim:  # never without the lock: what is claimed just now would seem to be carried by nobody
            self._looked_at = self._clock.monotonic()
            for each in settlements:  # the next suspect may begin: nobody else claims before this is recorded
                self._alone_since.pop(each.claim.lease, None)
            left = len(self._in_flight) - len(settlements)
            self.slots.freed(left)
            freed_bytes = sum(large_bytes(each.claim) for each in settlements)
            claim_too = self._claim_of(left, freed_bytes, is_small=is_small)
            work = partial(_settle_and_claim, settlements=settlements, claim=claim_too)
        while True:
            try:
                with self._metrics.timed("settle"):
                    recorded, claimed = await self._database.write(work, is_small=is_small)
                break
            except StoreFull as error:
                work = alone
                if self._room is None or not self._room.release():
                    await self._wait_for_store(error)
            except StoreError as error:
                if then_claim:  # what was claimed may be, and what was settled as well
                    self._is_unsure = True
                    work = alone
                await self._wait_for_store(error)
            except BrokerError:
                for each in settlements:
                    self._forget(each.claim)
                raise
            except Exception:  # a wall: one verdict that cannot be recorded must not hold up the others
                if len(settlements) > 1:
                    for each in settlements:
                        await self._record([each])
                    return
                log.exception("cannot record a delivery", extra=facts(settlements[0]))
                recorded, claimed = [], NOTHING  # its lease stays, and is recovered at the next start
                break
        self._in_flight.end([each.claim for each in settlements])
        for each in settlements:
            self._verdicts.pop(each.claim.lease, None)
            self._alone_since.pop(each.claim.lease, None)
        self._start(claimed)
        self.slots.freed(len(self._in_flight))
        if len(self._in_flight) < self.slots.window or not all(map(is_final, recorded)):
            # There are slots left, or a new instant to wait for.
            self._looks.ask(claimed)
        self._finished([each.claim.task_id for each in recorded if is_final(each) and each.claim.task_id])
        self._metrics.settled(recorded)
        for each in recorded:
            tell(each)

    async def _wait_for_store(self, error: StoreError) -> None:
        """Wait before a verdict is recorded again; raises `error` if a stop can wait no longer."""
        is_late = self._drained_by is not None and self._clock.monotonic() >= self._drained_by
        if is_late or self._hurried:
            raise error  # what cannot be recorded now is recovered by the next life
        log.error("cannot record deliveries yet", extra={"reason": str(error)})
        await self._clock.sleep(STORE_PAUSE_MS)

    async def idle(self) -> None:
        """Settle until nothing is in flight: for tests, which run no `settle_forever` beside it."""
        while self._in_flight:
            await self._answered.wait()
            await self.settle()

    async def run(self) -> None:
        """Claim until `stop_claiming`; `settle_forever` runs beside it."""
        while not self._stopping.is_set():
            await self._turn()

    async def _turn(self) -> None:
        self._looks.take()  # this looks anew
        try:
            claimed = await self.step()
        except BrokerFailed as error:
            self._give_up(error)
            return
        except BrokerError as error:
            log.error("cannot claim", extra={"reason": str(error)})
            await self._first(self._clock.sleep(STORE_PAUSE_MS))
            return
        following: Claimed | None = claimed
        while following is not None:
            following = await self._idle(following)

    async def _idle(self, claimed: Claimed) -> Claimed | None:
        """Wait until there is something to claim, or to give what was claimed for us meanwhile."""
        if self._stopping.is_set():
            return None
        if len(self._in_flight) >= self.slots.window:
            await self._until_freed()
            return self._looks.take()
        if not claimed.is_all and (claimed.claims or claimed.ended):
            return None
        if not self._is_unsure and self.slots.held(len(self._in_flight)) is None:
            begin = partial(self._begin_along, loop=asyncio.get_running_loop())
            self._errand = Errand(self._claim_along(), begin)
        wait_ms = self._wait_ms(claimed.next_due_at)
        has_news = await self._database.changed(wait_ms, self._errand, self._looks.asked)
        along = await self._take_up()
        if along is not None:
            self._looks.ignore_news()
        return along if along is not None or has_news else self._looks.take()

    def _claim_along(self) -> Callable[[Session, Arrival | None], Claimed | None]:
        """Make the claim for whoever brings work: one transaction and one fsync less before it starts."""
        leasing, offset = self._leasing(len(self._in_flight)), self._wall_offset

        def claim_along(session: Session, arrival: Arrival | None) -> Claimed | None:
            now = self._clock.now()
            is_set = abs(now - self._clock.monotonic() - offset) >= CLOCK_STEP_MS
            return None if is_set or self._may_not_claim else leasing(session, now=now, arrival=arrival)

        return claim_along

    def _begin_along(self, claimed: Claimed | None, loop: asyncio.AbstractEventLoop) -> None:
        """Begin what was claimed for us, on the thread that did so: this loop need not be awake for it."""
        if claimed is not None and claimed.claims:
            self._in_flight.expect(claimed.claims)
            self._deliverer.begin_early(claimed.claims, loop)

    def _has_withdrawn(self) -> bool:
        """Have nobody claim along any more; False if somebody is at it."""
        return self._errand is None or self._errand.withdraw()

    async def _take_up(self) -> Claimed | None:
        """Begin what was claimed along; nobody does so any more after that."""
        async with self._claim_lock:
            errand, self._errand = self._errand, None
            if errand is None or errand.withdraw():
                return None
            self._looked_at = self._clock.monotonic()
            try:
                claimed = await errand.outcome()
            except Exception:  # it may have been committed; the next claim finds out, and says what is wrong
                self._is_unsure = True
                return None
            if claimed is not None:
                self._start(claimed)
            if errand.is_outdated:  # more has come with it
                self._looks.ask()
            return claimed

    async def _until_freed(self) -> None:
        if not self.slots.may_open:
            await self._first(self._looks.asked.wait())
            return
        await self._first(self._looks.asked.wait(), self._clock.sleep(STILL_MS))
        self.slots.look(len(self._in_flight))

    def _wait_ms(self, next_due_at: int | None) -> int:
        until_due = LONGEST_WAIT_MS if next_due_at is None else max(0, next_due_at - self._clock.now())
        return min(LONGEST_WAIT_MS, until_due, self._alone_for_ms() or LONGEST_WAIT_MS)

    async def _first(self, *waits: Coroutine[Any, Any, Any]) -> None:
        """Wait until one of the waits, or the stop, has come."""
        tasks = [asyncio.ensure_future(each) for each in (*waits, self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def settle_forever(self) -> None:
        """Settle whatever answers, until cancelled or until the store fails for good."""
        while True:
            await self._answered.wait()
            try:
                await self.settle_and_claim()
            except StoreError:  # a stop could wait no longer
                return
            except BrokerError as error:
                self._give_up(error)
                return

    def _give_up(self, error: BrokerError) -> None:
        """Stop for good: nothing that is done now could be recorded (promise P04)."""
        log.critical("the store failed; nothing more is delivered", extra={"reason": str(error)})
        self.stop_claiming()
        answers, self._answers = self._answers, []
        for claim, _ in answers:
            self._forget(claim)

    def _forget(self, claim: Claim) -> None:
        """Wait no more for what has ended and cannot be recorded: its lease is recovered by the next life."""
        self._in_flight.end([claim])
        self._looks.ask()

    def stop_claiming(self) -> None:
        """Start nothing more; what is in flight goes on."""
        self._stopping.set()
        self._looks.ask()

    async def drain(self, grace_ms: int) -> int:
        """Let deliveries in flight finish for up to `grace_ms`, hand back the rest; say how many."""
        self.stop_claiming()
        self._drained_by = until = self._clock.monotonic() + grace_ms
        while self._in_flight and not self._hurried and (left := until - self._clock.monotonic()) > 0:
            self._looks.take()
            tasks = [
                asyncio.ensure_future(self._looks.asked.wait()),
                asyncio.ensure_future(self._clock.sleep(left)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        await self.settle()  # what has answered in time is no matter of the grace
        return await self._hand_back()

    def hurry(self) -> None:
        """End a drain now: what is still in flight is handed back."""
        self._hurried = True
        self._looks.ask()

    async def _hand_back(self) -> int:
        """Give up the leases that are left, without spending their attempts (promise P17)."""
        claims = list(self._in_flight)
        for carrier in list(self._carriers):
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)
        if not claims:
            return 0
        ended = self._verdicts | {each.claim.lease: each for each in self._take_answers()}
        back = [self._handed_back(each) for each in claims if each.lease not in ended]
        await self._record([*back, *(ended[each.lease] for each in claims if each.lease in ended)])
        return len(back)

    def _handed_back(self, claim: Claim) -> Settlement:
        ended_at = max(self._clock.now(), claim.started_at)
        return Settlement(claim, HAND_BACK, Again(None, counted=False), ended_at=ended_at)


def _settle_and_claim(
    session: Session, settlements: Sequence[Settlement], claim: claiming.Claiming
) -> tuple[list[Settlement], Claimed]:
    recorded = settling.settle(session, settlements)
    return recorded, claim(session)
