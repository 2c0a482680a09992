"""How much is done to measure each kind of figure: in full, and to see that it works at all."""

from __future__ import annotations

from dataclasses import dataclass

from qtasks.cli.bench.measuring import Sizes


@dataclass(frozen=True, slots=True)
class Programme:
    """How many of each are made in one run."""

    calls: Sizes
    backlog: int
    """How long the long backlog is."""
    naps: int
    load_s: float
    """How long tasks keep coming, at half of what can be called and run, which takes as long to find out."""
    waiting: int
    depths: tuple[int, int, int]
    queues: int
    rounds: int
    """How often the cost of a task is measured at each depth."""
    stored: int
    """How many messages the store's own verbs take."""


FULL = Programme(
    Sizes(single=2000, each_of_8=500, together=4096, many=10_000, backlog=10_000, stamps=300),
    backlog=100_000,
    naps=1000,
    load_s=5,
    waiting=1_000_000,
    depths=(1000, 100_000, 1_000_000),
    queues=10_000,
    rounds=5,
    stored=10_000,
)
QUICK = Programme(
    Sizes(single=50, each_of_8=10, together=64, many=500, backlog=500, stamps=20),
    backlog=1000,
    naps=100,
    load_s=0.5,
    waiting=2000,
    depths=(200, 500, 1000),
    queues=500,
    rounds=2,
    stored=1000,
)
"""To see that all of it works: what it finds says nothing."""
