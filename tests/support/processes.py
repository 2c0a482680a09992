"""Real processes for tests of faults: a standalone broker, an app under uvicorn, plain scripts.

Each writes to a file of its own, which a test waits on and which is shown when a wait fails. Every
wait ends. Only what was started here is ever killed, by its id.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from tests.support import BATCH, BATCH_ENV, ROOT
from tests.support.api import BrokerApi, owner_api, read_keys
from tests.support.waiting import PATIENCE_S, eventually

TAIL = 6000  # characters of a process's output that a failed wait shows
APP_FOLDER = ROOT / "tests" / "faults"


class Process:
    """A child process with what it has printed, both streams together."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._output = folder / f"{name}.out"
        with self._output.open("wb") as output:
            self._popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the process, and of the group of all that it starts."""
        return self._popen.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def expect(self, pattern: str, *, count: int = 1, within: float = PATIENCE_S) -> list[re.Match[str]]:
        """Wait until it has printed `pattern` `count` times; give the matches."""
        wanted = re.compile(pattern, re.MULTILINE)

        def found() -> list[re.Match[str]] | None:
            is_over = not self.is_running
            matches = list(wanted.finditer(self.output))
            if len(matches) < count and is_over:
                raise AssertionError(f"it ended before it had printed {pattern!r} {count} times\n{self}")
            return matches if len(matches) >= count else None

        return eventually(found, f"{pattern!r} printed {count} times", within=within, of=[self])

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would: it can do nothing more."""
        self._popen.kill()
        self._popen.wait(PATIENCE_S)

    def send(self, signal_number: int) -> None:
        """Send it a signal, and do not wait."""
        self._popen.send_signal(signal_number)

    def terminate(self) -> None:
        """Send it SIGTERM, and do not wait."""
        self.send(signal.SIGTERM)

    def wait(self, within: float = PATIENCE_S) -> int:
        """Wait for its end; give the exit code, negative for a signal."""
        eventually(lambda: not self.is_running, f"the end of {self.name}", within=within, of=[self])
        return self._popen.wait()

    def clear_away(self) -> None:
        """Kill it and all that it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of them have ended
        self._popen.wait(PATIENCE_S)

    def __str__(self) -> str:
        code = self._popen.poll()
        state = "running" if code is None else f"ended with {code}"
        return f"--- {self.name} (process {self.pid}, {state}) printed:\n{self.output[-TAIL:]}"


NODE_ENV = {
    "QTASKS_TOKEN": "the-token-of-all-nodes-of-a-test",
    "QTASKS_CURRENT_SIGNING_KEY": "sig_of_all_nodes",
    "QTASKS_NEXT_SIGNING_KEY": "sig_that_comes_next",
    "QTASKS_SECRET": "2718281828459045235360287471352662497757",
}
"""What brokers that share a store, and the apps that they deliver to, must have alike."""


class BrokerProcess(Process):
    """A standalone broker on a SQLite file, at a free port of loopback."""

    url: str
    token: str
    up_at: float
    """When it was seen to be up, on the monotonic clock."""

    def __init__(self, name: str, store: Path, options: Sequence[str], folder: Path) -> None:
        self._store = store
        arguments = [sys.executable, "-m", "qtasks", "broker", "--store", f"sqlite:///{store}", "--port", "0"]
        super().__init__(name, [*arguments, *options], folder, clean_environment())

    def await_start(self) -> None:
        """Wait until it says where it listens."""
        self.url = self.expect(r"broker on (http://\S+), store")[0][1]
        self.up_at = time.monotonic()
        self.token = read_keys(self._store)["QSTASH_TOKEN"]

    def api(self) -> BrokerApi:
        """Give its API, to be closed."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return BrokerApi(httpx.Client(base_url=self.url, headers=headers, timeout=10, trust_env=False))


class NodeProcess(BrokerProcess):
    """A standalone broker on a PostgreSQL that others share."""

    def __init__(self, name: str, store: str, options: Sequence[str], folder: Path) -> None:
        self.token = NODE_ENV["QTASKS_TOKEN"]
        arguments = [sys.executable, "-m", "qtasks", "broker", "--store", store, "--port", "0"]
        Process.__init__(self, name, [*arguments, *options], folder, clean_environment() | NODE_ENV)

    def await_start(self) -> None:
        """Wait until it says where it listens."""
        self.url = self.expect(r"broker on (http://\S+), store")[0][1]
        self.up_at = time.monotonic()


class AppProcess(Process):
    """The app of `tests/faults/app_under_test.py` under uvicorn, at a free port of loopback."""

    url: str
    up_at: float
    """When its first process was seen to serve, on the monotonic clock."""

    def __init__(
        self, name: str, store: Path, options: Sequence[str], folder: Path, env: Mapping[str, str]
    ) -> None:
        self._store = store
        arguments = [sys.executable, "-m", "uvicorn", "--port", "0", "app_under_test:app"]
        super().__init__(name, [*arguments, *options], folder, env)

    def await_start(self) -> None:
        """Wait until it serves, in one process at least."""
        self.expect(r"Application startup complete")
        self.up_at = time.monotonic()
        self.url = self.expect(r"Uvicorn running on (http://\S+) ")[0][1]

    @property
    def owners(self) -> list[int]:
        """The ids of the processes that have come to own the file, in order."""
        return [int(each) for each in re.findall(r"qtasks: process (\d+) runs the tasks of", self.output)]

    def delay(self, task: str, key: str) -> int:
        """Have a task enqueued by the app, over a connection of its own; give the process that did it."""
        try:
            answer = httpx.post(f"{self.url}/delay/{task}/{key}", timeout=10, trust_env=False)
        except httpx.TransportError as error:
            raise AssertionError(f"{task} {key}: {error!r}\n{self}") from error
        assert answer.status_code == 200, f"{task} {key}: {answer.status_code} {answer.text}\n{self}"
        return int(answer.text)

    def broker_api(self) -> BrokerApi:
        """Give the API of the broker inside, by way of its Unix socket; to be closed."""
        return eventually(lambda: owner_api(self._store), "the owner's socket", of=[self])


P = TypeVar("P", bound=Process)


class Processes:
    """Starts processes under names that are counted, and kills at the end what still runs.

    `store` and `ledger` are the files of the test, which all processes share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "q.db"
        self.ledger = folder / "ledger.txt"
        self._started: list[Process] = []

    def broker(self, *options: str) -> BrokerProcess:
        """Start a standalone broker, and wait until it is up."""
        broker = self._keep(BrokerProcess(self._name("broker"), self.store, options, self.folder))
        broker.await_start()
        return broker

    def node(self, store: str, *options: str) -> NodeProcess:
        """Start a standalone broker on PostgreSQL, and wait until it is up."""
        node = self._keep(NodeProcess(self._name("node"), store, options, self.folder))
        node.await_start()
        return node

    def app(self, *options: str, env: Mapping[str, str] | None = None) -> AppProcess:
        """Start the app, and wait until it is up."""
        app = self.unready_app(*options, env=env)
        app.await_start()
        return app

    def unready_app(self, *options: str, env: Mapping[str, str] | None = None) -> AppProcess:
        """Start the app, and do not wait: it may end before it is up."""
        settings = self.environment() | dict(env or {})
        return self._keep(AppProcess(self._name("app"), self.store, options, self.folder, settings))

    def python(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start Python with these arguments; it can import the app."""
        settings = self.environment() | dict(env or {})
        command = [sys.executable, *arguments]
        return self._keep(Process(self._name("python"), command, self.folder, settings))

    def remote_app(
        self, broker: BrokerProcess, port: int | None = None, options: Sequence[str] = (), batch: int = BATCH
    ) -> AppProcess:
        """Start the app with a standalone broker, at a free port or this one, and wait until it is up.

        It takes up to `batch` calls in one request.
        """
        port, keys = port or free_port(), read_keys(self.store)
        env = {
            "QTASKS_BROKER": broker.url,
            "QTASKS_TOKEN": broker.token,
            "QTASKS_CURRENT_SIGNING_KEY": keys["QSTASH_CURRENT_SIGNING_KEY"],
            "QTASKS_NEXT_SIGNING_KEY": keys["QSTASH_NEXT_SIGNING_KEY"],
            "QTASKS_SECRET": keys["QTASKS_SECRET"],
            "QTASKS_PUBLIC_URL": f"http://127.0.0.1:{port}/qtasks",
            "QTASKS_BATCH": str(batch),
        }
        return self.app("--port", str(port), *options, env=env)

    def open_gate(self) -> None:
        """Let the tasks end that wait for it."""
        self.ledger.with_name(f"{self.ledger.name}.gate").touch()

    def environment(self) -> dict[str, str]:
        """Give the environment in which the app is told its files."""
        return clean_environment() | {
            "QTASKS_BROKER": f"sqlite:///{self.store}",
            "QTASKS_TEST_LEDGER": str(self.ledger),
        }

    def _name(self, kind: str) -> str:
        return f"{len(self._started) + 1}-{kind}"

    def _keep(self, process: P) -> P:
        self._started.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.clear_away()


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Give this process's environment without what would configure qtasks, but for how this run has calls
    handed over; it can import the app."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("QTASKS_", "QSTASH_", "PYTHON"))
    }
    return (
        kept
        | BATCH_ENV
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(APP_FOLDER)]), "PYTHONUNBUFFERED": "1"}
    )
