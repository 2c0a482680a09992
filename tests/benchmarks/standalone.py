"""The standalone home: a broker process, one uvicorn app process, and this one, which enqueues.

Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.benchmarks.measure import BACKLOG, EACH_OF_8, STAMPS, TEXT, calls_per_second, percentile, rss_mib

SINGLE = 1000
TOKEN = "t" * 8 + "0123456789abcdef" * 2
KEYS = ("sig_" + "a1b2c3d4" * 8, "sig_" + "e5f6a7b8" * 8)
SECRET = "0123456789abcdef" * 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(arguments: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process of ours, and end it."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=env, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str) -> None:
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing answers at {url}")


def wait_until_done(url: str, count: int) -> dict[str, Any]:
    ends_at = time.monotonic() + 60
    while True:
        seen: dict[str, Any] = httpx.get(url).json()
        if seen["done"] >= count:
            return seen
        if time.monotonic() > ends_at:
            raise TimeoutError(f"only {seen['done']} of {count} tasks ran in 60 s")
        time.sleep(0.02)


def measure(broker_url: str, progress: str, broker_pid: int) -> dict[str, float]:
    from tests.benchmarks import app as target

    api = httpx.Client(base_url=broker_url, headers={"Authorization": f"Bearer {TOKEN}"})

    def pause(verb: str) -> None:
        api.post(f"/v2/queues/bench/{verb}").raise_for_status()

    target.noop.delay(TEXT)
    wait_until_done(progress, 1)
    pause("pause")
    figures = {
        "delay_1": calls_per_second(target.noop.delay, 1, SINGLE),
        "delay_8": calls_per_second(target.noop.delay, 8, EACH_OF_8),
    }
    ready = 1 + SINGLE + 8 * EACH_OF_8
    calls_per_second(target.noop.delay, 8, (BACKLOG - ready) // 8 + 1)
    started = time.perf_counter()
    pause("resume")
    total = ready + 8 * ((BACKLOG - ready) // 8 + 1)
    wait_until_done(progress, total)
    figures["tasks"] = (total - 1) / (time.perf_counter() - started)
    called = []
    for n in range(STAMPS):
        called.append(time.monotonic())
        target.stamp.delay(TEXT)
        if n % 10 == 9:
            time.sleep(0.05)
        time.sleep(0.005)
    time.sleep(0.5)
    seen = httpx.get(progress).json()
    waits = [1000 * (start - at) for start, at in zip(sorted(seen["starts"]), called, strict=True)]
    return figures | {
        "latency_p50_ms": percentile(waits, 0.5),
        "latency_p99_ms": percentile(waits, 0.99),
        "rss_mib": rss_mib(broker_pid),
    }


def main() -> None:
    app_port = free_port()
    with TemporaryDirectory() as folder:
        env = os.environ | {
            "QTASKS_TOKEN": TOKEN,
            "QTASKS_CURRENT_SIGNING_KEY": KEYS[0],
            "QTASKS_NEXT_SIGNING_KEY": KEYS[1],
            "QTASKS_SECRET": SECRET,
            "QTASKS_PUBLIC_URL": f"http://127.0.0.1:{app_port}/qtasks",
        }
        store = f"sqlite:///{Path(folder) / 'broker.db'}"
        with running(["qtasks", "broker", "--store", store, "--port", "0"], env) as broker:
            assert broker.stdout is not None
            found = re.search(r"http://\S+:\d+", broker.stdout.readline())
            assert found is not None
            env["QTASKS_BROKER"] = found.group()
            os.environ.update(env)
            app = ["uvicorn", "tests.benchmarks.app:app", "--port", str(app_port), "--log-level", "warning"]
            with running(app, env):
                progress = f"http://127.0.0.1:{app_port}/progress"
                wait_for(progress)
                json.dump(measure(found.group(), progress, broker.pid), sys.stdout)


if __name__ == "__main__":
    main()
