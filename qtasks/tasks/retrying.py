"""Says for how long, and after which pauses, a broker that gives no answer is asked again."""

from __future__ import annotations

import math
from collections.abc import Callable

from qtasks.clock import Clock
from qtasks.errors import BrokerUnavailable, BrokerUnreachable


class Patience:
    """How much of a budget is left, from now on; spans are in milliseconds unless they say otherwise."""

    def __init__(self, clock: Clock, budget_ms: int) -> None:
        self._clock = clock
        self._ends_at = clock.monotonic() + budget_ms

    def spare(self, work: Callable[[], None]) -> None:
        """Do a work whose time is not taken off the budget."""
        began_at = self._clock.monotonic()
        work()
        self._ends_at += self._clock.monotonic() - began_at

    def left_s(self) -> float:
        """Say for how many seconds the next try may last."""
        return max(0.001, (self._ends_at - self._clock.monotonic()) / 1000)

    def unavailable(self, error: BrokerUnavailable) -> int:
        """Give the pause after which to ask a broker again that cannot serve now; else raise its error."""
        pause_ms = int(1000 * (error.retry_after or 0.5))
        if not self._allows(pause_ms):
            raise error
        return pause_ms

    def unreachable(self, tried: int) -> int:
        """Give the pause after which to try again, having `tried` so often before; 0 is to give up."""
        pause_ms = int(50 * math.exp(min(tried, 3)))
        return pause_ms if self._allows(pause_ms) else 0

    def _allows(self, pause_ms: int) -> bool:
        return self._clock.monotonic() + pause_ms < self._ends_at


def unanswered(error: Exception, url: str, budget_ms: int) -> BrokerUnreachable:
    """Give the error of a call for which no answer came within the budget."""
    reason = str(error) or "it did not answer in time"
    return BrokerUnreachable(
        f"no answer from the broker at {url} within {budget_ms / 1000:g} s: {reason}. "
        "Is it running, and is QTASKS_BROKER right?"
    )
