"""How many tasks a second run from a backlog, from end to end, and how much CPU each takes.

CPU time is that of all processes that take part, PostgreSQL's among them.
"""

from __future__ import annotations

from typing import Any

from qtasks.cli.bench.machine import seconds_since
from qtasks.cli.bench.measuring import fill, paused
from qtasks.clock import stopwatch_ns
from tests.benchmarks.homes import Site, Subject, opened
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.sizes import Programme

NAP_MS = 50
NAPPERS = 100


def tasks(site: Site, programme: Programme) -> dict[str, float]:
    """Run a backlog of coroutines that do nothing."""
    with opened(site) as subject:
        rate, cpu_us = drain(subject, subject.rig.work.noop, programme.calls.backlog)
    return {"tasks": rate, "cpu_us": cpu_us}


def backlog(site: Site, programme: Programme) -> dict[str, float]:
    """Run a long backlog of them."""
    with opened(site) as subject:
        rate, cpu_us = drain(subject, subject.rig.work.noop, programme.backlog)
    return {"backlog": rate, "backlog_cpu_us": cpu_us}


def plain(site: Site, programme: Programme) -> dict[str, float]:
    """Run a backlog of plain functions, each in a thread of the pool."""
    with opened(site) as subject:
        rate, cpu_us = drain(subject, subject.rig.work.plain, programme.calls.backlog)
    return {"plain": rate, "plain_cpu_us": cpu_us}


def naps(site: Site, programme: Programme) -> dict[str, float]:
    """Run coroutines that sleep for 50 ms, a hundred at once: at best 2,000 a second."""
    with opened(site, concurrency=NAPPERS) as subject:
        nap = subject.rig.work.nap
        before = subject.done()
        with paused(subject.rig):
            nap.delay_many(nap.call(NAP_MS) for _ in range(programme.naps))
            began_at = stopwatch_ns()
        subject.rig.await_number(before + programme.naps, subject.done)
        return {"naps": programme.naps / seconds_since(began_at)}


def drain(subject: Subject, task: Any, count: int) -> tuple[float, float]:
    """Fill a backlog while the queue is paused, then run it; gives tasks a second and µs of CPU for each."""
    before = subject.done()
    with paused(subject.rig):
        fill(subject.rig, task, count)
        spent, began_at = cpu_seconds(subject.pids), stopwatch_ns()
    subject.rig.await_number(before + count, subject.done)
    rate = count / seconds_since(began_at)
    return rate, 1e6 * (cpu_seconds(subject.pids) - spent) / count
