"""What is asked of each figure, and whether the runs meet it. Pure.

Most bars are set by what the machine's database does alone, measured in the same run, so a run is held
against its own bar, and the run in the middle decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Run = Mapping[str, float]
"""The figures of one run."""
Values = Mapping[str, Sequence[float]]
"""The figures of all runs, by name."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure must come to at least `limit`, or with `is_most` to at most that."""

    figure: str
    limit: Callable[[Run], float]
    is_most: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bar as it was in the run in the middle, and how far the figure has got: 1 or more meets it."""

    limit: float
    ratio: float
    is_most: bool

    @property
    def is_met(self) -> bool:
        """Whether the figure meets its bar."""
        return self.ratio >= 1


def _flat(limit: float) -> Callable[[Run], float]:
    return lambda run: limit


def _of_raw(share: float) -> Callable[[Run], float]:
    return lambda run: share * run["raw"]


def after_the_client(run: Run) -> float:
    """Give what remains of calls when an exchange with an empty endpoint and a commit follow each other.

    >>> round(after_the_client({"exchange": 1000, "raw": 10_000}))
    700
    """
    return 0.8 / (1 / run["exchange"] + 1 / (0.7 * run["raw"]))


def _bars(
    *,
    one: Callable[[Run], float],
    eight: Callable[[Run], float],
    many: float,
    backlog: float,
    idle: tuple[float, float],
    result: float,
    deep: float,
) -> tuple[Bar, ...]:
    return (
        Bar("delay_1", one),
        Bar("delay_8", eight),
        Bar("delay_many", _flat(many)),
        Bar("buffered", _flat(many)),
        Bar("backlog", _flat(backlog)),
        Bar("idle_p50_ms", _flat(idle[0]), is_most=True),
        Bar("idle_p99_ms", _flat(idle[1]), is_most=True),
        Bar("result_p50_ms", _flat(result), is_most=True),
        Bar("waiting_mib", _flat(150), is_most=True),
        Bar("deep_ratio", _flat(deep), is_most=True),
    )


BARS: Mapping[str, Sequence[Bar]] = {
    "embedded": (
        *_bars(
            one=_of_raw(0.7),
            eight=_of_raw(1.2),
            many=30_000,
            backlog=15_000,
            idle=(1.2, 6),
            result=3,
            deep=1.2,
        ),
        Bar("relaxed_1", _flat(8000)),
    ),
    "standalone": _bars(
        one=after_the_client, eight=_flat(1500), many=15_000, backlog=8000, idle=(4, 12), result=8, deep=1.2
    ),
    "postgres": _bars(
        one=_of_raw(0.7), eight=_of_raw(2), many=10_000, backlog=6000, idle=(5, 15), result=10, deep=1.3
    ),
}
"""By home, on two cores. The store of a standalone broker is that of an embedded one, so it has no depth."""


def judge(values: Values, bar: Bar) -> Judgement | None:
    """Hold the runs of a home against a bar; None where what it takes was not measured."""
    limits, ratios = [], []
    for number, value in enumerate(values.get(bar.figure, ())):
        try:
            limit = bar.limit(_run(values, number))
        except KeyError:
            return None
        limits.append(limit)
        ratios.append(limit / value if bar.is_most else value / limit)
    if not ratios:
        return None
    return Judgement(statistics.median(limits), statistics.median(ratios), bar.is_most)


def judge_home(home: str, values: Values) -> dict[str, Judgement]:
    """Hold a home against all its bars; gives the judgements by figure."""
    found = {bar.figure: judge(values, bar) for bar in BARS.get(home, ())}
    return {figure: each for figure, each in found.items() if each is not None}


def _run(values: Values, number: int) -> Run:
    """Give the figures of one run; of what was measured less often, the median."""
    return {
        name: each[number] if number < len(each) else statistics.median(each)
        for name, each in values.items()
        if each
    }
