"""A broker's memory is bounded: by no backlog, no body, no answer and no page of a listing (promise P20)."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from qtasks.broker.store import messages
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import SystemClock
from tests.faults.conftest import Tell
from tests.support import repeats
from tests.support.api import BrokerApi
from tests.support.processes import BrokerProcess, Processes
from tests.support.store import new_message
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

BACKLOG = repeats(1_000_000)
MOST_MIB = 200
START_S = 3.0
STEP = 1000
LARGE = 10 * 1024 * 1024
SENDERS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file with the backlog, in a paused queue and behind the limit of a flow-control key."""
    path = tmp_path_factory.mktemp("backlog") / "q.db"
    database = SqliteDatabase(str(path), durability="relaxed")
    now = SystemClock().now()

    def step(first: int) -> None:
        wanted = [
            new_message(
                b'{"id":"%d"}' % number, now=now, id=f"msg_waiting_{number}", url="https://app.example/x"
            )
            for number in range(first, first + STEP)
        ]
        database.run(lambda session: messages.enqueue(session, wanted, now))

    step(0)
    database.run(lambda session: session.run("queue_pause", {"name": "mail", "paused": 1, "now": now}))
    for first in range(STEP, BACKLOG, STEP):
        step(first)
    database.close()
    return path


def peak_mib(process: BrokerProcess) -> float:
    """Read the most memory that a process has had (`VmHWM`)."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


class _Large(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status = 200 if self.path == "/well" else 500
        self.send_response(status)
        self.send_header("Content-Length", str(LARGE))
        self.end_headers()
        for _ in range(LARGE // 65536):
            self.wfile.write(b"y" * 65536)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""


@contextmanager
def large_answers() -> Iterator[str]:
    """Run a destination whose answers are as large as they may be; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Large)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="large")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def publish(broker: BrokerProcess, destination: str, body: bytes, **headers: str) -> None:
    """Publish until there is room for it."""
    known = {"Authorization": f"Bearer {broker.token}", "Content-Type": "application/octet-stream"} | headers
    for _ in range(600):
        answer = httpx.post(
            f"{broker.url}/v2/publish/{destination}", content=body, headers=known, timeout=60, trust_env=False
        )
        if answer.status_code == 200:
            return
        assert answer.status_code == 503, answer.text
        threading.Event().wait(float(answer.headers["Retry-After"]) / 2)
    raise AssertionError("there was never room for the message")


def ends(api: BrokerApi) -> dict[str, int]:
    """Count the attempts that have ended, by what came of them: their states would come with all bodies."""
    found = re.findall(
        r'^qtasks_attempts_total\{.*verdict="(\w+)"\} (\d+)$', api.http.get("/metrics").text, re.M
    )
    return {verdict: int(count) for verdict, count in found if count != "0"}


def publish_all(broker: BrokerProcess, address: str) -> None:
    """Publish large bodies from many threads, half of them to a destination that fails."""
    destinations = [f"{address}/{path}" for path in ("well", "ill") for _ in range(SENDERS)]
    body = b"x" * LARGE
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda to: publish(broker, to, body, **{"Upstash-Retries": "0"}), destinations))


def test_start_and_memory_do_not_grow_with_the_backlog(store: Path, tmp_path: Path, tell: Tell) -> None:
    with Processes(tmp_path) as processes:
        processes.store = store
        began_at = time.monotonic()
        broker = processes.broker()
        start_s = broker.up_at - began_at
        with broker.api() as api, large_answers() as address:
            api.http.timeout = httpx.Timeout(60)
            waiting, at_rest = api.lag(), peak_mib(broker)

            publish_all(broker, address)
            api.http.get("/v2/logs?count=1000")  # while others are delivered
            eventually(
                lambda: ends(api) == {"delivered": SENDERS, "dead": SENDERS},
                "the end of all large deliveries",
                within=120,
            )
            pages = [
                api.http.get(path)
                for path in ("/v2/events?count=1000", "/v2/logs?count=1000", "/v2/dlq?count=100")
            ]

        used = peak_mib(broker)
        tell(f"{BACKLOG} waiting: up in {start_s:.2f} s, {at_rest:.0f} MiB at rest, {used:.0f} MiB at most")
        assert waiting == BACKLOG
        # They end early, as their bodies are large.
        assert all(json.loads(each.content)["cursor"] for each in pages)
        assert start_s <= START_S
        assert used <= MOST_MIB
