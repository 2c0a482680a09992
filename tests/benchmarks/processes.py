"""Processes of a measurement: started, told apart from others, ended; and what memory and CPU they take."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TOKEN = "t" * 8 + "0123456789abcdef" * 2
KEYS = ("sig_" + "a1b2c3d4" * 8, "sig_" + "e5f6a7b8" * 8)
SECRET = "0123456789abcdef" * 4
SOON_S = 60
LOOK_S = 0.002
TICKS = os.sysconf("SC_CLK_TCK")


def environment(**more: str) -> dict[str, str]:
    """Give this process's environment without what would configure qtasks, but for what is for benchmarks."""
    return {name: value for name, value in os.environ.items() if not _is_setting(name)} | more


def _is_setting(name: str) -> bool:
    return name.startswith(("QTASKS_", "QSTASH_")) and not name.startswith("QTASKS_BENCH_")


@contextmanager
def running(arguments: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process of ours, and end it."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=env, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SOON_S)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def address_said(process: subprocess.Popen[str]) -> str:
    """Find the address that a process says as its first line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://[^\s,]+:\d+", line)
    if found is None:
        raise SystemExit(f"no address in {line!r}")
    return found.group()


@contextmanager
def broker(store: str, *options: str, **env: str) -> Iterator[tuple[str, int]]:
    """Run a standalone broker on a store; gives its address and its process."""
    known = environment(
        QTASKS_TOKEN=TOKEN,
        QTASKS_CURRENT_SIGNING_KEY=KEYS[0],
        QTASKS_NEXT_SIGNING_KEY=KEYS[1],
        **env,
    )
    arguments = ["qtasks", "broker", "--store", store, "--port", "0", *options]
    with running(arguments, known) as process:
        yield address_said(process), process.pid


def await_answer(port: int) -> None:
    """Wait until somebody listens at a port of loopback, by what takes little of the CPU itself."""
    ends_at = time.monotonic() + SOON_S
    while time.monotonic() < ends_at:
        try:
            socket.create_connection(("127.0.0.1", port), SOON_S).close()
            return
        except ConnectionRefusedError:
            time.sleep(LOOK_S)
    raise TimeoutError(f"nothing answers at port {port}")


def rss_mib(pid: int | None = None) -> float:
    """Give the resident memory of a process."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(roots: Sequence[int]) -> float:
    """Give the CPU time that processes and all that they have started have taken."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with suppress(OSError):  # it has just ended
                parent, spent = _stat((each / "stat").read_text())
                children[parent].append(int(each.name))
                ticks[int(each.name)] = spent
    found, left = 0, [each for each in roots if each in ticks]
    while left:
        pid = left.pop()
        found += ticks.pop(pid, 0)  # once, also where one root has started another
        left += children[pid]
    return found / TICKS


def _stat(line: str) -> tuple[int, int]:
    """Read the parent of a process and the ticks that it and its ended children have taken."""
    fields = line.rpartition(")")[2].split()
    return int(fields[1]), sum(int(each) for each in fields[11:15])
