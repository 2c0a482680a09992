"""`scripts/bench`: measures both homes, interleaved with the pace of the disk, and prints medians.

scripts/bench [--runs N] [--json] [--wire | --postgres]

With --wire it measures the API of a standalone broker with a million rows behind it instead, with
--postgres an app and the store on a PostgreSQL of its own (fsync and synchronous_commit on).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.measure import RUNS, cpu_times, raw_commits_per_second, stolen_share  # noqa: E402

Runs = dict[str, dict[str, list[float]]]

HOMES = ("embedded", "standalone")
UNITS = {
    "raw": "commits/s",
    "delay_1": "calls/s",
    "delay_8": "calls/s",
    "delay_many": "calls/s",
    "tasks": "tasks/s",
    "batch_100": "messages/s",
    "batch_500": "messages/s",
    "enqueue_100": "messages/s",
    "enqueue_500": "messages/s",
    "cycle_64": "messages/s",
    "cycle_200": "messages/s",
    "plain_tasks": "tasks/s",
    "rss_mib": "MiB",
    "stolen": "share",
}


def measure_once(home: str, folder: Path) -> dict[str, float]:
    """Measure a home in a process of its own, with the disk's pace right before and after."""
    before = cpu_times()
    raw = raw_commits_per_second(folder)
    env = os.environ | {"QTASKS_BROKER": f"sqlite:///{folder / 'bench.db'}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"tests.benchmarks.{home}"]
    found = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if found.returncode:
        raise SystemExit(f"{home}: {found.stderr}")
    figures: dict[str, float] = json.loads(found.stdout)
    figures["raw"] = (raw + raw_commits_per_second(folder)) / 2
    figures["delay_1_of_raw"] = figures["delay_1"] / figures["raw"]
    figures["delay_8_of_raw"] = figures["delay_8"] / figures["raw"]
    figures["stolen"] = stolen_share(before, cpu_times())
    return figures


def measure_homes(count: int) -> Runs:
    """Measure both homes, one after the other, so that what disturbs one disturbs both."""
    runs: Runs = {home: defaultdict(list) for home in HOMES}
    for n in range(count):
        for home in HOMES:
            with TemporaryDirectory(prefix="qtasks-bench-") as folder:
                for name, value in measure_once(home, Path(folder)).items():
                    runs[home][name].append(value)
            print(f"run {n + 1} of {count}: {home} done", file=sys.stderr)
    return runs


def measure_wire(count: int) -> Runs:
    """Measure the API, on a file that is filled once: that takes a minute."""
    command = [sys.executable, "-m", "tests.benchmarks.wire", str(count)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    if found.returncode:
        raise SystemExit(f"wire: {found.stderr}")
    return {"wire": json.loads(found.stdout)}


def measure_postgres(count: int) -> Runs:
    """Measure an app and a broker on PostgreSQL, and the store itself, on a server started for them."""
    from tests.benchmarks import postgres
    from tests.support.postgres import drop_postgres, new_postgres

    runs: Runs = {"app": defaultdict(list), "broker": defaultdict(list), "store": defaultdict(list)}
    server = new_postgres(fsync="on", synchronous_commit="on", shared_buffers="512MB", max_wal_size="4GB")
    try:
        for n in range(count):
            before, raw = cpu_times(), postgres.raw_commits_per_second(server.url("postgres"))
            figures = _on_postgres("embedded", server.new_store())
            figures["raw"] = (raw + postgres.raw_commits_per_second(server.url("postgres"))) / 2
            figures["delay_1_of_raw"] = figures["delay_1"] / figures["raw"]
            figures["delay_8_of_raw"] = figures["delay_8"] / figures["raw"]
            figures["stolen"] = stolen_share(before, cpu_times())
            found = {
                "app": figures,
                "broker": _on_postgres("batches", server.new_store()),
                "store": postgres.store_figures(server.new_store()),
            }
            for room, of_room in found.items():
                for name, value in of_room.items():
                    runs[room][name].append(value)
            print(f"run {n + 1} of {count}: {json.dumps(found)}", file=sys.stderr, flush=True)
    finally:
        drop_postgres(server)
    return runs


def _on_postgres(module: str, store: str) -> dict[str, float]:
    """Run what measures an app or a broker, in a process of its own."""
    env = os.environ | {
        "QTASKS_BROKER": store,
        "QTASKS_SECRET": "2718281828459045235360287471352662497757",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", f"tests.benchmarks.{module}"]
    found = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if found.returncode:
        raise SystemExit(f"{module}: {found.stderr}")
    figures: dict[str, float] = json.loads(found.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--wire", action="store_true", help="measure the API instead of the homes")
    parser.add_argument("--postgres", action="store_true", help="measure an app and a store on PostgreSQL")
    options = parser.parse_args()
    measure = measure_wire if options.wire else measure_postgres if options.postgres else measure_homes
    runs = measure(options.runs)
    if options.json:
        json.dump(runs, sys.stdout, indent=1)
        return
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores,")
    print(f"medians of {options.runs} (least to greatest); synchronous=FULL, no-op task, 64-byte argument")
    for home, figures in runs.items():
        print(f"\n{home}")
        for name, values in figures.items():
            middle, low, high = statistics.median(values), min(values), max(values)
            unit = UNITS.get(name, "ms" if name.endswith("_ms") else "")
            print(f"  {name:16} {middle:10.4g}  ({low:.4g} to {high:.4g}) {unit}")


if __name__ == "__main__":
    main()
