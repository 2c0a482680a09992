"""What disturbs a measurement: CPU time that the machine's host takes away, or that other processes use."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from qtasks.cli.bench.figures import stolen_share
from qtasks.cli.bench.machine import cpu_times
from tests.benchmarks.processes import TICKS, cpu_seconds

STEALING = 0.05
"""Above it a measurement is made again."""
CROWDED = 0.1
IDLE = (3, 4, 7)
"""Which of the counters are of no process: idle, waiting for a disk, stolen."""
PROCESSES = 8
"""How many counters there are before those that are counted twice."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Shares of all CPU time during a measurement: `stolen` by the host, used by `foreign` processes."""

    stolen: float
    foreign: float

    @property
    def is_loud(self) -> bool:
        """Whether what was measured should be read with care."""
        return self.stolen > STEALING or self.foreign > CROWDED

    def to_json(self) -> dict[str, float]:
        """Write it for a program."""
        return asdict(self)


class Watch:
    """Looks at the machine from its making on. `servers` work for the measurement and are no child of it."""

    def __init__(self, servers: Sequence[int]) -> None:
        self._servers = servers
        self._counters, self._ours = cpu_times(), self._spent()

    def noise(self) -> Noise:
        """Say what has disturbed since; children must have been waited for."""
        counters = cpu_times()
        foreign = foreign_share(self._counters, counters, self._spent() - self._ours)
        return Noise(stolen_share(self._counters, counters), foreign)

    def _spent(self) -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used) + cpu_seconds(self._servers)


def foreign_share(before: Sequence[int], after: Sequence[int], ours_s: float) -> float:
    """Say what share of all CPU time went to others than our processes, which have used `ours_s` seconds."""
    spans = [b - a for a, b in zip(before, after, strict=True)][:PROCESSES]
    busy = sum(each for place, each in enumerate(spans) if place not in IDLE)
    return max(0.0, busy - ours_s * TICKS) / max(1, sum(spans))
