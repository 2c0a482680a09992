"""What all benchmarks share: medians of runs, percentiles, memory, stolen time, the disk's own pace."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RUNS = 5
RAW_COMMITS = 2000
TEXT = "x" * 64
EACH_OF_8 = 500
BACKLOG = 10_000
STAMPS = 300


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def raw_commits_per_second(folder: Path) -> float:
    """Commit single rows with synchronous=FULL: the yardstick that the disk sets."""
    path = folder / f"raw-{time.monotonic_ns()}.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    body = b"x" * 64
    started = time.perf_counter()
    for _ in range(RAW_COMMITS):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t (body) VALUES (?)", (body,))
        connection.execute("COMMIT")
    elapsed = time.perf_counter() - started
    connection.close()
    return RAW_COMMITS / elapsed


def rss_mib(pid: int | None = None) -> float:
    """Give the resident memory of a process."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Say what share of the time between two `cpu_times` the host took away."""
    spans = [b - a for a, b in zip(before, after, strict=True)]
    return spans[7] / max(1, sum(spans))


def cpu_times() -> list[int]:
    """Read the machine's CPU counters; the eighth is stolen time."""
    return [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def calls_per_second(call: Callable[[str], object], threads: int, each: int) -> float:
    """Enqueue from several threads at once."""
    barrier = threading.Barrier(threads + 1)

    def enqueue() -> None:
        barrier.wait()
        for _ in range(each):
            call(TEXT)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(enqueue) for _ in range(threads)]
        barrier.wait()
        started = time.perf_counter()
        for future in futures:
            future.result()
    return threads * each / (time.perf_counter() - started)
