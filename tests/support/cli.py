"""Runs commands of `qtasks` in this process, against brokers of tests."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from qtasks.cli import main
from tests.support import ROOT
from tests.support.processes import clean_environment


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed, read as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """What was printed, read as lines of JSON."""
        return [json.loads(each) for each in self.out.splitlines()]


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands in an environment, on a thread, so that brokers on this loop can answer."""

    env: Mapping[str, str]

    async def __call__(self, *arguments: str, **env: str) -> Ran:
        """Run one command to its end."""
        return await asyncio.to_thread(run, *arguments, env={**self.env, **env})


def run(*arguments: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run a command that ends by itself."""
    result = CliRunner().invoke(main, list(arguments), env=dict(env or {}), prog_name="qtasks")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def on_terminal(*arguments: str, env: Mapping[str, str]) -> str:
    """Run a command on a pseudo-terminal; give what it has printed there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "qtasks", *arguments],
        cwd=ROOT,
        env={**clean_environment(), "TERM": "xterm", **env},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 65536):
            printed += chunk
    except OSError:
        pass  # the other end is closed: it has ended
    process.wait(20)
    os.close(ours)
    return printed.decode()
