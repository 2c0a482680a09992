"""The client's side of a measurement, in the environment of whom it measures. Prints one JSON object.

    python -m tests.benchmarks.peers.driver MODULE fill|latency|results OPTIONS

MODULE is an app: see `App`. Its functions may block or be coroutine functions; the loops here are written
once, and where the app's functions block they never suspend and need no event loop. Standard library only.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.benchmarks.peers.tally import Tally

T = TypeVar("T")

TEXT = "x" * 64
GAP_S = 0.01
WARM_UP = 10
GIVE_UP_S = 30


class App(Protocol):
    """What the module of an app has."""

    PACKAGES: Sequence[str]
    """The packages whose versions matter."""

    opened: Callable[[], Any]
    """Gives a context manager in which calls can be made."""

    delay: Callable[[str], Any]
    """Makes one call, of which no result is kept."""

    delay_many: Callable[[str, int], Any]
    """Makes many equal calls; missing where a loop is all there is."""

    result: Callable[[str], Any]
    """Makes one call and gives what the task returned, its argument; missing where there are no results."""


class Blocking:
    """An app whose calls block: eight at a time are eight threads."""

    def __init__(self, app: App) -> None:
        self._app = app

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        with self._app.opened():
            yield

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        return function(*arguments)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop runs here

    async def eight(self, each: int) -> float:
        """Make calls from eight threads; give how many a second."""
        barrier = threading.Barrier(9)

        def enqueue() -> None:
            self._app.delay(TEXT)  # what a thread does once, as to connect, is not measured
            barrier.wait(GIVE_UP_S)
            for _ in range(each - 1):
                self._app.delay(TEXT)

        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(enqueue) for _ in range(8)]
            barrier.wait(GIVE_UP_S)
            started = time.perf_counter()
            for future in futures:
                future.result()
        return 8 * (each - 1) / (time.perf_counter() - started)


class Looping:
    """An app whose calls are coroutines: eight at a time are eight tasks of one loop."""

    def __init__(self, app: App) -> None:
        self._app = app

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with self._app.opened():
            yield

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await function(*arguments)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def eight(self, each: int) -> float:
        """Make calls in eight tasks; give how many a second."""

        async def enqueue(count: int) -> None:
            for _ in range(count):
                await self._app.delay(TEXT)

        await asyncio.gather(*(enqueue(1) for _ in range(8)))
        started = time.perf_counter()
        await asyncio.gather(*(enqueue(each - 1) for _ in range(8)))
        return 8 * (each - 1) / (time.perf_counter() - started)


Client = Blocking | Looping


async def fill(client: Client, app: App, options: dict[str, Any]) -> dict[str, float]:
    """Enqueue a whole backlog, a part of it in each of three ways; give how many a second."""
    single, each = options["single"], options["each_of_8"]
    await client.call(app.delay, TEXT)
    started = time.perf_counter()
    for _ in range(single - 1):
        await client.call(app.delay, TEXT)
    from_one = (single - 1) / (time.perf_counter() - started)
    from_eight = await client.eight(each)
    rest = options["backlog"] - single - 8 * each
    started = time.perf_counter()
    if hasattr(app, "delay_many"):
        await client.call(app.delay_many, TEXT, rest)
    else:
        for _ in range(rest):
            await client.call(app.delay, TEXT)
    at_once = rest / (time.perf_counter() - started)
    return {"delay_1": from_one, "delay_8": from_eight, "delay_many": at_once}


async def latency(client: Client, app: App, options: dict[str, Any]) -> dict[str, float]:
    """Give the ms from a call to the start of its task, when nothing else goes on."""
    tally = Tally(Path(options["tally"]))

    async def one() -> float:
        before, called_at = tally.started, time.monotonic_ns()
        await client.call(app.delay, TEXT)
        while tally.started == before:
            if time.monotonic_ns() - called_at > GIVE_UP_S * 1e9:
                raise TimeoutError(f"a call was not run within {GIVE_UP_S} s")
            await client.pause(0.0002)
        return (tally.last_at_ns - called_at) / 1e6

    return _percentiles("start", await _sampled(client, one, options))


async def results(client: Client, app: App, options: dict[str, Any]) -> dict[str, float]:
    """Give the ms from a call to its result, when nothing else goes on."""

    async def one() -> float:
        called_at = time.perf_counter()
        found = await client.call(app.result, TEXT)
        span = 1000 * (time.perf_counter() - called_at)
        if found != TEXT:
            raise AssertionError(f"{found!r} is not what the task returned")
        return span

    return _percentiles("result", await _sampled(client, one, options))


async def _sampled(
    client: Client, one: Callable[[], Awaitable[float]], options: dict[str, Any]
) -> list[float]:
    """Measure again and again, at most so often and for so long, but ten times at least."""
    found: list[float] = []
    ends_at = time.monotonic() + options["budget_s"]
    while len(found) < WARM_UP + options["samples"]:
        if len(found) >= 2 * WARM_UP and time.monotonic() > ends_at:
            break
        found.append(await one())
        await client.pause(GAP_S)
    return found[WARM_UP:]


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p50_ms": ordered[len(ordered) // 2],
        f"{name}_p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


PHASES = {"fill": fill, "latency": latency, "results": results}


def measure(app: App, phase: str, options: dict[str, Any]) -> dict[str, float]:
    """Go through one phase with an app."""

    async def measured(client: Client) -> dict[str, float]:
        async with client.opened():
            return await PHASES[phase](client, app, options)

    if inspect.iscoroutinefunction(app.delay):
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(measured(Looping(app)))
    return _finish(measured(Blocking(app)))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give the quicker event loop, where the environment has it, as an app's server would take it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    raise RuntimeError("it suspended, though its calls block")


def main() -> None:
    module, phase, options = sys.argv[1:]
    app: Any = importlib.import_module(module)
    figures = measure(app, phase, json.loads(options))
    json.dump({"figures": figures, "versions": {each: version(each) for each in app.PACKAGES}}, sys.stdout)


if __name__ == "__main__":
    main()
