"""What the process that has the broker takes: memory, also with much waiting, and time to start."""

from __future__ import annotations

from contextlib import AbstractContextManager

from qtasks.cli.bench.machine import seconds_since
from qtasks.cli.bench.measuring import drain_rate, fill
from qtasks.clock import stopwatch_ns
from tests.benchmarks.homes import Site, node, opened
from tests.benchmarks.processes import broker, rss_mib
from tests.benchmarks.sizes import Programme

RUN_OF = 100  # of what waits, one in so many is run


def memory(site: Site, programme: Programme) -> dict[str, float]:
    """Look at the memory after some work."""
    with opened(site) as subject:
        drain_rate(subject.rig, subject.rig.work.noop, programme.calls.many)
        return {"rss_mib": rss_mib(subject.keeper)}


def waiting(site: Site, programme: Programme) -> dict[str, float]:
    """Look at the memory while very many tasks wait, and while the first of them run."""
    with opened(site) as subject:
        rig, before = subject.rig, subject.done()
        wanted = programme.waiting // RUN_OF
        rig.pause()
        fill(rig, rig.work.noop, programme.waiting)
        sizes = [rss_mib(subject.keeper)]
        began_at = stopwatch_ns()
        rig.resume()
        rig.await_number(before + wanted, subject.done)
        rate = (subject.done() - before) / seconds_since(began_at)
        sizes.append(rss_mib(subject.keeper))
        rig.pause()  # the rest is thrown away with the store
        return {"waiting_mib": max(sizes), "waiting_tasks": rate}


def start(site: Site, programme: Programme) -> dict[str, float]:
    """Start the process on a store that is there already, until it answers."""
    spans = []
    for _ in range(2):  # the first one makes the store
        began_at = stopwatch_ns()
        with _started(site):
            spans.append(1000 * seconds_since(began_at))
    return {"first_start_ms": spans[0], "start_ms": spans[1]}


def _started(site: Site) -> AbstractContextManager[object]:
    return broker(site.url) if site.home.is_standalone else node(site.url)
