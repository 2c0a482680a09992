"""How many deliveries a node has in hand, and the few more while those stand still.

Slots that all wait for a destination that hangs would keep the messages of all others waiting. So when every
slot is taken and nothing ends, there are some spare ones, of which nobody gets more than a few.
"""

from __future__ import annotations

from collections.abc import Callable

from qtasks.broker.delivery import Admission, Deliverer, spare
from qtasks.broker.standings import Standings
from qtasks.broker.store.holding import Held
from qtasks.clock import Clock

STILL_MS = 20
"""How long nothing has ended when the spare slots are opened."""


class Slots:
    """The slots of one node; `standings` says what its destinations get of them."""

    def __init__(
        self, deliverer: Deliverer, concurrency: int, *, clock: Clock, fraction: Callable[[], float]
    ) -> None:
        self._deliverer = deliverer
        self._concurrency = concurrency
        self._clock = clock
        self.spare = spare(concurrency)
        self.standings = Standings(clock, fraction=fraction, most=lambda: self.usual)
        self._moved_at = clock.monotonic()
        self._stand_still = False

    @property
    def usual(self) -> int:
        """How many claims to have in hand."""
        return self._deliverer.window(self._concurrency)

    @property
    def window(self) -> int:
        """The same with the spare ones, while they are open."""
        return self.usual + (self.spare if self._stand_still else 0)

    def admission(self, in_hand: int) -> Admission:
        """Say what may be claimed beside those in hand."""
        if self._stand_still:
            return Admission(self.window - in_hand)
        return self._deliverer.admission(self._concurrency, in_hand)

    @property
    def may_open(self) -> bool:
        """Whether there are spare slots that are not open."""
        return self.spare > 0 and not self._stand_still

    def held(self, in_flight: int) -> Held | None:
        """Say what a claim must leave; `in_flight` are all deliveries that have not ended."""
        if not self._stand_still:
            return self.standings.held()
        few = max(1, self.spare // 2)
        return self.standings.held(few=few, in_process=in_flight - self.standings.in_flight)

    def look(self, in_flight: int) -> None:
        """Open the spare slots if all others are taken and nothing has ended for a while."""
        is_still = self._clock.monotonic() - self._moved_at >= STILL_MS
        self._stand_still = self.spare > 0 and is_still and in_flight >= self.usual

    def freed(self, in_flight: int) -> None:
        """Note that deliveries have ended, and that so many are left, those begun since included."""
        self._moved_at = self._clock.monotonic()
        self._stand_still = self._stand_still and in_flight >= self.usual
