"""Writes the text format of Prometheus, version 0.0.4. Pure: numbers come in, text goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: `suffix` is what follows the name of its family."""

    value: float
    labels: Labels = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with all its series."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    samples: Sequence[Sample]


def histogram(bounds: Sequence[float], counts: Sequence[int], total: float, labels: Labels) -> list[Sample]:
    """Make the lines of one histogram; `counts` has one more than `bounds`, for what is beyond them.

    >>> [(each.suffix, each.value) for each in histogram([0.5], [2, 1], 3.0, {})]
    [('_bucket', 2), ('_bucket', 3), ('_sum', 3.0), ('_count', 3)]
    """
    ends = [*map(_number, bounds), "+Inf"]
    running = [*accumulate(counts)]
    lines = [
        Sample(count, {**labels, "le": end}, "_bucket") for end, count in zip(ends, running, strict=True)
    ]
    return [*lines, Sample(total, labels, "_sum"), Sample(running[-1], labels, "_count")]


def render(families: Iterable[Family]) -> str:
    """Write families in their order.

    >>> print(render([Family("up", "gauge", "Whether it is.", [Sample(1, {"node": "a"})])]), end="")
    # HELP up Whether it is.
    # TYPE up gauge
    up{node="a"} 1
    """
    return "".join(f"{line}\n" for each in families for line in _lines(each))


def _lines(family: Family) -> Iterable[str]:
    yield f"# HELP {family.name} {family.about}"
    yield f"# TYPE {family.name} {family.kind}"
    for each in family.samples:
        yield f"{family.name}{each.suffix}{_labels(each.labels)} {_number(each.value)}"


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Write a number as short as it can be read back.

    >>> _number(3), _number(0.0005), _number(2.0)
    ('3', '0.0005', '2')
    """
    return str(int(value)) if value == int(value) else repr(value)
