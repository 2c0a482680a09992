"""`scripts/bench`: measures all homes, each kind of figure in a process of its own, against their bars.

A measurement during which the host took more than 5 % of the CPU is made again, up to three times, and the
least disturbed one counts. `--wire` and `--instructions` measure something else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from qtasks.version import VERSION
from tests.benchmarks import report
from tests.benchmarks.homes import HOMES
from tests.benchmarks.noise import STEALING, Noise, Watch
from tests.benchmarks.processes import environment
from tests.benchmarks.session import KINDS
from tests.support.postgres import Postgres, binaries, drop_postgres, new_postgres

ROOT = Path(__file__).parents[2]

RUNS = 5
TRIES = 3
PATIENCE_S = 1800
ONCE = ("waiting", "depth")
"""Kinds that are measured once, however noisy: one is of memory, the other of ratios in rounds of its own."""
DURABLE = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}

Measured = dict[str, Any]


class Failed(Exception):
    """A measurement came to no end; says what it printed."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What the runs have found so far: figures by home, and what disturbed each measurement."""

    values: defaultdict[str, defaultdict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    noise: defaultdict[str, defaultdict[str, list[dict[str, float]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    failures: list[str] = field(default_factory=list)

    def note(self, home: str, kind: str, figures: Measured, noise: Noise) -> None:
        """Take in a measurement, of which a figure may have several values."""
        for name, value in figures.items():
            self.values[home][name] += value if isinstance(value, list) else [value]
        self.noise[home][kind].append(noise.to_json())


def measure(home: str, kind: str, server: Postgres | None, *, is_quick: bool) -> tuple[Measured, Noise]:
    """Measure one kind at one home, again while the host takes much; gives figures and what disturbed."""
    tries = []
    for _ in range(1 if kind in ONCE else TRIES):
        watch = Watch([] if server is None else [server.pid])
        figures = _measure(home, kind, server, is_quick=is_quick)
        tries.append((figures, watch.noise()))
        if tries[-1][1].stolen <= STEALING:
            break
    return min(tries, key=lambda each: each[1].stolen)


def _measure(home: str, kind: str, server: Postgres | None, *, is_quick: bool) -> Measured:
    command = [sys.executable, "-m", "tests.benchmarks.session", home, kind]
    if HOMES[home].store == "postgres":
        assert server is not None
        command += ["--store", server.new_store(), "--server", str(server.pid)]
    if is_quick:
        command.append("--quick")
    return _said_by(command)


def _said_by(command: Sequence[str]) -> Measured:
    env = environment(PYTHONPATH=str(ROOT))
    try:
        found = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise Failed(str(error)) from error
    if found.returncode:
        raise Failed(found.stderr.strip() or f"it ended with {found.returncode}")
    read: Measured = json.loads(found.stdout)
    return read


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Make all runs, home after home within each kind, so that what disturbs one disturbs all."""
    homes, kinds = options.home or list(HOMES), options.only or list(KINDS)
    journal, facts = Journal(), _facts(options)
    read: dict[str, Any] = {}
    with _server(homes) as server:
        for number in range(options.runs):
            for kind in kinds:
                for home in homes:
                    if kind in HOMES[home].kinds and not (number and kind in ONCE):
                        _turn(journal, home, kind, server, is_quick=options.quick)
            _say(f"run {number + 1} of {options.runs} is done")
            read = report.document(journal.values, facts, journal.noise, journal.failures)
            if options.out is not None:
                options.out.write_text(json.dumps(read, indent=1))
    return read


def _turn(journal: Journal, home: str, kind: str, server: Postgres | None, *, is_quick: bool) -> None:
    """Measure and note; what fails is told at the end, and does not cost what else was found in an hour."""
    try:
        figures, noise = measure(home, kind, server, is_quick=is_quick)
    except Failed as error:
        journal.failures.append(f"{home} {kind}: {str(error).splitlines()[-1]}")
        _say(f"{home} {kind} failed:\n{error}")
        return
    journal.note(home, kind, figures, noise)
    _say(f"{home} {kind}: {_brief(figures)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _server(homes: Sequence[str]) -> Iterator[Postgres | None]:
    """Run a PostgreSQL where a home needs one, that keeps what it has said."""
    if not any(HOMES[each].store == "postgres" for each in homes):
        yield None
        return
    if binaries() is None:
        raise SystemExit("no PostgreSQL: apt-get install postgresql, or choose homes with --home")
    server = new_postgres(**DURABLE)
    try:
        yield server
    finally:
        drop_postgres(server)


def _brief(figures: Measured) -> str:
    medians = {name: median(each) if isinstance(each, list) else each for name, each in figures.items()}
    return ", ".join(f"{name} {value:.4g}" for name, value in medians.items())


def _facts(options: argparse.Namespace) -> dict[str, object]:
    return {
        "qtasks": VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgresql": _postgres_version(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "runs": options.runs,
        "is_quick": options.quick,
    }


def _postgres_version() -> str | None:
    folder = binaries()
    if folder is None:
        return None
    said = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    return said.stdout.split()[2] if said.returncode == 0 else None


def measure_wire(runs: int) -> Mapping[str, Sequence[float]]:
    """Measure the API, on a file that is filled once: that takes a minute."""
    return _said_by([sys.executable, "-m", "tests.benchmarks.wire", str(runs)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", action="append", choices=HOMES, help="measure this home alone; repeatable")
    parser.add_argument("--only", action="append", choices=KINDS, help="measure this kind alone; repeatable")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="try everything on little; figures mean nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there after each run, too")
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="measure nothing, tell what --out has written"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--wire", action="store_true", help="measure the API of a broker with a million rows")
    parser.add_argument("--instructions", action="store_true", help="count instructions of the hot paths")
    parser.add_argument(
        "--update", action="store_true", help="with --instructions: take them as the reference"
    )
    options = parser.parse_args()
    if options.instructions:
        from tests.benchmarks import instructions

        sys.exit(instructions.run(is_update=options.update))
    if options.wire:
        json.dump(measure_wire(options.runs), sys.stdout, indent=1)
        return
    read = json.loads(options.read.read_text()) if options.read else measure_all(options)
    if options.json:
        json.dump(read, sys.stdout, indent=1)
        sys.exit(1 if read["failures"] else 0)
    for line in report.markdown(read) if options.markdown else report.for_people(read):
        print(line)
    sys.exit(1 if read["failures"] else 0)


if __name__ == "__main__":
    main()
