"""Tells what the runs found: for people at a terminal, as Markdown for a page, as JSON for programs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qtasks.cli.bench.figures import Figure, shown
from qtasks.cli.tables import Column, table
from tests.benchmarks.bars import Judgement, Values, judge_home
from tests.benchmarks.figures import FIGURES
from tests.benchmarks.noise import Noise

VERSIONS = (("qtasks", "qtasks"), ("Python", "python"), ("SQLite", "sqlite"), ("PostgreSQL", "postgresql"))
COLUMNS_OF_PAGE = ("embedded", "standalone", "postgres")


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of a home, what its runs found, and what was asked of it, if anything was."""

    home: str
    figure: Figure
    values: Sequence[float]
    judgement: Judgement | None

    @property
    def median(self) -> float:
        """What the run in the middle found."""
        return statistics.median(self.values)

    @property
    def bar(self) -> str:
        """What was asked."""
        if self.judgement is None:
            return ""
        return f"{'≤' if self.judgement.is_most else '≥'} {shown(self.judgement.limit)}"

    @property
    def verdict(self) -> str:
        """Whether it is met."""
        if self.judgement is None:
            return ""
        return "ok" if self.judgement.is_met else "short"

    def to_json(self) -> dict[str, object]:
        """Write it for a program."""
        bar = None
        if self.judgement is not None:
            bar = {
                "limit": self.judgement.limit,
                "is_most": self.judgement.is_most,
                "ratio": self.judgement.ratio,
                "is_met": self.judgement.is_met,
            }
        return {
            "home": self.home,
            "figure": self.figure.name,
            "unit": self.figure.unit,
            "median": self.median,
            "least": min(self.values),
            "most": max(self.values),
            "bar": bar,
        }


COLUMNS: tuple[Column[Line], ...] = (
    Column("FIGURE", lambda each: each.figure.label),
    Column("MEDIAN", lambda each: shown(each.median), is_number=True),
    Column("LEAST", lambda each: shown(min(each.values)), is_number=True),
    Column("MOST", lambda each: shown(max(each.values)), is_number=True),
    Column("UNIT", lambda each: each.figure.unit),
    Column("BAR", lambda each: each.bar, is_number=True),
    Column("RATIO", lambda each: f"{each.judgement.ratio:.2f}" if each.judgement else "", is_number=True),
    Column("", lambda each: each.verdict or " "),
)


def lines_of(home: str, values: Values) -> list[Line]:
    """Bring the figures of a home into order, each with its bar."""
    judgements = judge_home(home, values)
    return [
        Line(home, each, values[each.name], judgements.get(each.name))
        for each in FIGURES
        if values.get(each.name)
    ]


def document(
    found: Mapping[str, Values], facts: Mapping[str, object], noise: object, failures: Sequence[str]
) -> dict[str, Any]:
    """Write all that was found for programs; `rows` holds what can be worked out from `values`."""
    rows = [each.to_json() for home, values in found.items() for each in lines_of(home, values)]
    return {**facts, "failures": failures, "noise": noise, "values": found, "rows": rows}


def for_people(read: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines that tell a document to a person."""
    yield about(read)
    missed = 0
    for home, values in read["values"].items():
        lines = lines_of(home, values)
        missed += sum(each.verdict == "short" for each in lines)
        yield ""
        yield home
        yield from table(lines, COLUMNS)
    yield ""
    yield f"{missed} of the bars are not met" if missed else "all bars are met that were measured"
    yield from noise_of(read)
    yield from (f"failed: {each}" for each in read["failures"])


def about(read: Mapping[str, Any]) -> str:
    """Say on what and how it was measured."""
    versions = ", ".join(f"{name} {read[key]}" for name, key in VERSIONS)
    return (
        f"{versions}, {read['cores']} cores, {read['system']}; medians of {read['runs']}; "
        "SQLite synchronous=FULL, PostgreSQL fsync and synchronous_commit on; tasks that do nothing, with an "
        f"argument of 64 bytes{'; QUICK: on so little that figures mean nothing' if read['is_quick'] else ''}"
    )


def noise_of(read: Mapping[str, Any]) -> Iterator[str]:
    """Say what was disturbed by the machine's host, even when it was repeated, or by other processes."""
    for home, kinds in read["noise"].items():
        for kind, runs in kinds.items():
            seen = [Noise(**each) for each in runs]
            if loud := sum(each.is_loud for each in seen):
                stolen, foreign = max(each.stolen for each in seen), max(each.foreign for each in seen)
                taken = f"the host took up to {stolen:.0%} of the CPU, other processes {foreign:.0%}"
                yield f"noisy: {home} {kind}, {loud} of {len(seen)}: {taken}"


def markdown(read: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of Markdown for a page: a table of the three homes, and one of each other."""
    values: Mapping[str, Values] = read["values"]
    columns = [each for each in COLUMNS_OF_PAGE if each in values]
    if columns:
        yield from _table_of(columns, values)
    for home in values:
        if home not in columns:
            yield ""
            yield from _table_of([home], values)


def _table_of(homes: Sequence[str], values: Mapping[str, Values]) -> Iterator[str]:
    by_home = {home: {each.figure.name: each for each in lines_of(home, values[home])} for home in homes}
    yield f"| | {' | '.join(homes)} |"
    yield f"| --- {'| --- ' * len(homes)}|"
    for figure in FIGURES:
        cells = [by_home[home].get(figure.name) for home in homes]
        if any(cells):
            yield f"| {figure.label}, {figure.unit} | {' | '.join(_cell(each) for each in cells)} |"


def _cell(line: Line | None) -> str:
    """Write a figure: its median, least and most, and its bar; in bold where it falls short."""
    if line is None:
        return ""
    middle = shown(line.median)
    if line.verdict == "short":
        middle = f"**{middle}**"
    spread = f" ({shown(min(line.values))} to {shown(max(line.values))})" if len(line.values) > 1 else ""
    return f"{middle}{spread}{f', {line.bar}' if line.bar else ''}"
