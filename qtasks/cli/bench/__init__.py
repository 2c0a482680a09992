"""`qtasks bench`: measures what a broker does on the machine at hand.

Where it measures stands in `places.py`, the app in `rig.py`, what is measured in `measuring.py`.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from qtasks.cli.bench.figures import RAW, Summary, shown, stolen_share, summarise
from qtasks.cli.command import printing
from qtasks.cli.output import Form, Output, counted
from qtasks.cli.tables import Column
from qtasks.version import VERSION

if TYPE_CHECKING:
    from qtasks.cli.bench.measuring import Sizes
    from qtasks.cli.bench.places import Place

KINDS = ("latency", "results", "enqueue", "tasks")
NOISY = 0.05

COLUMNS: tuple[Column[Summary], ...] = (
    Column("FIGURE", lambda each: each.figure.label, is_whole=True),
    Column("MEDIAN", lambda each: shown(each.median), is_number=True),
    Column("LEAST", lambda each: shown(min(each.values)), is_number=True),
    Column("MOST", lambda each: shown(max(each.values)), is_number=True),
    Column("UNIT", lambda each: each.figure.unit),
)


@click.command(context_settings={"show_default": True})
@click.option(
    "--broker",
    metavar="URL",
    help="What to measure instead: postgresql://… in a schema of its own, http://… by a queue of its own, "
    "sqlite:///FILE by a new file in that one's folder.  [default: a new file in this project's folder]",
)
@click.option(
    "--tasks", "count", default=10_000, type=click.IntRange(100, 1_000_000), help="How long a backlog is."
)
@click.option(
    "--size", default=64, type=click.IntRange(0, 1_000_000), help="How many bytes a call's argument has."
)
@click.option("--runs", default=3, type=click.IntRange(1, 100), help="How often all is measured.")
@click.option("--only", multiple=True, type=click.Choice(KINDS), help="Measure this alone; may be repeated.")
@click.option(
    "--durability", default="full", type=click.Choice(["full", "relaxed"]), help="Of an embedded SQLite file."
)
@click.option(
    "--address",
    metavar="URL",
    help="http://HOST:PORT at which a broker on another machine reaches this one.  [default: loopback]",
)
@printing
def bench(
    out: Output,
    /,
    *,
    broker: str | None,
    count: int,
    size: int,
    runs: int,
    only: tuple[str, ...],
    durability: str,
    address: str | None,
) -> None:
    """Measure what a broker does on this machine: calls accepted, tasks run, latency, memory.

    Tasks do nothing. Nothing of yours is touched: QTASKS_BROKER does not
    count, and what is measured is made for it and removed afterwards. A broker at http://… needs its token in
    QTASKS_TOKEN, does this work beside its own, and keeps the log of it.
    """
    from qtasks.cli.bench.measuring import Sizes
    from qtasks.cli.bench.places import choose, replaced
    from qtasks.settings import Settings

    settings = replaced(Settings.from_env(), broker)
    name, place = choose(settings, address=address, durability=durability, size=size, out=out)
    found, stolen, in_force = [], [], ""
    for number in range(runs):
        out.say(f"run {number + 1} of {runs}: {name}")
        figures, share, in_force = measure(place, Sizes.of(count), only or KINDS)
        found.append(figures)
        stolen.append(share)
    show(out, summarise(found), facts(name, in_force, runs, count, size), stolen)


def measure(place: Place, sizes: Sizes, kinds: Sequence[str]) -> tuple[dict[str, float], float, str]:
    """Measure once; gives the figures, what share of the time the host took, and how durable commits were."""
    from qtasks.cli.bench import machine, measuring

    before = machine.cpu_times()
    figures: dict[str, float] = {}
    with place() as at:
        paces = [at.pace()] if at.pace else []
        for name, work in measuring.KINDS.items():
            if name in kinds:
                figures |= work(at.rig, sizes)
        if at.pace:
            paces.append(at.pace())
            figures[RAW] = sum(paces) / len(paces)
        if at.has_broker:
            figures["memory_mib"] = machine.peak_memory_mib()
    return figures, stolen_share(before, machine.cpu_times()), at.durability


def facts(name: str, durability: str, runs: int, count: int, size: int) -> dict[str, object]:
    """Say what was measured, and on what."""
    return {
        "broker": name,
        "durability": durability,
        "tasks": count,
        "size": size,
        "runs": runs,
        "qtasks": VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cores": os.cpu_count(),
    }


def show(out: Output, found: list[Summary], told: dict[str, object], stolen: Sequence[float]) -> None:
    """Print the figures, and what they must be read with."""
    if out.form is Form.JSON:
        out.json({**told, "stolen": list(stolen), "figures": [each.to_json() for each in found]})
        return
    if out.is_for_people:
        click.echo(
            f"qtasks {told['qtasks']}, Python {told['python']}, SQLite {told['sqlite']}, "
            f"{counted(os.cpu_count() or 1, 'core')}\n{told['broker']}; {told['durability']}\n"
        )
    out.rows(found, COLUMNS, Summary.to_json, empty="nothing was measured")
    if max(stolen) > NOISY:
        out.say(
            f"the host of this machine took up to {max(stolen):.0%} of its CPU meanwhile, so it can do more: "
            "measure again later"
        )
