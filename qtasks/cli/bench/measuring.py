"""Measures a rig: how fast it takes calls, runs tasks, brings results. One function for each kind of figure.

Calls are measured with the queue paused, so that they are not mixed with execution on the same interpreter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qtasks.cli.bench.figures import percentile
from qtasks.cli.bench.machine import seconds_since
from qtasks.clock import stopwatch_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qtasks.cli.bench.rig import Rig

IDLE_S = 0.005
TOGETHER = 64
CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of each are made in a run."""

    single: int
    each_of_8: int
    together: int
    many: int
    backlog: int
    stamps: int

    @classmethod
    def of(cls, tasks: int) -> Sizes:
        """Give those that go with a backlog of so many tasks."""
        few = max(20, tasks // 10)
        return cls(few, max(5, tasks // 40), max(TOGETHER, tasks // 5), tasks, tasks, max(20, min(300, few)))


def enqueue(rig: Rig, sizes: Sizes) -> dict[str, float]:
    """Measure how many calls a second are accepted, durably, from threads, coroutines and in bulk."""
    noop, before = rig.work.noop, rig.work.done
    delay, adelay = partial(noop.delay, rig.text), partial(noop.adelay, rig.text)
    with paused(rig):
        figures = {
            "delay_1": calls_per_second(delay, 1, sizes.single),
            "delay_8": calls_per_second(delay, 8, sizes.each_of_8),
            "adelay_1": rig.run(awaited_per_second(adelay, 1, sizes.single)),
            "adelay_64": rig.run(awaited_per_second(adelay, TOGETHER, sizes.together)),
            "delay_many": many_per_second(rig, sizes.many),
        }
    made = 2 * sizes.single + 8 * sizes.each_of_8 + sizes.together // TOGETHER * TOGETHER + sizes.many
    rig.await_done(before + made)
    return figures


def drain(rig: Rig, sizes: Sizes) -> dict[str, float]:
    """Measure how many tasks a second run from a backlog that waits."""
    return {"tasks": drain_rate(rig, rig.work.noop, sizes.backlog)}


def latency(rig: Rig, sizes: Sizes) -> dict[str, float]:
    """Measure how long after its call a task starts, when nothing else goes on."""
    waits = rig.work.waits_ms
    waits.clear()
    for n in range(sizes.stamps):
        rig.work.stamp.delay(stopwatch_ns())
        rig.await_stamps(n + 1)
        time.sleep(IDLE_S)
    return {"idle_p50_ms": percentile(waits, 0.5), "idle_p99_ms": percentile(waits, 0.99)}


def results(rig: Rig, sizes: Sizes) -> dict[str, float]:
    """Measure how long after the call its caller has the result, when nothing else goes on."""
    spans = rig.run(round_trips_ms(rig, sizes.stamps))
    return {"result_p50_ms": percentile(spans, 0.5), "result_p99_ms": percentile(spans, 0.99)}


KINDS: Mapping[str, Callable[[Rig, Sizes], dict[str, float]]] = {
    "latency": latency,
    "results": results,
    "enqueue": enqueue,
    "tasks": drain,
}
"""What can be measured, in the order in which it is: what wants an idle broker first."""


@contextmanager
def paused(rig: Rig) -> Iterator[None]:
    """Have nothing of the queue start in the block."""
    rig.pause()
    try:
        yield
    finally:
        rig.resume()


def calls_per_second(call: Callable[[], object], threads: int, each: int) -> float:
    """Call from several threads at once."""
    barrier = threading.Barrier(threads + 1)

    def enqueue() -> None:
        barrier.wait()
        for _ in range(each):
            call()

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(enqueue) for _ in range(threads)]
        barrier.wait()
        began_at = stopwatch_ns()
        for future in futures:
            future.result()
        return threads * each / seconds_since(began_at)


async def awaited_per_second(call: Callable[[], Any], together: int, count: int) -> float:
    """Call from several coroutines of one loop, each of which waits for its own answer before it goes on."""

    async def enqueue() -> None:
        for _ in range(count // together):
            await call()

    began_at = stopwatch_ns()
    await asyncio.gather(*(enqueue() for _ in range(together)))
    return count // together * together / seconds_since(began_at)


def many_per_second(rig: Rig, count: int) -> float:
    """Make many calls by one `delay_many`, durable and with a handle each when it returns."""
    began_at = stopwatch_ns()
    noop = rig.work.noop
    noop.delay_many(noop.call(rig.text) for _ in range(count))
    return count / seconds_since(began_at)


def fill(rig: Rig, task: Any, count: int) -> None:
    """Make a backlog, without keeping the handles of all calls."""
    for first in range(0, count, CHUNK):
        task.delay_many(task.call(rig.text) for _ in range(min(CHUNK, count - first)))


def drain_rate(rig: Rig, task: Any, count: int) -> float:
    """Fill a backlog while the queue is paused, then time its execution from end to end."""
    before = rig.work.done
    with paused(rig):
        fill(rig, task, count)
        began_at = stopwatch_ns()
    rig.await_done(before + count)
    return count / seconds_since(began_at)


async def round_trips_ms(rig: Rig, count: int) -> list[float]:
    """Call and wait for the result, one after the other."""
    spans = []
    for _ in range(count):
        began_at = stopwatch_ns()
        await (await rig.work.echo.adelay(rig.text)).aget(timeout=10)
        spans.append(1000 * seconds_since(began_at))
        await asyncio.sleep(IDLE_S)
    return spans
