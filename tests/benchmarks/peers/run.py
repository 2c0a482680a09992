"""`scripts/bench-peers`: measures qtasks and other task queues side by side, and prints a table.

scripts/bench-peers [--runs N] [--backlog N] [--only NAME,...] [--tries N] [--json FILE] [--write]
scripts/bench-peers --read FILE [--write]

All contestants are measured once, then all a second time, and so on, so that what disturbs one disturbs all.
A measurement during which the host took over 5 % of the time away, or other processes over 10 %, is repeated,
at most twice, and the least disturbed one counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.peers import servers
from tests.benchmarks.peers.contestants import CONTESTANTS, Contestant
from tests.benchmarks.peers.environments import python_of
from tests.benchmarks.peers.measuring import Amounts, measured
from tests.benchmarks.peers.table import MOST_OTHERS, page, rewritten

ROOT = Path(__file__).resolve().parents[3]

PAGE = ROOT / "docs" / "comparison.md"
MOST_STOLEN = 0.05
TRIES = 3

Outcome = tuple[dict[str, float], dict[str, str]]


def least_disturbed(measure: Callable[[], Outcome], tries: int) -> Outcome:
    """Measure until little was taken away by others, at most so often; give the least disturbed outcome."""
    outcomes: list[Outcome] = []
    while len(outcomes) < tries:
        outcomes.append(measure())
        latest = outcomes[-1][0]
        if latest["stolen"] <= MOST_STOLEN and latest["others"] <= MOST_OTHERS:
            break
    figures, versions = min(outcomes, key=lambda each: each[0]["stolen"] + each[0]["others"])
    return figures | {"tries": len(outcomes)}, versions


def measure_once(contestant: Contestant, python: Path, amounts: Amounts) -> Outcome:
    """Measure a contestant in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="qtasks-peers-") as folder:
        return measured(contestant, python, Path(folder), amounts)


def compare(chosen: list[Contestant], runs: int, tries: int, amounts: Amounts) -> Iterator[dict[str, Any]]:
    """Measure all, as often as is asked, in turns; give what was found so far after each turn.

    One that fails is told and left out of that turn.
    """
    pythons = {each.name: python_of(each.setup.peer) for each in chosen}
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    versions = servers.versions()
    failures: dict[str, str] = {}
    for number in range(runs):
        for each in chosen:
            started = time.monotonic()
            try:
                found, its_versions = least_disturbed(
                    partial(measure_once, each, pythons[each.name], amounts), tries
                )
            except (RuntimeError, TimeoutError, ValueError) as error:
                failures[each.name] = str(error)
                print(f"{each.name}: {error}", file=sys.stderr)
                continue
            figures[each.name].append(found)
            versions |= its_versions
            line = " ".join(f"{name}={value:.4g}" for name, value in found.items())
            took = time.monotonic() - started
            print(
                f"run {number + 1} of {runs}: {each.name}, {took:.0f} s: {line}", file=sys.stderr, flush=True
            )
        yield {
            "machine": _machine(),
            "versions": versions,
            "backlog": amounts.backlog,
            "runs": number + 1,
            "figures": figures,
            "failures": failures,
        }


def _machine() -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": model[0].partition(": ")[2] if model else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def main() -> None:
    names = [each.name for each in CONTESTANTS]
    parser = argparse.ArgumentParser(prog="scripts/bench-peers")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--backlog", type=int, default=Amounts().backlog, help="tasks in the backlog (10000)")
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--tries", type=int, default=TRIES, help="how often a disturbed one is, at most (3)")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--read", type=Path, help="measure nothing, take the figures from this file")
    parser.add_argument(
        "--write", action="store_true", help=f"write the tables into {PAGE.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"no contestants: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [each for each in CONTESTANTS if each.name in wanted]
    found: dict[str, Any] = {}
    if options.read:
        found = json.loads(options.read.read_text())
    else:
        if not Path("/proc/self/smaps_rollup").exists():
            raise SystemExit("scripts/bench-peers reads CPU and memory from Linux's /proc, and here is none")
        # Ended by another, it still ends what it started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        servers.install({each.need for each in chosen})
        for found in compare(chosen, max(1, options.runs), options.tries, Amounts(backlog=options.backlog)):
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    tables = page(found)
    if options.write:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(tables)
    if found["failures"]:
        raise SystemExit(f"failed: {', '.join(found['failures'])}")


if __name__ == "__main__":
    main()
