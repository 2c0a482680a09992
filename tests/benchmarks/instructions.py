"""Counts the instructions of the hot paths under valgrind's callgrind, and holds them to those of before.

On a machine whose host takes CPU away in bursts, time says little; what a path executes stays the same to
within a few in a thousand. `instructions.json` has the counts that are the reference, by Python and machine.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.processes import environment
from tests.support import ROOT

REFERENCE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.03
PATIENCE_S = 1800
SUMMARY = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)

Counts = Mapping[str, int]
"""Instructions of one round of each path, by its name."""


def count_instructions(paths: Sequence[str] = ()) -> dict[str, int]:
    """Run the paths under callgrind; takes a few minutes. Raises `SystemExit` where there is no valgrind."""
    if shutil.which("valgrind") is None:
        raise SystemExit("no valgrind: apt-get install valgrind")
    with TemporaryDirectory(prefix="qtasks-callgrind-") as folder:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/%p.out"]
        command = [*valgrind, sys.executable, "-m", "tests.benchmarks.hot_paths", *paths]
        ran = subprocess.run(
            command,
            env=environment(PYTHONPATH=str(ROOT), PYTHONHASHSEED="0"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if ran.returncode:
            raise SystemExit(f"the hot paths failed: {ran.stderr[-2000:]}")
        return per_round(_read(ran.stdout.splitlines(), Path(folder)))


def per_round(processes: Iterator[tuple[str, int, int]]) -> dict[str, int]:
    """Work out what one round takes from two processes of a path: its name, its rounds, all instructions.

    >>> per_round(iter([("delay", 100, 5_000), ("delay", 200, 7_000)]))
    {'delay': 20}
    """
    seen: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, rounds, total in processes:
        seen[name].append((rounds, total))
    found = {}
    for name, [(few, little), (many, much)] in seen.items():
        found[name] = round((much - little) / (many - few))
    return found


def regressed(counts: Counts, reference: Counts) -> list[str]:
    """Name the paths that take more instructions than they did, beyond the tolerance."""
    return [name for name, count in counts.items() if count > (1 + TOLERANCE) * reference.get(name, count)]


def told(counts: Counts, reference: Counts) -> Iterator[str]:
    """Give the lines that tell a person."""
    yield f"{'PATH':12} {'INSTRUCTIONS':>13} {'REFERENCE':>13} {'CHANGE':>8}"
    for name, count in counts.items():
        before = reference.get(name)
        if before is None:
            yield f"{name:12} {count:13,} {'-':>13} {'-':>8}"
            continue
        change = count / before - 1
        verdict = "  regressed" if change > TOLERANCE else "  better" if change < -TOLERANCE else ""
        yield f"{name:12} {count:13,} {before:13,} {change:+8.1%}{verdict}"


def _read(lines: Sequence[str], folder: Path) -> Iterator[tuple[str, int, int]]:
    """Find the instructions of the processes that were told in lines of id, path and rounds."""
    for line in lines:
        pid, name, rounds = line.split()
        found = SUMMARY.search((folder / f"{pid}.out").read_text())
        if found is None:
            raise SystemExit(f"callgrind has not counted {name}")
        yield name, int(rounds), int(found[1])


def run(*, is_update: bool) -> int:
    """Count, tell, and give the exit code: 1 if a path has become longer by more than the tolerance."""
    counts, key = count_instructions(), machine_key()
    references = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    for line in told(counts, references.get(key, {})):
        print(line)
    if is_update:
        REFERENCE.write_text(json.dumps(references | {key: counts}, indent=1, sort_keys=True) + "\n")
        print(f"taken as the reference of {key}")
        return 0
    if key not in references:
        print(f"there is no reference of {key}; --update takes this as one")
    return 1 if regressed(counts, references.get(key, {})) else 0


def machine_key() -> str:
    """Say what counts can be compared: those of the same Python on the same kind of processor."""
    return f"{platform.python_version().rpartition('.')[0]} {platform.machine()}"
