"""How long after its call a task starts, or its caller has the result: idle, and at half of what can be run.

Under load tasks come at instants fixed beforehand, in bunches, whether or not those before have run; the wait
counts from that instant, so that a stall is seen in all tasks that it delays.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from qtasks.cli.bench import measuring
from qtasks.cli.bench.figures import percentile
from qtasks.clock import stopwatch_ns
from tests.benchmarks.draining import drain
from tests.benchmarks.homes import Site, Subject, opened
from tests.benchmarks.sizes import Programme

SHARE = 0.5
BUNCH_NS = 10_000_000
CALLERS = 4


def latency(site: Site, programme: Programme) -> dict[str, float]:
    """Call when nothing else goes on."""
    with opened(site) as subject:
        return measuring.latency(subject.rig, programme.calls)


def results(site: Site, programme: Programme) -> dict[str, float]:
    """Call and wait for the result when nothing else goes on."""
    with opened(site) as subject:
        return measuring.results(subject.rig, programme.calls)


def load(site: Site, programme: Programme) -> dict[str, float]:
    """Call at half the rate at which a backlog was run just before."""
    with opened(site) as subject:
        rate, _ = drain(subject, subject.rig.work.noop, programme.calls.backlog)
        wanted = SHARE * rate
        made = arrive(subject, wanted, programme.load_s)
        waits = subject.rig.work.waits_ms
        return {
            "load_p50_ms": percentile(waits, 0.5),
            "load_p99_ms": percentile(waits, 0.99),
            "load_rate": wanted,
            "load_kept": made / wanted,
        }


def arrive(subject: Subject, rate: float, span_s: float) -> float:
    """Call `rate` times a second for so long, then wait for the last; gives how often a second was called."""
    rig = subject.rig
    rig.work.waits_ms.clear()
    stamp = rig.work.stamp

    def call(due_at: int, count: int) -> None:
        stamp.delay_many(stamp.call(due_at) for _ in range(count))

    began_at, made, calls = stopwatch_ns(), 0, []
    with ThreadPoolExecutor(CALLERS) as pool:
        for bunch in range(1, round(span_s * 1e9 / BUNCH_NS) + 1):
            due_at = began_at + bunch * BUNCH_NS
            time.sleep(max(0.0, (due_at - stopwatch_ns()) / 1e9))
            count = round(rate * bunch * BUNCH_NS / 1e9) - made
            calls.append(pool.submit(call, due_at, count))
            made += count
        for each in calls:
            each.result()
    ended_at = stopwatch_ns()
    rig.await_stamps(made)
    return 1e9 * made / (ended_at - began_at)
