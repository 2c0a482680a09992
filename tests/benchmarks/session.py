"""One measurement in a process of its own: a kind of figure at a home. Prints one JSON object.

python -m tests.benchmarks.session HOME KIND [--store URL --server PID] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from qtasks.broker.store.postgres_links import Place
from qtasks.cli.bench.machine import drop_schema
from tests.benchmarks import batches, draining, enqueueing, footprint, latencies, storing
from tests.benchmarks.homes import HOMES, Site
from tests.benchmarks.sizes import FULL, QUICK, Programme

Found = Mapping[str, float] | Mapping[str, Sequence[float]]
"""Figures by name, of which some measurements find a value for each of several rounds."""

KINDS: dict[str, Callable[[Site, Programme], Found]] = {
    "enqueue": enqueueing.enqueue,
    "relaxed": enqueueing.relaxed,
    "tasks": draining.tasks,
    "backlog": draining.backlog,
    "plain": draining.plain,
    "naps": draining.naps,
    "latency": latencies.latency,
    "load": latencies.load,
    "results": latencies.results,
    "memory": footprint.memory,
    "start": footprint.start,
    "waiting": footprint.waiting,
    "depth": storing.depth,
    "store": storing.store,
    "batches": batches.batches,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", choices=HOMES)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--store")
    parser.add_argument("--server", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="qtasks-bench-") as name:
        url = options.store or f"sqlite:///{Path(name) / 'bench.db'}"
        site = Site(HOMES[options.home], Path(name), url, options.server)
        try:
            found = KINDS[options.kind](site, QUICK if options.quick else FULL)
        finally:
            if options.store:  # or the server would go on to look after it
                drop_schema(Place.parse(options.store))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
