"""A simulation of nodes that share a store, in virtual time: what befalls them is drawn from a seed.

Clients send, destinations answer as they like, nodes die, stop and lose their store. Then everything comes
up again, and what there is must be what was promised.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtasks.broker.store.database import Session
from qtasks.broker.store.records import Claim, Reply
from qtasks.clock import ManualClock
from qtasks.errors import BrokerError, NotFound
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing
from tests.support.simulation_checks import contradictions
from tests.support.simulation_ledger import SKEW_MS, Accepted, Ledger, Limits
from tests.support.simulation_node import BUSY, REFUSED, TIMED_OUT, Life, Plan, tag_tasks
from tests.support.simulation_store import Store
from tests.support.store import Verbs
from tests.support.virtual_time import VirtualClock, run_virtually

HOOK = "http://127.0.0.1:9/hook"
TIMEOUTS_MS = (4000, 4000, 20_000)
BEAT_MS = 1000
LIFE_MS = 7000
ACTIONS = 60
QUIET_S = 240
TASKS_KEPT_MS = 86_400_000
LIMITS = {
    "line": Limits(1, ordered=True),
    "file": Limits(1, ordered=True),
    "wide": Limits(3),
    "calls": Limits(parallelism=2),
    "rated": Limits(rate=3, period_ms=2000),
}
FLOWS = {
    "calls": FlowSpec("calls", parallelism=2),
    "rated": FlowSpec("rated", rate=3, period_ms=2000),
}
QUEUES = {
    "line": QueueSpec(1, ordered=True),
    "file": QueueSpec(1, ordered=True),
    "wide": QueueSpec(3, ordered=False),
}
PLACES = ("line", "file", "wide", "wide", "calls", "rated", "", "")


@dataclass(frozen=True, slots=True)
class Found:
    """What a simulation came to."""

    faults: tuple[str, ...]
    accepted: int
    attempts: int
    repeats: int
    story: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.accepted} accepted, {self.attempts} attempts, {self.repeats} of them explained repeats"


def simulate(seed: int, store: Store) -> Found:
    """Let the seed's fate befall nodes on an empty store; give what was wrong, if anything."""
    return run_virtually(_World(seed, store).run())


class _World:
    """All there is in one simulation."""

    def __init__(self, seed: int, store: Store) -> None:
        self._rng = random.Random(seed)
        self._store = store
        self._clock = VirtualClock()
        self._skew_ms = SKEW_MS if self._rng.random() < 0.5 else 0
        self._ledger = Ledger(LIMITS, self._is_over, is_skewed=self._skew_ms > 0)
        self._lives: list[Life] = []
        self._gone: list[Life] = []
        """Who died and has not been struck off."""
        self._is_calm = False
        self._keys = 0
        self._births = 0
        self._errands: set[asyncio.Task[None]] = set()
        self._story: list[str] = []

    async def run(self) -> Found:
        """Live through it."""
        tag_tasks(asyncio.get_running_loop())
        for _ in range(self._rng.randint(1, self._store.nodes)):
            await self._bear()
        hearts = asyncio.create_task(self._beat_forever())
        for _ in range(ACTIONS):
            await asyncio.sleep(self._rng.choice((0, 1, 20, 100, 300, 800)) / 1000)
            self._act()
        await self._calm_down()
        await self._come_to_rest()
        hearts.cancel()
        verbs = Verbs(self._store.observer(), ManualClock(self._clock.now()))
        self._ledger.faults.extend(contradictions(verbs, self._ledger))
        self._ledger.faults.extend(self._store.contradictions())
        for life in self._lives:
            await life.die()
        attempts = sum(map(len, self._ledger.attempts.values()))
        faults = tuple(self._ledger.faults)
        return Found(faults, len(self._ledger.accepted), attempts, self._ledger.repeats, tuple(self._story))

    def _tell(self, what: str) -> None:
        self._story.append(f"{self._clock.monotonic():>7} ms  {what}")

    def _act(self) -> None:
        actions: list[tuple[int, Callable[[], None]]] = [
            (50, self._send),
            (5, self._send_again),
            (5, self._cancel),
            (4, self._pause_queue),
            (3, self._kill),
            (2, self._retire),
            (3, self._stop_for_a_while),
            (3, self._cut_off),
            (1, self._cut_all_off),
            (6, self._lose_calls),
            (3, self._set_a_clock),
        ]
        weights, choices = zip(*actions, strict=True)
        self._rng.choices(choices, weights)[0]()

    def _start(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and errand.exception() is not None:
            self._ledger.faults.append(f"the simulation itself broke: {errand.exception()!r}")

    # Clients

    def _send(self) -> None:
        for _ in range(self._rng.choice((1, 1, 1, 3))):
            key, place = f"m{self._keys}", self._rng.choice(PLACES)
            self._keys += 1
            options = Options(
                timeout_ms=self._rng.choice(TIMEOUTS_MS),
                retries=self._rng.choice((0, 1, 3, 3)),
                retry_delay=str(self._rng.choice((0, 300, 2000))),
                dedup_id=key,
                task_id=f"task-{key}" if self._rng.random() < 0.5 else None,
                result_ttl_ms=TASKS_KEPT_MS,
                queue=QUEUES.get(place),
                flow=FLOWS.get(place),
                delay_ms=self._rng.choice((None, None, 500, 4000)) if place not in QUEUES else None,
            )
            outgoing = Outgoing(HOOK, key.encode(), options, place if place in QUEUES else None)
            if place in ("line", "file"):
                self._ledger.sent(
                    key, [one.id for one in self._ledger.accepted.values() if one.place == place]
                )
            self._start(self._send_until_accepted(key, place, outgoing))

    async def _send_until_accepted(self, key: str, place: str, outgoing: Outgoing) -> None:
        while True:
            life = self._some_life()
            if life is not None:
                try:
                    [answer] = life.do(partial(life.broker.accept, [outgoing]))
                    break
                except BrokerError:
                    pass
            await asyncio.sleep(0.25)
        options = outgoing.options
        known = self._ledger.accepted.setdefault(
            key, Accepted(answer.message_id, place, options.retries or 0, options.task_id)
        )
        if known.id != answer.message_id:
            self._ledger.faults.append(f"{key} is {known.id} and also {answer.message_id}")

    def _send_again(self) -> None:
        if self._ledger.accepted:
            key, known = self._rng.choice(sorted(self._ledger.accepted.items()))
            options = Options(dedup_id=key, queue=QUEUES.get(known.place), flow=FLOWS.get(known.place))
            again = Outgoing(HOOK, key.encode(), options, known.place if known.place in QUEUES else None)
            self._start(self._send_until_accepted(key, known.place, again))

    def _cancel(self) -> None:
        life = self._some_life()
        if life is None or not self._ledger.accepted:
            return
        _, known = self._rng.choice(sorted(self._ledger.accepted.items()))
        known.was_cancelled = True
        try:
            life.do(partial(life.broker.cancel, [known.id]))
        except BrokerError:
            return

    def _pause_queue(self) -> None:
        self._start(self._pause_queue_for(self._rng.choice(("line", "wide")), self._rng.randint(100, 5000)))

    async def _pause_queue_for(self, name: str, ms: int) -> None:
        for is_paused in (True, False):
            await self._set_paused(name, is_paused)
            await asyncio.sleep(ms / 1000)

    async def _set_paused(self, name: str, is_paused: bool) -> None:
        while True:
            life = self._some_life()
            if life is not None:
                try:
                    life.broker.set_paused(name, is_paused)
                    return
                except NotFound:  # nobody has sent anything to it
                    return
                except BrokerError:
                    pass
            await asyncio.sleep(0.1)

    def _some_life(self) -> Life | None:
        ready = [each for each in self._lives if each.is_up and each.weather.awake.is_set()]
        return self._rng.choice(ready) if ready else None

    # Destinations

    def _plan(self, claim: Claim) -> Plan:
        takes_ms = self._rng.choice((0, 1, 10, 100, 400, 1500, claim.timeout_ms - 1000))
        if self._is_calm:
            return Plan(takes_ms, Reply(200), succeeds=True)
        draw = self._rng.random()
        if draw < 0.6:
            return Plan(takes_ms, Reply(200), succeeds=True)
        if draw < 0.75:
            return Plan(takes_ms, Reply(500))
        if draw < 0.8:
            return Plan(takes_ms, BUSY)
        if draw < 0.83:
            return Plan(takes_ms, REFUSED)
        if draw < 0.93:
            return Plan(takes_ms, Reply(0, error="connection reset"), succeeds=True, is_lost=True)
        return Plan(claim.timeout_ms, TIMED_OUT, succeeds=draw < 0.97, is_lost=True)

    # What befalls nodes

    async def _bear(self) -> None:
        while True:
            self._births += 1
            life = Life(
                f"node{self._births}", self._store, self._ledger, self._plan, rng=self._rng, tell=self._spread
            )
            self._lives.append(life)
            self._tell(f"{life.fate.name} starts")
            try:
                await life.start()
                return
            except BrokerError as error:  # a supervisor tries again
                self._tell(f"{life.fate.name} cannot start: {error}")
                await self._bury(life)
                await asyncio.sleep(1)

    def _spread(self) -> None:
        for life in self._lives:
            if life.is_up:
                life.database.hear()

    def _pick(self) -> Life | None:
        up = [each for each in self._lives if each.is_up]
        return self._rng.choice(up) if up else None

    def _kill(self) -> None:
        life = self._pick()
        if life is not None and not life.is_ending:
            self._start(self._kill_and_replace(life, self._rng.choice((0, 500, 3000, 12_000))))

    async def _kill_and_replace(self, life: Life, after_ms: int) -> None:
        self._tell(f"{life.fate.name} is killed")
        await self._bury(life)
        await asyncio.sleep(after_ms / 1000)
        await self._bear()

    def _retire(self) -> None:
        life = self._pick()
        if life is not None and not life.is_ending:
            self._start(self._retire_and_replace(life, self._rng.choice((0, 300, 5000))))

    async def _retire_and_replace(self, life: Life, grace_ms: int) -> None:
        self._tell(f"{life.fate.name} is told to end in {grace_ms} ms")
        await life.stop(grace_ms)
        if life in self._lives:  # nobody killed it meanwhile
            await self._bury(life)
            await self._bear()

    async def _bury(self, life: Life) -> None:
        self._tell(f"{life.fate.name} has ended")
        self._lives.remove(life)
        self._gone.append(life)
        await life.die()

    def _stop_for_a_while(self) -> None:
        life = self._pick()
        if life is not None and life.weather.awake.is_set():
            self._start(self._stop(life, self._rng.choice((300, 3000, 9000, 15_000))))

    async def _stop(self, life: Life, ms: int) -> None:
        self._tell(f"{life.fate.name} is stopped for {ms} ms")
        life.weather.awake.clear()
        await asyncio.sleep(ms / 1000)
        life.weather.awake.set()

    def _cut_off(self) -> None:
        life = self._pick()
        if life is not None:
            self._start(self._cut([life], self._rng.choice((300, 3000, 9000, 15_000))))

    def _cut_all_off(self) -> None:
        self._start(self._cut(self._lives, self._rng.choice((300, 3000, 9000))))

    async def _cut(self, lives: list[Life], ms: int) -> None:
        lives = list(lives)
        self._tell(f"{[each.fate.name for each in lives]} lose their store for {ms} ms")
        for life in lives:
            life.weather.is_cut = True
        await asyncio.sleep(ms / 1000)
        for life in lives:
            life.weather.is_cut = False

    def _lose_calls(self) -> None:
        life = self._pick()
        if life is not None:
            self._start(self._lose(life, self._rng.choice((0.1, 0.3, 0.8)), self._rng.randint(100, 4000)))

    async def _lose(self, life: Life, loss: float, ms: int) -> None:
        self._tell(f"{life.fate.name} loses {loss:.0%} of its calls for {ms} ms")
        life.weather.loss = loss
        await asyncio.sleep(ms / 1000)
        life.weather.loss = 0.0

    def _set_a_clock(self) -> None:
        """Set a wall clock that was right, or right one that was wrong."""
        life = self._pick()
        if life is not None:
            skew_ms = self._rng.randint(-self._skew_ms, self._skew_ms)
            self._tell(f"the clock of {life.fate.name} is wrong by {skew_ms} ms")
            life.clock.skew_ms = skew_ms

    # Life and death as others see it

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(BEAT_MS / 1000)
            self._beat()

    def _beat(self) -> None:
        now = self._clock.monotonic()
        beating = [
            each
            for each in self._lives
            if each.is_up and each.weather.awake.is_set() and not each.weather.is_cut
        ]
        for life in beating:
            life.seen_at = now
        everybody = [*self._lives, *self._gone]
        silent = {each.node.boot_id: now - each.seen_at >= LIFE_MS for each in everybody}
        self._store.age(silent)
        for life in beating:
            life.do(partial(self._store.beat, life.database.inner))
        if beating:
            for life in everybody:
                if silent[life.node.boot_id]:
                    life.fate.struck_at.append(now)
                    self._gone = [each for each in self._gone if each is not life]

    # The end

    async def _calm_down(self) -> None:
        """Let everything come up again, and destinations answer."""
        self._tell("calm")
        self._is_calm = True
        async with asyncio.timeout(QUIET_S):
            while self._errands:
                await asyncio.wait(set(self._errands))

    async def _come_to_rest(self) -> None:
        left = [each.id for each in self._ledger.accepted.values()]
        for _ in range(QUIET_S):
            left = self._pending(left)
            if not left:
                return
            await asyncio.sleep(1)

    def _is_over(self, message_id: str) -> bool:
        return not self._pending([message_id])

    def _pending(self, ids: Sequence[str]) -> list[str]:
        def look(session: Session) -> list[str]:
            return [each for each in ids if session.one("pending_of_message", {"id": each})]

        return self._store.observer().look(look)
