"""A command on a pseudo-terminal, as a person has it: keys are typed, and what it prints is waited for."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import PATIENCE_S, eventually

LOOK_S = 0.1


class Terminal:
    """Runs `qtasks` with these arguments on a terminal of its own, which it controls; ended at the end."""

    def __init__(self, *arguments: str, folder: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._printed = b""
        self._is_open = True
        self._popen = subprocess.Popen(
            # The terminal is made the controlling one, so that Ctrl-C is a signal.
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            cwd=folder,
            env={"TERM": "xterm", **env},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    @property
    def output(self) -> str:
        """What it has printed so far, with the ends of lines as elsewhere."""
        return self._printed.decode(errors="replace").replace("\r\n", "\n")

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    def takes_lines(self) -> bool:
        """Whether the terminal gives what is typed line by line, as a shell leaves it."""
        return bool(termios.tcgetattr(self._ours)[3] & termios.ICANON)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def expect(self, pattern: str, *, after: int = 0, within: float = PATIENCE_S) -> re.Match[str]:
        """Wait until it has printed `pattern` behind the first `after` characters."""
        return eventually(
            lambda: re.compile(pattern, re.MULTILINE).search(self.output, after),
            f"{pattern!r} on the terminal",
            within=within,
            of=[self],
        )

    def close(self) -> None:
        """Close the terminal's window: what runs there is sent a SIGHUP, and what it prints goes nowhere."""
        self._is_open = False
        self._reading.join(PATIENCE_S)
        os.close(self._ours)

    def wait(self) -> int:
        """Wait for its end; give the exit code."""
        code = self._popen.wait(PATIENCE_S)
        self._reading.join(PATIENCE_S)
        return code

    def _read(self) -> None:
        while self._is_open:
            if not select.select([self._ours], [], [], LOOK_S)[0]:
                continue
            try:
                self._printed += os.read(self._ours, 65536)
            except OSError:  # the other end is closed: it has ended
                return

    def __str__(self) -> str:
        return f"--- on the terminal:\n{self.output[-6000:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        self.wait()
        if self._is_open:
            os.close(self._ours)


_ON_TERMINAL = """\
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from qtasks.cli import main
main(prog_name="qtasks")
"""
