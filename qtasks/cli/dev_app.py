"""The app that `qtasks dev` runs: uvicorn with reload, in a process of its own, whose output is read here.

Also how that process logs: what a task fails with is shown with its place, and its traceback once.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType

from qtasks.cli.logs import FactsFormatter

GRACE_S = 2
"""How long a reload waits for requests; then they are broken off, and tasks are retried by the new code."""
PATIENCE_S = 5
PR_SET_PDEATHSIG = 1
UNTOLD = ("color_message", "retry_in_ms")
"""Facts that are left out: uvicorn's twin of a message, and a wait that is shorter in development."""


class DevelopmentFormatter(FactsFormatter):
    """Shows a traceback the first time only that a task fails at a place in such a way."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._shown: set[tuple[str, str, str]] = set()

    def format(self, record: logging.LogRecord) -> str:
        """Format a record: one line, and what is new of a traceback."""
        told = copy.copy(record)
        for fact in UNTOLD:
            told.__dict__.pop(fact, None)
        type_, _, trace = record.exc_info or (None, None, None)
        if type_ is asyncio.CancelledError:
            return self._in_a_line(told, "broken off: a reload waited long enough")
        if type_ is None or trace is None or not hasattr(record, "task"):
            return super().format(told)
        place = place_of(trace)
        told.__dict__["at"] = place
        cause = (str(told.__dict__["task"]), type_.__name__, place)
        if cause in self._shown:
            return self._in_a_line(told, "traceback above")
        self._shown.add(cause)
        return super().format(told)

    def _in_a_line(self, record: logging.LogRecord, why: str) -> str:
        record.exc_info = record.exc_text = None
        return f"{super().format(record)} ({why})"


def place_of(trace: TracebackType) -> str:
    """Say where in the person's own code it broke: the last frame below the working directory."""
    frames = traceback.extract_tb(trace)
    here = Path.cwd()
    own = [each for each in frames if Path(each.filename).is_relative_to(here)]
    frame = (own or frames)[-1]
    name = os.path.relpath(frame.filename, here) if own else frame.filename
    return f"{name}:{frame.lineno} in {frame.name}"


def command(app: str, port: int, log_config: Path) -> list[str]:
    """Give the command that serves an app with reload."""
    options = ["--reload", "--host", "127.0.0.1", "--port", str(port), "--log-config", str(log_config)]
    grace = ["--timeout-graceful-shutdown", str(GRACE_S)]
    return [sys.executable, "-m", "uvicorn", app, *options, *grace]


def write_log_config(path: Path) -> None:
    """Write the logging of the app's process: what qtasks and uvicorn say, and the app's own from INFO on."""
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"development": {"()": "qtasks.cli.dev_app.DevelopmentFormatter"}},
        "handlers": {
            "out": {
                "class": "logging.StreamHandler",
                "formatter": "development",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"level": "INFO", "handlers": ["out"]},
        # Each call of an app to its broker is its own affair.
        "loggers": {"httpx": {"level": "WARNING"}},
    }
    path.write_text(json.dumps(config), encoding="utf-8")


@asynccontextmanager
async def running(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    line: Callable[[str], None],
    ended: Callable[[int], None],
) -> AsyncIterator[None]:
    """Run a process, and end it at the end; `line` is given what it prints, `ended` told of an early end.

    It is in a session of its own, so that Ctrl-C does not end it before deliveries have ended.
    """
    child = await asyncio.create_subprocess_exec(
        *arguments,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    assert child.stdout is not None
    reading = asyncio.create_task(_read_lines(child.stdout, line))
    watching = asyncio.create_task(child.wait())
    watching.add_done_callback(lambda task: None if task.cancelled() else ended(task.result()))
    try:
        yield
    finally:
        watching.cancel()
        await _end(child)
        await reading


def _end_with_parent() -> None:
    """Have this process ended should its parent be killed, which then can end nobody: on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(child: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        child.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await child.wait()
    with suppress(ProcessLookupError):  # its reloader has ended; what it started must not stay
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


async def _read_lines(stream: asyncio.StreamReader, line: Callable[[str], None]) -> None:
    """Give whole lines, however long they are."""
    rest = b""
    while chunk := await stream.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for each in lines:
            line(each.decode(errors="replace"))
    if rest:
        line(rest.decode(errors="replace"))
