"""What a standalone broker takes in by `/v2/batch`, over HTTP.

The bodies are written before the clock runs, and two connections send at a time, so that it is the broker
that is measured.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx

from qtasks.cli.bench.machine import seconds_since
from qtasks.clock import stopwatch_ns
from tests.benchmarks.homes import Site
from tests.benchmarks.processes import TOKEN, broker
from tests.benchmarks.sizes import Programme

SIZES = (100, 500)
CONNECTIONS = 2
BODY = "x" * 300


def batches(site: Site, programme: Programme) -> dict[str, float]:
    """Measure batches of both sizes."""
    with broker(site.url) as (url, _):
        return {f"batch_{size}": rate(url, size, 2 * programme.stored) for size in SIZES}


def rate(url: str, size: int, count: int) -> float:
    """Send all messages; give how many were accepted a second."""
    bodies = _bodies(size, f"batches{size}", count)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as api:
        # Paused, so that no delivery is measured with it.
        api.post("/v2/queues", json={"queueName": f"batches{size}"}).raise_for_status()
        api.post(f"/v2/queues/batches{size}/pause").raise_for_status()
        began_at = stopwatch_ns()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for answer in pool.map(lambda body: api.post("/v2/batch", content=body), bodies):
                answer.raise_for_status()
        return size * len(bodies) / seconds_since(began_at)


def _bodies(size: int, queue: str, count: int) -> list[bytes]:
    """Write calls of `/v2/batch` that hold `size` messages each."""
    return [
        json.dumps(
            [
                {
                    "destination": "https://app.example/hook",
                    "queue": queue,
                    "body": BODY,
                    "headers": {"Upstash-Deduplication-Id": f"{size}-{first}-{number}"},
                }
                for number in range(size)
            ]
        ).encode()
        for first in range(count // size)
    ]
