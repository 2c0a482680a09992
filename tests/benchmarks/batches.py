"""A standalone broker on PostgreSQL: what it takes in by `/v2/batch`, over HTTP. Prints one JSON object.

The bodies are written before the clock runs, and two connections send at a time, so that it is the broker
that is measured. `QTASKS_BROKER` names the store.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.benchmarks.standalone import KEYS, SECRET, TOKEN, running

MESSAGES = 20_000
CONNECTIONS = 2
BODY = "x" * 300


def bodies(size: int, queue: str) -> list[bytes]:
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
        for first in range(MESSAGES // size)
    ]


def rate(url: str, size: int) -> float:
    """Send all messages; give how many were accepted a second."""
    calls = bodies(size, f"batches{size}")
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as api:
        # Paused, so that no delivery is measured with it.
        api.post("/v2/queues", json={"queueName": f"batches{size}"}).raise_for_status()
        api.post(f"/v2/queues/batches{size}/pause").raise_for_status()
        started = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for answer in pool.map(lambda body: api.post("/v2/batch", content=body), calls):
                answer.raise_for_status()
    return MESSAGES / (time.perf_counter() - started)


def main() -> None:
    env = os.environ | {
        "QTASKS_TOKEN": TOKEN,
        "QTASKS_CURRENT_SIGNING_KEY": KEYS[0],
        "QTASKS_NEXT_SIGNING_KEY": KEYS[1],
        "QTASKS_SECRET": SECRET,
    }
    store = env.pop("QTASKS_BROKER")
    with running(["qtasks", "broker", "--store", store, "--port", "0"], env) as broker:
        assert broker.stdout is not None
        found = re.search(r"http://\S+:\d+", broker.stdout.readline())
        assert found is not None
        json.dump({f"batch_{size}": rate(found.group(), size) for size in (100, 500)}, sys.stdout)


if __name__ == "__main__":
    main()
