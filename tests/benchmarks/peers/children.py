"""The processes of a measurement: each in a group of its own, which ends whole, whatever it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.benchmarks.peers.machine import is_running, tree

T = TypeVar("T")

TAIL = 3000
SOON_S = 15


class Child:
    """A process that runs while it is entered; both its streams go to a file."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._path = folder / f"{name}.out"

    def __enter__(self) -> Self:
        with self._path.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ask it to end, and kill what is left of it and of its own children."""
        mine = tree([self.pid])
        self._process.terminate()
        try:
            self._process.wait(SOON_S)
        except subprocess.TimeoutExpired:
            pass
        left = [pid for pid in mine if _session(pid) == self.pid]
        for pid in left:
            _kill(pid)
        self._process.wait(SOON_S)
        ends_at = time.monotonic() + SOON_S
        while any(is_running(pid) for pid in left) and time.monotonic() < ends_at:
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The id of the process, and of its session."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._path.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise, with its last words, if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}: {self.output[-TAIL:]}")

    def wait_for(self, found: Callable[[], T | None], within_s: float, every_s: float = 0.02) -> T:
        """Wait until something is found that is true; give it."""
        ends_at = time.monotonic() + within_s
        while True:
            if value := found():
                return value
            self.check()
            if time.monotonic() > ends_at:
                raise TimeoutError(f"waited {within_s:.0f} s for {self.name}: {self.output[-TAIL:]}")
            time.sleep(every_s)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
