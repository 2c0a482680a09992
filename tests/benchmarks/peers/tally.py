"""Counts how many tasks have started, in a file that worker processes share with whoever measures them.

Each process has a slot of its own: how many tasks it has started, and when the last one did. It costs a
task some 0.3 µs, and watching it costs no server anything. Used alike by all contestants, in environments
that have nothing but the standard library in common.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from pathlib import Path

VARIABLE = "PEERS_TALLY"
PROCESSES = 1000
_WORD = 8
_SIZE = _WORD * (1 + 2 * PROCESSES)

_lock = threading.Lock()
_mine: memoryview | None = None


class Tally:
    """The whole file, as whoever measures sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        self._words = _mapped(path)

    @property
    def started(self) -> int:
        """How many tasks have started, in all processes."""
        return sum(self._words[1 + 2 * each] for each in range(self._words[0]))

    @property
    def last_at_ns(self) -> int:
        """When the last of them started, on the machine's monotonic clock."""
        return max((self._words[2 + 2 * each] for each in range(self._words[0])), default=0)


def ran() -> None:
    """Note that a task has started, in this process; the file is named by the environment."""
    global _mine
    with _lock:
        if _mine is None:
            _mine = _take_slot(Path(os.environ[VARIABLE]))
        _mine[1] = time.monotonic_ns()
        _mine[0] += 1


def _mapped(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("Q")


def _take_slot(path: Path) -> memoryview:
    words = _mapped(path)
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = words[0]
        if number >= PROCESSES:
            raise RuntimeError(f"{path} has slots for {PROCESSES} processes, and all are taken")
        words[0] = number + 1
    return words[1 + 2 * number : 3 + 2 * number]


def _forget() -> None:
    global _mine, _lock
    _mine, _lock = None, threading.Lock()


# A forked worker counts for itself, and its parent may have held the lock.
os.register_at_fork(after_in_child=_forget)
