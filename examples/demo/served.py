"""The app as a user runs it: uvicorn in a process of its own, with a database in a folder of its own.

Also the two ways to speak to it from outside: its own pages, and the API of the broker inside it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qtasks.client.clients import Client
from qtasks.home.keys import keys_path, load_or_make_keys
from qtasks.home.ownership import owner_socket
from qtasks.ids import Ids

ROOT = Path(__file__).resolve().parents[2]
START_S = 30
STOP_S = 30
# What a server may end with that was asked to: it passes the signal on once it has stopped.
CLEAN = (0, -signal.SIGTERM, -signal.SIGINT)


class AppFailed(Exception):
    """The app did not start, or did not stop; the text ends with what it said last."""


@dataclass(frozen=True, slots=True)
class ServedApp:
    """A running app: its process, its address, its database, and what it has said so far."""

    server: subprocess.Popen[bytes]
    url: str
    database: Path
    log: Path

    def notices(self) -> list[str]:
        """Give the lines in which qtasks said what it does in that process."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [each for each in lines if each.startswith("qtasks: ")]

    def broker(self) -> Client:
        """Speak to the broker inside: the process that owns the file listens on a socket of this user."""
        keys = load_or_make_keys(keys_path(self.database), Ids())
        return Client("", keys.token, socket=owner_socket(self.database))


@contextmanager
def served_app(folder: Path) -> Iterator[ServedApp]:
    """Run the app for as long as the block lasts; raises `AppFailed`."""
    log = folder / "uvicorn.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            _command(), cwd=ROOT, env=_environment(folder), stdout=output, stderr=output
        )
    try:
        yield ServedApp(server, _address(server, log), folder / "qtasks.db", log)
    finally:
        _stop(server)
    if server.returncode not in CLEAN:
        raise AppFailed(f"the app ended with {server.returncode}:\n{_last_words(log)}")


def _command() -> list[str]:
    # Port 0 is any free one; uvicorn says which.
    options = ["--host", "127.0.0.1", "--port", "0", "--no-access-log", "--no-use-colors"]
    return [sys.executable, "-m", "uvicorn", "examples.demo.app:app", *options]


def _environment(folder: Path) -> dict[str, str]:
    """Set the one variable that the app goes by, and none that this shell may have set for another."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("QTASKS_", "QSTASH_"))
    }
    return inherited | {"QTASKS_BROKER": f"sqlite:///{folder / 'qtasks.db'}"}


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the app serves, and give its URL."""
    ends_at = time.monotonic() + START_S
    while time.monotonic() < ends_at and server.poll() is None:
        said = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", said)
        if found:
            return found[1]
        time.sleep(0.02)
    raise AppFailed(f"the app did not start:\n{_last_words(log)}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, which lets tasks in flight end too, and see to it that it does."""
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
