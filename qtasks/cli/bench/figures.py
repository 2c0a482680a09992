"""What is measured, by name, and how several runs of it are told. Pure; measuring is `measuring`'s."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured: its name for programs, what a person calls it, and its unit."""

    name: str
    label: str
    unit: str


RAW = "raw"

FIGURES = (
    Figure("delay_1", ".delay(), one thread", "calls/s"),
    Figure("delay_8", ".delay(), eight threads", "calls/s"),
    Figure("adelay_1", "await .adelay(), one after the other", "calls/s"),
    Figure("adelay_64", "await .adelay(), 64 at once", "calls/s"),
    Figure("delay_many", ".delay_many()", "calls/s"),
    Figure("tasks", "tasks run, from a backlog", "tasks/s"),
    Figure("idle_p50_ms", "from call to start, idle, p50", "ms"),
    Figure("idle_p99_ms", "from call to start, idle, p99", "ms"),
    Figure("result_p50_ms", "from call to result, idle, p50", "ms"),
    Figure("result_p99_ms", "from call to result, idle, p99", "ms"),
    Figure("memory_mib", "memory of app and broker, at most", "MiB"),
    Figure(RAW, "commits of one row, database alone", "commits/s"),
)
"""What `qtasks bench` tells, in this order."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure, and what each run found."""

    figure: Figure
    values: Sequence[float]

    @property
    def median(self) -> float:
        """What the run in the middle found."""
        return statistics.median(self.values)

    def to_json(self) -> dict[str, object]:
        """Write it for a program."""
        return {
            "figure": self.figure.name,
            "unit": self.figure.unit,
            "median": self.median,
            "least": min(self.values),
            "most": max(self.values),
            "values": list(self.values),
        }


def summarise(runs: Sequence[Mapping[str, float]], figures: Sequence[Figure] = FIGURES) -> list[Summary]:
    """Bring together what the runs found of each figure; what none has measured is left out."""
    found = ((each, [run[each.name] for run in runs if each.name in run]) for each in figures)
    return [Summary(figure, values) for figure, values in found if values]


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which `share` (0 to 1) of the values lie.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([4, 1, 3, 2], 0.99)
    (3, 4)
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Say what share of the time between two readings of a machine's counters its host took away.

    >>> stolen_share([10, 0, 0, 80, 0, 0, 0, 10], [50, 0, 0, 120, 0, 0, 0, 30])
    0.2
    """
    spans = [b - a for a, b in zip(before, after, strict=True)][:8]
    return spans[7] / max(1, sum(spans)) if len(spans) > 7 else 0.0


def shown(value: float) -> str:
    """Write a value with as many places as say something.

    >>> shown(14821.7), shown(41.27), shown(0.123)
    ('14,822', '41.3', '0.12')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
