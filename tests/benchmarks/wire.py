"""The wire of a standalone broker: publish to delivered, pages with much behind them, use of a rate.

Prints one JSON object of lists, a value for each run. The file is filled once for all runs;
QTASKS_BENCH_ROWS says how many rows lie behind the pages.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qtasks.broker.store import claiming, messages, settling
from qtasks.broker.store.records import Dead, NewMessage, Reply, Settlement
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.cli.bench.figures import percentile, stolen_share
from qtasks.cli.bench.machine import cpu_times
from qtasks.clock import SystemClock
from tests.benchmarks.processes import TOKEN, broker

ROWS = int(os.environ.get("QTASKS_BENCH_ROWS", "1000000"))
STEP = 1000
IDLE = 300
PAGES = 50
RATE, WINDOWS = 40, 5
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Sink:
    """A destination of a thread's own that notes when each request came, and answers 200 at once."""

    def __init__(self) -> None:
        self.came_at: list[float] = []
        self._came = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(10)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/sink"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.came_at.append(time.perf_counter())
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if length is not None:
                    await reader.readexactly(int(length[1]))
                writer.write(ANSWER)
                self._came.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def await_one(self) -> float:
        """Wait for the next request; give the instant it came."""
        if not self._came.wait(10):
            raise TimeoutError("nothing was delivered in 10 s")
        self._came.clear()
        return self.came_at[-1]


def fill(path: Path) -> None:
    """Store dead letters, each with its log, through the store's own verbs."""
    database = SqliteDatabase(str(path), durability="relaxed")
    now = SystemClock().now() - 10 * ROWS // STEP
    for first in range(0, ROWS, STEP):
        now += 10
        wanted = [_message(number, now) for number in range(first, first + STEP)]
        database.run(partial(_die, wanted=wanted, now=now))
    database.close()


def _message(number: int, now: int) -> NewMessage:
    return NewMessage(
        id=f"msg_{number:010d}",
        queue="bench",
        parallelism=1 << 30,
        ordered=False,
        url="https://app.example/hook",
        method="POST",
        headers=(("Content-Type", "application/json"),),
        body=b'{"number":%d}' % number,
        created_at=now,
        start_at=None,
        max_retries=0,
        timeout_ms=60_000,
    )


def _die(session: Any, wanted: list[NewMessage], now: int) -> None:
    messages.enqueue(session, wanted, now)
    claimed = claiming.claim(
        session, node="bench", app=None, slots=STEP, alone_is_free=True, lease_margin_ms=0, now=now
    )
    reply = Reply(500, body=b"oops", error="unexpected status 500")
    settling.settle(session, [Settlement(each, reply, Dead(), now + 5) for each in claimed.claims])


class Api:
    """The broker over one connection, with as little of a client's own cost as can be."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://")
        self.connect()

    def connect(self) -> None:
        """Begin another connection: idle ones are closed."""
        self._connection = http.client.HTTPConnection(self._address, timeout=60)

    def call(self, method: str, target: str, **headers: str) -> Any:
        """Make a request; give the answer's JSON."""
        known = {"Authorization": f"Bearer {TOKEN}", "Content-Length": "0"}
        self._connection.request(method, target, headers=known | headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {target}: {answer.status} {body[:200]!r}")
        return json.loads(body) if body else None


def idle_latency(api: Api, sink: Sink) -> dict[str, float]:
    """Publish one after the other; give the ms from the call to the delivery."""
    waits = []
    for _ in range(IDLE):
        time.sleep(0.01)
        called_at = time.perf_counter()
        api.call("POST", f"/v2/publish/{sink.url}")
        waits.append(1000 * (sink.await_one() - called_at))
    return {"published_p50_ms": percentile(waits, 0.5), "published_p99_ms": percentile(waits, 0.99)}


def page_times(api: Api) -> dict[str, float]:
    """Read pages of 100 from one end to deep within; give the ms of the whole request."""
    figures: dict[str, float] = {}
    for name, target in (("logs", "/v2/logs?count=100"), ("dlq", "/v2/dlq?count=100")):
        waits, cursor = [], ""
        for turn in range(PAGES):
            began_at = time.perf_counter()
            page = api.call("GET", target + cursor)
            waits.append(1000 * (time.perf_counter() - began_at))
            cursor = f"&cursor={page['cursor']}" if turn % 10 else ""
        figures[f"{name}_page_p50_ms"] = percentile(waits, 0.5)
        figures[f"{name}_page_p99_ms"] = percentile(waits, 0.99)
    return figures


def rate_use(api: Api, sink: Sink) -> dict[str, float]:
    """Publish more than a rate lets through; give how much of it whole windows used, and the most."""
    headers = {"Upstash-Flow-Control-Key": "bench", "Upstash-Flow-Control-Value": f"rate={RATE},period=1"}
    count = RATE * (WINDOWS + 2)
    ids = {api.call("POST", f"/v2/publish/{sink.url}", **headers)["messageId"] for _ in range(count)}
    time.sleep(WINDOWS + 2)
    api.connect()
    started = [
        each["time"] // 1000
        for each in api.call("GET", "/v2/events?count=1000&state=ACTIVE&flowControlKey=bench")["events"]
        if each["messageId"] in ids
    ]
    windows = Counter(started)
    whole = [windows[each] for each in sorted(windows)[1:-1]]
    return {
        "rate_use": sum(whole) / (RATE * len(whole)),
        "rate_most_of_limit": max(windows.values()) / RATE,
    }


def main() -> None:
    with TemporaryDirectory(prefix="qtasks-wire-") as name:
        folder = Path(name)
        fill(folder / "wire.db")
        runs: dict[str, list[float]] = defaultdict(list)
        for _ in range(int(sys.argv[1])):
            before = cpu_times()
            with broker(f"sqlite:///{folder / 'wire.db'}") as (url, _):
                api, sink = Api(url), Sink()
                figures = page_times(api) | idle_latency(api, sink) | rate_use(api, sink)
            figures |= {"rows": ROWS, "stolen": stolen_share(before, cpu_times())}
            for key, value in figures.items():
                runs[key].append(value)
    json.dump(runs, sys.stdout)


if __name__ == "__main__":
    main()
