"""Decides which fires of a schedule are made up for, once some were missed (promise P15). Pure.

`latest` makes up for the last one, `all` for each, `none` for those that are hardly late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtasks.protocol.every import Timing

LATEST, ALL, NONE = "latest", "all", "none"
HARDLY_LATE_MS = 60_000  # contract 1.7
MOST_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Due:
    """The fires to make now, oldest first, and the instant of the next one (Unix ms)."""

    fires: Sequence[int]
    next_at: int


def fires_due(timing: Timing, next_at: int, now: int, policy: str) -> Due:
    """Say what to fire at `now` of a schedule whose next fire was to be at `next_at`.

    With `all`, a hundred are made at once at most; the next call goes on from there.
    """
    if policy == ALL:
        fires = [next_at]
        following = timing.next_after(next_at)
        while following <= now and len(fires) < MOST_AT_ONCE:
            fires.append(following)
            following = timing.next_after(following)
        return Due(fires, following)
    latest = timing.latest_between(next_at - 1, now)
    if latest is None or (policy == NONE and now - latest >= HARDLY_LATE_MS):
        return Due((), timing.next_after(now))
    return Due((latest,), timing.next_after(now))
