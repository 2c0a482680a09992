"""How long after its call a task starts, or its caller has the result: idle, and at half load.

Under load tasks come at instants fixed beforehand, in bunches, whether or not those before have run; the wait
counts from that instant, so that a stall is seen in all tasks that it delays.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from qtasks.cli.bench import measuring
from qtasks.cli.bench.figures import percentile
from qtasks.cli.bench.machine import seconds_since
from qtasks.clock import stopwatch_ns
from tests.benchmarks.homes import Site, Subject, opened
from tests.benchmarks.sizes import Programme

SHARE = 0.5
BUNCH_NS = 10_000_000
CALLERS = 4
CALLED_AT_ONCE = 100
WAIT_S = 0.001
AHEAD = 2000
"""So many calls may wait to be run while it is measured how many can be made and run."""


def latency(site: Site, programme: Programme) -> dict[str, float]:
    """Call when nothing else goes on."""
    with opened(site) as subject:
        return measuring.latency(subject.rig, programme.calls)


def results(site: Site, programme: Programme) -> dict[str, float]:
    """Call and wait for the result when nothing else goes on."""
    with opened(site) as subject:
        return measuring.results(subject.rig, programme.calls)


def load(site: Site, programme: Programme) -> dict[str, float]:
    """Call at half the rate at which calls were made and run beside each other just before."""
    with opened(site) as subject:
        wanted = SHARE * sustain(subject, programme.load_s)
        made = arrive(subject, wanted, programme.load_s)
        waits = subject.rig.work.waits_ms
        return {
            "load_p50_ms": percentile(waits, 0.5),
            "load_p99_ms": percentile(waits, 0.99),
            "load_rate": wanted,
            "load_kept": made / wanted,
        }


def sustain(subject: Subject, span_s: float) -> float:
    """Call as often as tasks are run meanwhile; gives tasks a second, of the second half of the span."""
    noop, text = subject.rig.work.noop, subject.rig.text
    before = subject.done()
    half_ns = round(span_s * 1e9 / 2)
    middle_at = stopwatch_ns() + half_ns
    made = [0] * CALLERS

    def call(caller: int) -> None:
        while stopwatch_ns() < middle_at + half_ns:
            if before + sum(made) - subject.done() > AHEAD:
                time.sleep(WAIT_S)
                continue
            noop.delay_many(noop.call(text) for _ in range(CALLED_AT_ONCE))
            made[caller] += CALLED_AT_ONCE

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, each) for each in range(CALLERS)]
        time.sleep((middle_at - stopwatch_ns()) / 1e9)
        began_at, begun = stopwatch_ns(), subject.done()
        time.sleep(half_ns / 1e9)
        rate = (subject.done() - begun) / seconds_since(began_at)
        for each in calls:
            each.result()
    subject.rig.await_number(before + sum(made), subject.done)
    return rate


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
