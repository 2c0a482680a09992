"""What the machine says of processes: CPU and memory of a whole tree, and what others took meanwhile."""

from __future__ import annotations

import os
import resource
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
STOLEN = 7  # its place in /proc/stat
IDLE = (3, 4)
COMMITS = 500


def tree(roots: Iterable[int]) -> list[int]:
    """Give the processes and all that descend from them."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))) is not None:
            children[int(fields[1])].append(int(folder.name))
    found, left = [], list(roots)
    while left:
        pid = left.pop()
        found.append(pid)
        left += children[pid]
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Give the CPU that processes used so far, with that of their children that have ended."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(each) for each in fields[11:15])
    return ticks * TICK_S


def is_running(pid: int) -> bool:
    """Say whether a process is there, and not merely waiting to be waited for."""
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z"


def commits_per_second(folder: Path) -> float:
    """Say how many single rows SQLite commits a second, fsynced: the pace of the disk, which few can beat."""
    connection = sqlite3.connect(folder / "pace.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE pace (body TEXT)")
    started = time.perf_counter()
    for _ in range(COMMITS):
        connection.execute("INSERT INTO pace VALUES (?)", ("x" * 64,))
    elapsed = time.perf_counter() - started
    connection.close()
    return COMMITS / elapsed


def own_cpu_s() -> float:
    """Give the CPU that this process used so far, and those that it started and that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def memory_mib(pids: Iterable[int]) -> tuple[float, float]:
    """Give what processes hold resident: with what they share counted once for all, and once for each."""
    shared_once = each = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (OSError, ProcessLookupError):
            continue
        sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines[1:]}
        shared_once += sizes["Pss"]
        each += sizes["Rss"]
    return shared_once / 1024, each / 1024


def machine_ticks() -> list[int]:
    """Read the machine's own counters of CPU."""
    return [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def shares(before: Sequence[int], after: Sequence[int]) -> tuple[float, float]:
    """Say what share of the time between two readings the host took away, and what share was used here."""
    spans = [b - a for a, b in zip(before, after, strict=True)]
    whole = max(1, sum(spans))
    used = whole - spans[STOLEN] - sum(spans[each] for each in IDLE)
    return spans[STOLEN] / whole, used / whole


def _stat(pid: int) -> list[str] | None:
    """Read what follows a process's name: its state, its parent, and more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ProcessLookupError):
        return None
