"""Where each destination stands with this node: what it is handed, how it answers, and what that teaches.

Destinations are told apart by scheme, host and port. Only those with attempts in flight and those that are
held back are remembered; what runs in this process is none. The policy is in `adapting.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import islice
from operator import itemgetter

from qtasks.broker import adapting
from qtasks.broker.adapting import FREE, Standing
from qtasks.broker.addresses import read_endpoint
from qtasks.broker.retry import UNCOUNTED
from qtasks.broker.store.holding import Held
from qtasks.broker.store.records import Claim, Claimed, Lease, Reply, Trouble
from qtasks.clock import Clock
from qtasks.errors import BadRequest
from qtasks.protocol.hints import retry_hint_ms

log = logging.getLogger("qtasks.delivery")

REFUSALS = (429, 502, 503)
CROWDED = ("full", "draining")
"""The reasons of our webhook that are about its process and not about the message."""
OUTCOME = b'{"error":{"type":'
"""How an app answers for a task that failed or is to be tried again: that is about the task alone."""
UNREADABLE = "(unreadable)"
MOST_HELD_BACK = 1000
MOST_SHOWN = 20
MOST_WAITING = 1000
MOST_AT_ONCE = 64
PUT_BACK_MS = 100


@lru_cache(4096)
def place_of(url: str) -> str:
    """Name the destination of a URL: scheme, host and port."""
    try:
        return read_endpoint(url).origin
    except BadRequest:
        return UNREADABLE


def is_refusal(claim: Claim, reply: Reply) -> bool:
    """Say whether a destination had no room for an attempt, or nobody to make it."""
    if reply.status not in REFUSALS:
        return False
    if claim.task_id is None:
        return True
    reason = next((value for name, value in reply.headers if name.lower() == UNCOUNTED), None)
    return reason in CROWDED or (reason is None and not reply.body.startswith(OUTCOME))


class _Place:
    """One destination."""

    __slots__ = ("answered_at", "in_flight", "name", "old", "standing")

    def __init__(self, name: str) -> None:
        self.name = name
        self.standing = FREE
        self.in_flight = 0
        """Of this era."""
        self.old = 0
        """In flight since before: they may never be answered."""
        self.answered_at = -1


Begun = tuple[_Place, Standing, int, int]
"""An attempt: its destination, how that stood, how many were in flight there, and when."""


class Standings:
    """Is told of each attempt that begins and ends; says what may begin. Not for other threads.

    `fraction` draws from 0 up to 1; `most` says how many attempts the node makes at once.
    """

    def __init__(self, clock: Clock, *, fraction: Callable[[], float], most: Callable[[], int]) -> None:
        self._clock = clock
        self._fraction = fraction
        self._most = most
        self._places: dict[str, _Place] = {}
        self._held_back: dict[str, _Place] = {}
        self._begun: dict[Lease, Begun] = {}
        self._waiting: dict[str, dict[int, None]] = {}
        """By destination, the queues that wait for it, the longest waiting first."""
        self._asked: list[tuple[int, str]] = []
        """Which of them the claim under way lets go on."""
        self._put_back_at = -PUT_BACK_MS

    def begin(self, claims: Iterable[Claim]) -> None:
        """Note that attempts begin."""
        now = self._clock.monotonic()
        for claim in claims:
            if claim.app is None:
                name = place_of(claim.url)
                place = self._places.get(name)
                if place is None:
                    place = self._places[name] = _Place(name)
                place.in_flight += 1
                self._begun[claim.lease] = (place, place.standing, place.in_flight, now)

    def end(self, claim: Claim, reply: Reply) -> None:
        """Learn from how an attempt ended."""
        begun = self._begun.pop(claim.lease, None)
        if begun is None:
            return
        place, then, crowd, _ = begun
        before, now = place.standing, self._clock.monotonic()
        if then.era == before.era:
            after = self._judge(claim, reply, begun, max(place.in_flight, crowd), now)
            place.in_flight -= 1
        else:
            after = self._judge(claim, reply, begun, place.in_flight, now)
            place.old -= 1
        if after is not before:
            self._change(place, after, reply)
        if not place.in_flight and not place.old and not place.standing.is_held_back:
            self._places.pop(place.name, None)

    def _judge(self, claim: Claim, reply: Reply, begun: Begun, in_flight: int, now: int) -> Standing:
        place, then, _, began_at = begun
        standing = place.standing
        if reply.trouble is not None:
            is_lonely = place.answered_at <= began_at
            if reply.trouble is Trouble.UNREACHABLE and is_lonely:
                return adapting.unreachable(standing, era=then.era, fraction=self._fraction(), now=now)
            if reply.trouble is Trouble.SILENT and not is_lonely:
                return standing  # others were answered meanwhile: it is this message that takes so long
        elif reply.status == 0:
            return standing  # called off, or not sent: the destination has no part in it
        elif not is_refusal(claim, reply):
            place.answered_at = now
            if not standing.is_held_back:
                return standing
            return adapting.answered(
                standing, in_flight=in_flight, took_ms=now - began_at, most=self._most(), now=now
            )
        return adapting.refused(
            standing,
            began_in=then.round,
            in_flight=in_flight,
            fraction=self._fraction(),
            now=now,
            hint_ms=retry_hint_ms(reply.headers, self._clock.now()),
            is_silent=reply.trouble is Trouble.SILENT,
        )

    def _change(self, place: _Place, after: Standing, reply: Reply) -> None:
        before, place.standing = place.standing, after
        if after.era != before.era:
            place.old += place.in_flight
            place.in_flight = 0
        if after.is_held_back:
            self._held_back[place.name] = place
            if len(self._held_back) > MOST_HELD_BACK:
                self._free(next(iter(self._held_back)))
        else:
            self._held_back.pop(place.name, None)
        if before.probe_at is None and after.probe_at is not None:
            facts = {"destination": place.name, "status": reply.status, "error": reply.error}
            log.warning("destination is left alone but for probes", extra=facts)
        elif before.probe_at is not None and after.probe_at is None:
            log.warning("destination answers again", extra={"destination": place.name})

    def _free(self, name: str) -> None:
        place = self._held_back.pop(name)
        place.standing = adapting.freed(place.standing)
        if not place.in_flight and not place.old:
            self._places.pop(name, None)

    def held(self, *, few: int | None = None, in_process: int = 0) -> Held | None:
        """Say what may begin now; None if nothing is held back.

        With `few`, no destination is handed more than make that many in flight, and neither is the app, which
        has `in_process` now.
        """
        now = self._clock.monotonic()
        if few is not None:
            rooms = {
                name: min(max(0, few - each.in_flight - each.old), _room(each, now, few))
                for name, each in self._places.items()
            }
            return Held(rooms, place_of, few, max(0, few - in_process), may_put_back=False)
        if not self._held_back:
            return None
        may_put_back = now - self._put_back_at >= PUT_BACK_MS
        if may_put_back:
            self._put_back_at = now
        most = self._most()
        rooms = {name: _room(each, now, most) for name, each in self._held_back.items()}
        return Held(rooms, place_of, may_put_back=may_put_back)

    def claimed(self, claimed: Claimed) -> None:
        """Note what came of a claim: the attempts that begin, and the queues that wait for destinations.

        Who has had something goes to the end of those who wait, who has been passed over keeps its place.
        More than are noted are looked at again anyway.
        """
        self.begin(claimed.claims)
        if not self._asked and not claimed.turned_away:
            return
        took = {each.queue_id for each in claimed.claims}
        away = dict(claimed.turned_away)
        for queue, name in [*self._asked, *claimed.turned_away]:
            if queue in took or away.get(queue) != name:
                self._waiting.get(name, {}).pop(queue, None)
        for queue, name in claimed.turned_away:
            waiting = self._waiting.setdefault(name, {})
            if len(waiting) < MOST_WAITING:
                waiting[queue] = None
        self._asked = []

    def next_queues(self, held: Held | None) -> list[int]:
        """Give the queues that may go on, so many for each destination as it has room."""
        self._asked = []
        for name, waiting in [*self._waiting.items()]:
            count = MOST_AT_ONCE if held is None else held.room(name, MOST_AT_ONCE)
            self._asked += [(queue, name) for queue in islice(waiting, count)]
            if not waiting:
                del self._waiting[name]
        return [queue for queue, _ in self._asked]

    def shown(self) -> Mapping[str, int]:
        """Give how many attempts may be in flight at destinations that are held back; the lowest first."""
        limits = {
            name: 0 if each.standing.probe_at is not None else int(each.standing.limit)
            for name, each in [*self._held_back.items()]  # copied at once: another thread may ask
        }
        return dict(sorted(limits.items(), key=itemgetter(1))[:MOST_SHOWN])

    @property
    def in_flight(self) -> int:
        """How many attempts have begun and not ended."""
        return len(self._begun)

    @property
    def held_back(self) -> int:
        """How many destinations are held back."""
        return len(self._held_back)


def _room(place: _Place, now: int, most: int) -> int:
    room = adapting.room(place.standing, place.in_flight, now)
    return most if room is None else room
