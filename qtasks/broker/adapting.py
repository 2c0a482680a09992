"""How many attempts a destination is handed at once, learnt from how it answers. Pure.

Nothing is held back until a destination gives a reason. One that refuses (429, 503) is handed what it took
before, then slowly more; one that cannot be reached is handed a single attempt now and then, the probe, and
is trusted with more step by step once it answers. Instants are monotonic, in ms; `fraction`, from 0 to 1, is
drawn anew for each call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

LESS = 0.8
"""A refusal leaves so much of what was in flight, or what was not refused of it if that is less."""
GENTLE = 32
"""Once it is known what a destination takes, one more is tried after about so many rounds of answers."""
SLOW = 2.0
"""An answer that takes so many times as long as the quick ones says that there is enough in flight."""
MEMORY = 64
"""What is quick is forgotten over about so many answers."""
FIRST_PAUSE_MS = 1000
LONGEST_PAUSE_MS = 5000
"""Between probes, unless the destination asks for longer."""
LONGEST_HINT_MS = 30_000
FORGET_MS = 300_000
"""After so long without trouble it is no longer known what a destination takes."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a destination stands with this node."""

    limit: float = inf
    """How many attempts may be in flight; those of earlier eras do not count."""
    known: float = inf
    """How many it has taken at once, as far as that is known."""
    is_ramping: bool = False
    """Whether each success adds one, as after an outage, or each round of them does."""
    round: int = 0
    """How often the limit was cut. A refusal of an attempt that began before is part of that cut."""
    era: int = 0
    """How often the circuit was opened."""
    cut_from: float = inf
    refused: int = 0
    """Of the last cut: how many were in flight, and how many of them were refused."""
    quick_ms: float = inf
    failures: int = 0
    """How many probes have failed in a row, with what opened the circuit."""
    probe_at: int | None = None
    """The circuit is open, and a probe may go from then on; None if it is closed."""
    troubled_at: int = 0

    @property
    def is_held_back(self) -> bool:
        """Whether there is a limit but those of the node and of the queues."""
        return self.limit != inf


FREE = Standing()


def room(standing: Standing, in_flight: int, now: int) -> int | None:
    """Say how many more attempts may begin; None for any number. `in_flight` are those of this era."""
    if standing.limit == inf:
        return None
    if standing.probe_at is not None:
        return max(0, 1 - in_flight) if now >= standing.probe_at else 0
    return max(0, int(standing.limit) - in_flight)


def answered(standing: Standing, *, in_flight: int, took_ms: int, most: int, now: int) -> Standing:
    """Learn from an attempt that was answered and not refused, whatever the answer was.

    `in_flight` counts this one too; `most` is what the node itself allows.
    """
    if not standing.is_held_back:
        return standing
    if standing.probe_at is not None:
        return replace(
            standing, limit=2.0, is_ramping=True, quick_ms=took_ms, failures=0, probe_at=None, troubled_at=now
        )
    is_used = in_flight * 4 > standing.limit
    if now - standing.troubled_at >= FORGET_MS:
        if not is_used:
            return freed(standing)
        standing = replace(standing, known=inf, is_ramping=True, troubled_at=now)
    quick_ms = min(float(took_ms), standing.quick_ms * (1 + 1 / MEMORY) + 1 / MEMORY)
    limit, known = standing.limit, standing.known
    if is_used:  # what is not used proves nothing
        limit += _step(standing, is_slow=took_ms > SLOW * quick_ms + 1)
    if limit >= known + 1.5:  # it has taken one more for some time
        known = limit * 2
    if limit >= most:
        return freed(standing)
    return replace(standing, limit=limit, known=known, quick_ms=quick_ms)


def freed(standing: Standing) -> Standing:
    """Hold a destination back no more. Rounds and eras go on, for attempts that began in them."""
    return replace(FREE, round=standing.round, era=standing.era)


def _step(standing: Standing, *, is_slow: bool) -> float:
    if standing.limit >= standing.known or is_slow:
        return 1 / (GENTLE * standing.limit)
    return 1.0 if standing.is_ramping else 1 / standing.limit


def refused(
    standing: Standing,
    *,
    began_in: int,
    in_flight: int,
    fraction: float,
    now: int,
    hint_ms: int | None = None,
    is_silent: bool = False,
) -> Standing:
    """Learn from a refusal of an attempt that began in the round `began_in`; `in_flight` counts it too.

    A destination that refuses even a single attempt twice in a row is left alone for a while. With
    `is_silent` it has not answered at all, which says nothing about how many it takes.
    """
    if began_in < standing.round:
        count = standing.refused + 1
        left = max(1.0, standing.cut_from - count)
        known = standing.known if is_silent else min(standing.known, left)
        return replace(standing, limit=min(standing.limit, left), known=known, refused=count)
    if standing.limit < 2:
        return _open(standing, hint_ms, fraction, now)
    cut_from = float(int(min(standing.limit, in_flight)))
    left = max(1.0, cut_from - 1)
    is_vague = is_silent or cut_from == 1
    return replace(
        standing,
        limit=max(1.0, min(LESS * cut_from, left)),
        known=standing.known if is_vague else left,
        is_ramping=is_vague,
        round=standing.round + 1,
        cut_from=cut_from,
        refused=1,
        troubled_at=now,
    )


def unreachable(standing: Standing, *, era: int, fraction: float, now: int) -> Standing:
    """Learn that no attempt gets through: one of `era` did not, and none has been answered since it began."""
    if era < standing.era:
        return standing  # that is known
    return _open(standing, None, fraction, now)


def _open(standing: Standing, hint_ms: int | None, fraction: float, now: int) -> Standing:
    failures = standing.failures + 1
    pause_ms = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(failures - 1, 10)) * (1 + fraction) / 2
    pause_ms = max(pause_ms, min(LONGEST_HINT_MS, hint_ms or 0))
    return replace(
        standing,
        limit=1.0,
        round=standing.round + 1,
        era=standing.era + 1,
        failures=failures,
        probe_at=now + int(pause_ms),
        cut_from=inf,  # what began before tells nothing new
        refused=0,
        troubled_at=now,
    )
