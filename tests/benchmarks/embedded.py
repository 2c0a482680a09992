"""The embedded home, on SQLite or PostgreSQL, in a process of its own: prints one JSON object.

The app's loop runs in a thread, as the caller's threads are what is measured. Enqueueing is measured
with the queue paused, so that it is not mixed with execution on the same interpreter.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.benchmarks import app as target
from tests.benchmarks.measure import (
    BACKLOG,
    EACH_OF_8,
    STAMPS,
    TEXT,
    calls_per_second,
    percentile,
    rss_mib,
)

SINGLE = 2000
AT_ONCE = 10_000


class Host:
    """Runs the app's lifespan on a loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self._lifespan = target.tasks.lifespan()
        self.run(self._lifespan.__aenter__())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self.run(self._lifespan.__aexit__(None, None, None))


def wait_until_done(count: int) -> None:
    """Wait until so many tasks have run."""
    ends_at = time.monotonic() + 120
    while target.done < count:
        if time.monotonic() > ends_at:
            raise TimeoutError(f"only {target.done} of {count} tasks ran in 120 s")
        time.sleep(0.002)


def drain_rate(task: Any, pause: Callable[[bool], None]) -> float:
    """Fill a backlog while the queue is paused, then time its end-to-end execution."""
    pause(True)
    target.done = 0
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: task.delay(TEXT), range(BACKLOG)))
    started = time.perf_counter()
    pause(False)
    wait_until_done(BACKLOG)
    return BACKLOG / (time.perf_counter() - started)


def at_once_rate(task: Any) -> float:
    """Time many calls made by one `delay_many`, durable and with a handle each when it returns."""
    started = time.perf_counter()
    task.delay_many(task.call(TEXT) for _ in range(AT_ONCE))
    return AT_ONCE / (time.perf_counter() - started)


def latencies_ms() -> tuple[float, float]:
    """From the call of `.delay()` to the start of the task, when nothing else goes on."""
    waits = []
    for n in range(STAMPS):
        called_at = time.monotonic()
        target.stamp.delay(TEXT)
        while len(target.starts) <= n:
            time.sleep(0.0002)
        waits.append(1000 * (target.starts[n] - called_at))
        time.sleep(0.005)
    return percentile(waits, 0.5), percentile(waits, 0.99)


async def round_trips_ms() -> tuple[float, float]:
    """From the call of `.adelay()` to what the task returned, when nothing else goes on."""
    spans = []
    for _ in range(STAMPS):
        called_at = time.perf_counter()
        await (await target.echo.adelay(TEXT)).aget(timeout=10)
        spans.append(1000 * (time.perf_counter() - called_at))
        await asyncio.sleep(0.005)
    return percentile(spans, 0.5), percentile(spans, 0.99)


def main() -> None:
    host = Host()
    home: Any = target.tasks._home

    def pause(paused: bool) -> None:
        at_work = getattr(home, "_owner", None) or home._engine  # on SQLite, or on PostgreSQL
        at_work.broker.set_paused("bench", paused)

    target.noop.delay(TEXT)
    wait_until_done(1)
    p50, p99 = latencies_ms()
    result_p50, result_p99 = host.run(round_trips_ms())
    pause(True)
    figures = {
        "delay_1": calls_per_second(target.noop.delay, 1, SINGLE),
        "delay_8": calls_per_second(target.noop.delay, 8, EACH_OF_8),
        "delay_many": at_once_rate(target.noop),
    }
    pause(False)
    wait_until_done(1 + SINGLE + 8 * EACH_OF_8 + AT_ONCE)
    figures |= {
        "tasks": drain_rate(target.noop, pause),
        "plain_tasks": drain_rate(target.plain, pause),
        "latency_p50_ms": p50,
        "latency_p99_ms": p99,
        "result_p50_ms": result_p50,
        "result_p99_ms": result_p99,
        "rss_mib": rss_mib(),
    }
    host.close()
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
