"""How deep the queues are, for metrics: counts that stop at a limit, so that a backlog costs nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from qtasks.broker.store.database import Session
from qtasks.broker.store.queues import Kind

MOST_QUEUES = 200
"""Queues that are looked at one by one: the oldest. The others are counted together."""
MOST_MESSAGES = 10_000
"""Where a count stops."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What is not finished of one queue; `name` is empty for all that is not looked at singly.

    `oldest_at` is when the message that has waited longest for a free slot became ready, in Unix ms.
    """

    name: str
    kind: Kind | None
    paused: bool
    ready: int
    active: int
    waiting: int
    oldest_at: int | None


@dataclass(frozen=True, slots=True)
class Depths:
    """What is stored: unfinished by queue, and dead letters."""

    queues: list[Depth]
    dead: int


def look(session: Session, most: int = MOST_MESSAGES) -> Depths:
    """Give the depths of all queues, and the number of dead letters; no count goes beyond `most`."""
    rows = session.all("depth_list", {"most": most, "count": MOST_QUEUES})
    found = [
        Depth(name, Kind(kind), bool(paused), ready, active, waiting, oldest_at)
        for _, name, kind, paused, ready, active, waiting, oldest_at in rows
    ]
    if len(rows) == MOST_QUEUES:
        rest = session.one("depth_rest", {"after": rows[-1][0], "most": most})
        assert rest is not None
        ready, active, waiting = rest
        found.append(Depth("", None, False, ready, active, waiting, None))
    dead = session.one("depth_dead", {"most": most})
    assert dead is not None
    return Depths(found, dead[0])
