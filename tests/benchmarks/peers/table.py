"""Turns the figures of a comparison into Markdown: what was measured, and who did best in what."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.peers.contestants import BY_NAME, Contestant

BEGIN = "<!-- written by scripts/bench-peers -->"
END = "<!-- end of what scripts/bench-peers writes -->"

MOST_OTHERS = 0.1
"""The share of the machine's time that other processes may take from a measurement."""

BUSY = (
    "**The machine was busy with other work meanwhile.** CPU and memory are near what they would be alone; "
    "rates and latencies are not, and those that wait for the disk least of all. Measure again before you "
    "rely on them."
)

Runs = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A column: what it is called, and whether more of it is better."""

    key: str
    title: str
    more_is_better: bool = False


RATES = (
    Figure("delay_1", "calls/s, one thread", True),
    Figure("delay_8", "calls/s, eight at a time", True),
    Figure("delay_many", "calls/s, in bulk", True),
    Figure("tasks", "tasks/s of a backlog", True),
    Figure("cpu_us", "CPU µs a task"),
)
SPANS = (
    Figure("start_p50_ms", "call to start, p50, ms"),
    Figure("start_p99_ms", "call to start, p99, ms"),
    Figure("result_p50_ms", "call to result, p50, ms"),
    Figure("memory_mib", "memory of workers, MiB"),
    Figure("server_mib", "memory of the server, MiB"),
)
COMPARED = (*RATES, *SPANS[:4])


def page(found: Mapping[str, Any]) -> str:
    """Write all tables."""
    figures: dict[str, Runs] = {name: runs for name, runs in found["figures"].items() if runs}
    parts = [_conditions(found, figures)]
    if max(each["others"] for runs in figures.values() for each in runs) > MOST_OTHERS:
        parts.append(BUSY)
    parts += [_table(columns, figures) for columns in (RATES, SPANS)]
    if _some(figures, lambda each: each.is_ours) and _some(figures, lambda each: not each.is_ours):
        parts.append(_against(figures))
    parts.append(_setups(figures))
    return "\n\n".join(parts)


def rewritten(text: str, tables: str) -> str:
    """Put the tables into a page, between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END} to write between")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def number(value: float) -> str:
    """Write a figure with as many digits as mean something.

    >>> [number(each) for each in (15_048.8, 277.47, 9.97, 2.652, 0.4)]
    ['15,000', '277', '10', '2.7', '0.4']
    """
    if value >= 100:
        digits = len(str(int(value)))
        return f"{round(value, min(0, 3 - digits)):,.0f}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _conditions(found: Mapping[str, Any], figures: Mapping[str, Runs]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    every = [each for runs in figures.values() for each in runs]
    stolen = max(each["stolen"] for each in every)
    others = max(each["others"] for each in every)
    commits = [each["commits"] for each in every if "commits" in each]
    pace = (
        f" SQLite alone committed {number(statistics.median(commits))} single rows a second "
        f"({number(min(commits))} to {number(max(commits))}), with `synchronous=FULL`."
        if commits
        else ""
    )
    return (
        f"{machine['cores']} cores ({machine['processor']}, Linux {machine['kernel']}), "
        f"Python {machine['python']}, SQLite {machine['sqlite']}, {versions}. "
        f"A backlog of {found['backlog']:,} tasks; {_how_often(found['runs'])}. "
        f"At most {100 * stolen:.1f} % of the time of a run was taken by the host, "
        f"and {100 * others:.0f} % by other processes of this machine.{pace}"
    )


def _how_often(runs: int) -> str:
    return "one run" if runs == 1 else f"medians of {runs} runs, least and greatest in brackets"


def _table(columns: Sequence[Figure], figures: Mapping[str, Runs]) -> str:
    rows = [["", *(each.title for each in columns)]]
    for name, runs in figures.items():
        rows.append([BY_NAME[name].title, *(_cell(each.key, runs) for each in columns)])
    return _markdown(rows)


def _cell(key: str, runs: Runs) -> str:
    values = [each[key] for each in runs if key in each]
    if not values:
        return "has none"
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"


def _against(figures: Mapping[str, Runs]) -> str:
    """Write the best peer in each figure, and how many times better each home of qtasks is."""
    ours = [name for name in figures if BY_NAME[name].is_ours]
    groups: list[tuple[str, Callable[[Contestant], bool]]] = [
        ("best peer", lambda each: not each.is_ours),
        ("best peer that fsyncs", lambda each: not each.is_ours and each.need.is_synced),
    ]
    rows = [["", *(title for title, _ in groups), *(BY_NAME[each].title for each in ours)]]
    for figure in COMPARED:
        bests = [_best(figure, figures, wanted) for _, wanted in groups]
        row = [figure.title]
        row += [f"{BY_NAME[best[0]].title}: {number(best[1])}" if best else "has none" for best in bests]
        for name in ours:
            mine = _median(figure, figures[name])
            row.append(
                " / ".join(_times(figure, mine, best[1]) for best in bests if best and mine is not None)
            )
        rows.append(row)
    return (
        "How many times better qtasks is than the best peer / than the best peer that fsyncs (below 1: "
        "worse):\n\n" + _markdown(rows)
    )


def _setups(names: Iterable[str]) -> str:
    """Write how each was used, whatever it was measured on."""
    rows = [["", "set up", "many calls at once", "lets go of a task"]]
    for setup in dict.fromkeys(BY_NAME[each].setup for each in names):
        rows.append([setup.title, setup.why, setup.in_bulk, setup.keeps])
    return _markdown(rows)


def _best(
    figure: Figure, figures: Mapping[str, Runs], wanted: Callable[[Contestant], bool]
) -> tuple[str, float] | None:
    found = [
        (name, middle)
        for name, runs in figures.items()
        if wanted(BY_NAME[name]) and (middle := _median(figure, runs)) is not None
    ]
    pick = max if figure.more_is_better else min
    return pick(found, key=lambda each: each[1]) if found else None


def _median(figure: Figure, runs: Runs) -> float | None:
    values = [each[figure.key] for each in runs if figure.key in each]
    return statistics.median(values) if values else None


def _times(figure: Figure, mine: float, best: float) -> str:
    return f"{mine / best if figure.more_is_better else best / mine:.2f}"


def _some(names: Iterable[str], wanted: Callable[[Contestant], bool]) -> bool:
    return any(wanted(BY_NAME[each]) for each in names)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
