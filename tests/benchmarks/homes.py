"""The homes that are measured, and how one is opened: the broker, the app, and other nodes beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from qtasks import Settings
from qtasks.broker.store.postgres_links import Place
from qtasks.cli.bench import machine
from qtasks.cli.bench.places import QUEUE, listen
from qtasks.cli.bench.rig import CONCURRENCY, Rig, at_work
from qtasks.clock import stopwatch_ns
from tests.benchmarks.processes import (
    KEYS,
    SECRET,
    TOKEN,
    address_said,
    await_answer,
    broker,
    environment,
    running,
)
from tests.support.processes import free_port

ASK_NS = 20_000_000
USUAL = (
    "enqueue", "tasks", "backlog", "plain", "latency", "load", "naps", "results", "memory", "waiting",
    "start",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Home:
    """A place for a broker. `kinds` are the kinds of figures that are measured there."""

    store: str
    kinds: tuple[str, ...]
    is_standalone: bool = False
    batch: int = 100
    """How many calls an app takes in one request: 1 is without batches."""
    nodes: int = 1


HOMES = {
    "embedded": Home("sqlite", (*USUAL, "relaxed", "depth", "store")),
    "standalone": Home("sqlite", (*USUAL, "batches"), is_standalone=True),
    "postgres": Home("postgres", (*USUAL, "depth", "store")),
    "postgres-2": Home("postgres", ("tasks", "backlog"), nodes=2),
    "postgres-3": Home("postgres", ("tasks", "backlog"), nodes=3),
    "standalone-postgres": Home("postgres", ("enqueue", "tasks", "batches"), is_standalone=True),
    "embedded-alone": Home("sqlite", ("tasks", "latency"), batch=1),
    "standalone-alone": Home("sqlite", ("tasks", "latency"), is_standalone=True, batch=1),
    "postgres-alone": Home("postgres", ("tasks", "latency"), batch=1),
}
"""By name. `-alone` is without batches, `-2` and `-3` are so many nodes."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a home is given for one measurement: a folder, and on PostgreSQL a schema that nobody has used."""

    home: Home
    folder: Path
    url: str
    server: int | None = None
    """The process of PostgreSQL."""

    @property
    def is_postgres(self) -> bool:
        """Whether the store is on PostgreSQL."""
        return self.home.store == "postgres"

    def pace(self) -> float:
        """Commit single rows by the database alone: the yardstick of the disk."""
        return (
            machine.server_pace(Place.parse(self.url)) if self.is_postgres else machine.file_pace(self.folder)
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """A home at work. `pids` are the processes whose CPU time is that of the tasks."""

    rig: Rig
    pids: tuple[int, ...]
    keeper: int
    """The process that has the broker."""
    others: Callable[[], int] = lambda: 0

    def done(self) -> int:
        """How many tasks have run, in all nodes."""
        return self.rig.work.done + self.others()


@contextmanager
def opened(site: Site, *, concurrency: int = CONCURRENCY, durability: str = "full") -> Iterator[Subject]:
    """Open a home for the block."""
    home = site.home
    with ExitStack() as stack:
        server = () if site.server is None else (site.server,)
        settings = Settings(broker=site.url, secrets=(SECRET,), durability=durability, batch=home.batch)
        if home.is_standalone:
            asked = broker(site.url, "--concurrency", str(concurrency), QTASKS_DURABILITY=durability)
            address, pid = stack.enter_context(asked)
            listening, public_url = listen(None)
            stack.callback(listening.close)
            known = Settings(
                broker=address, token=TOKEN, signing_keys=KEYS, secrets=(SECRET,), public_url=public_url,
                batch=home.batch,
            )  # fmt: skip
            rig = stack.enter_context(at_work(known, QUEUE, listening=listening, concurrency=concurrency))
            yield Subject(rig, (os.getpid(), pid, *server), pid)
            return
        rig = stack.enter_context(at_work(settings, QUEUE, concurrency=concurrency))
        nodes = [stack.enter_context(node(site.url)) for _ in range(home.nodes - 1)]
        pids = (os.getpid(), *(pid for _, pid in nodes), *server)
        others = stack.enter_context(closing(Others([url for url, _ in nodes])))
        yield Subject(rig, pids, os.getpid(), others.done)


@contextmanager
def node(store: str) -> Iterator[tuple[str, int]]:
    """Run the app in a process of its own; gives where it tells what it has done, and its process."""
    port = free_port()
    arguments = ["uvicorn", "tests.benchmarks.node:app", "--port", str(port), "--log-level", "warning"]
    with running(arguments, environment(QTASKS_BROKER=store, QTASKS_SECRET=SECRET)) as process:
        await_answer(port)
        yield f"http://127.0.0.1:{port}/done", process.pid


class Others:
    """The nodes beside this process, asked so seldom that it takes little of the CPU that they share."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._http = httpx.Client(trust_env=False)
        self._seen, self._seen_at = 0, 0

    def done(self) -> int:
        """Say how many tasks they have run, as of a moment ago."""
        if self._urls and stopwatch_ns() - self._seen_at > ASK_NS:
            self._seen = sum(int(self._http.get(each).text) for each in self._urls)
            self._seen_at = stopwatch_ns()
        return self._seen

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


@contextmanager
def empty_endpoint(*options: str) -> Iterator[str]:
    """Run an HTTP server that does nothing but answer; gives its address."""
    with running(["tests.benchmarks.endpoint", *options], environment()) as process:
        yield address_said(process)
