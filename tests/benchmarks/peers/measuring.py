"""One measurement of one contestant, from a new server to its end.

A backlog is made while nothing runs it; then workers start, and the time counts from the first task to the
last; then calls are made one by one while nothing else goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.peers.children import TAIL, Child
from tests.benchmarks.peers.contestants import Contestant
from tests.benchmarks.peers.environments import ROOT
from tests.benchmarks.peers.machine import (
    commits_per_second,
    cpu_s,
    machine_ticks,
    memory_mib,
    own_cpu_s,
    shares,
    tree,
)
from tests.benchmarks.peers.servers import KEYS, Server, free_port, is_open, serving
from tests.benchmarks.peers.tally import VARIABLE, Tally

START_S = 60
POLL_S = 0.005
SETTLE_S = 0.3


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured."""

    backlog: int = 10_000
    single: int = 1000
    each_of_8: int = 250
    samples: int = 200
    budget_s: int = 10
    slowest: int = 50
    """A backlog that is run at fewer tasks a second than this is given up."""


class Measurement:
    """A contestant with its server, for as long as one measurement takes."""

    def __init__(
        self, contestant: Contestant, python: Path, server: Server, folder: Path, amounts: Amounts
    ) -> None:
        self._contestant = contestant
        self._python = python
        self._server = server
        self._folder = folder
        self._amounts = amounts
        self._port = free_port()
        self._tally = Tally(folder / "tally")
        self.versions: dict[str, str] = {}

    def figures(self) -> dict[str, float]:
        """Go through all phases."""
        found = self._drive("fill")
        with self._working("fill") as workers:
            found |= self._drained(workers)
            found |= self._memory(workers)
            if not self._contestant.lives_in_app:
                found |= self._drive("latency")
                if not self._contestant.setup.restarts_for_results:
                    found |= self._results()
        if self._contestant.lives_in_app:
            found |= self._drive("latency") | self._results()
        elif self._contestant.setup.restarts_for_results:
            with self._working("results"):
                found |= self._results()
        return found

    def _results(self) -> dict[str, float]:
        return self._drive("results") if self._contestant.setup.has_results else {}

    def _environment(self, phase: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("QTASKS_", "QSTASH_"))
        }
        ours = {
            **KEYS,
            "QTASKS_BROKER": self._server.url,
            "QTASKS_PUBLIC_URL": f"http://127.0.0.1:{self._port}/qtasks",
        }
        theirs = {"PEERS_URL": self._server.url, "PEERS_PHASE": phase, VARIABLE: str(self._tally.path)}
        return (
            kept
            | theirs
            | dict(self._contestant.setup.environment)
            | {"PYTHONPATH": str(ROOT)}
            | (ours if self._contestant.is_ours else {})
        )

    def _drive(self, phase: str) -> dict[str, float]:
        """Have the client's side measured, by a process of the contestant's environment."""
        options = json.dumps(asdict(self._amounts) | {"tally": str(self._tally.path)})
        command = ["-m", "tests.benchmarks.peers.driver", self._contestant.setup.module, phase, options]
        said = json.loads(self._run(command, phase))
        self.versions |= said["versions"]
        figures: dict[str, float] = said["figures"]
        return figures

    def _run(self, command: list[str], phase: str) -> str:
        limit_s = START_S + 2 * self._amounts.budget_s + self._amounts.backlog / self._amounts.slowest
        try:
            done = subprocess.run(
                [str(self._python), *command],
                env=self._environment(phase),
                cwd=self._folder,
                capture_output=True,
                text=True,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self._contestant.name}: {phase} took over {limit_s:.0f} s") from error
        if done.returncode:
            raise RuntimeError(f"{self._contestant.name}: {phase} failed: {done.stderr[-TAIL:]}")
        return done.stdout

    @contextmanager
    def _working(self, phase: str) -> Iterator[list[Child]]:
        """Run what runs tasks."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(self._worker(number, phase))
                for number in range(self._contestant.setup.processes)
            ]

    def _worker(self, number: int, phase: str) -> Child:
        arguments = [each.format(port=self._port, number=number) for each in self._contestant.setup.worker]
        name = f"{self._contestant.name}-{number}"
        return Child(name, [str(self._python), *arguments], self._folder, self._environment(phase))

    def _drained(self, workers: list[Child]) -> dict[str, float]:
        """Wait until the whole backlog has run; give how fast that was, and what it cost."""
        worker = workers[0]
        if self._contestant.is_ours:
            worker.wait_for(lambda: is_open(self._port), START_S)
            self._run(["-m", "qtasks", "queues", "resume", "bench"], "resume")
        wanted, limit_s = self._amounts.backlog, START_S + self._amounts.backlog / self._amounts.slowest
        worker.wait_for(lambda: self._tally.started, START_S, POLL_S)
        first, began_at, began = self._tally.started, time.monotonic(), self._cpu_s(workers)
        worker.wait_for(lambda: self._tally.started >= wanted, limit_s, POLL_S)
        ended_at = time.monotonic()
        if first >= wanted:
            raise ValueError(f"a backlog of {wanted} tasks is over before it can be measured: take more")
        time.sleep(SETTLE_S)  # the last tasks have started: that they are done is yet to be recorded
        settled = self._cpu_s(workers)
        ran, cpu = wanted - first, [b - a for a, b in zip(began, settled, strict=True)]
        return {
            "tasks": ran / (ended_at - began_at),
            "cpu_us": 1e6 * sum(cpu) / ran,
            "worker_cpu_us": 1e6 * cpu[0] / ran,
            "server_cpu_us": 1e6 * cpu[1] / ran,
            "ran_twice": self._tally.started - wanted,
        }

    def _cpu_s(self, workers: list[Child]) -> tuple[float, float]:
        """Give what the workers and the server have used so far."""
        return cpu_s(tree(each.pid for each in workers)), cpu_s(self._server_tree())

    def _server_tree(self) -> list[int]:
        return [] if self._server.pid is None else tree([self._server.pid])

    def _memory(self, workers: list[Child]) -> dict[str, float]:
        shared_once, each = memory_mib(tree(each.pid for each in workers))
        found = {"memory_mib": shared_once, "rss_mib": each}
        if self._server.pid is not None:
            found["server_mib"] = memory_mib(self._server_tree())[0]
        return found


def measured(
    contestant: Contestant, python: Path, folder: Path, amounts: Amounts
) -> tuple[dict[str, float], dict[str, str]]:
    """Measure a contestant once, in an empty folder; give its figures and the versions of its packages."""
    ticks, used_s, began_at = machine_ticks(), own_cpu_s(), time.monotonic()
    commits = commits_per_second(folder)
    with serving(contestant.need, folder) as server:
        measurement = Measurement(contestant, python, server, folder, amounts)
        figures = measurement.figures()
    stolen, used = shares(ticks, machine_ticks())
    ours = (own_cpu_s() - used_s) / (time.monotonic() - began_at) / (os.cpu_count() or 1)
    figures |= {"commits": commits, "stolen": stolen, "others": max(0.0, used - ours)}
    return figures, measurement.versions
