"""An ordered queue across kills: first starts in order, and never two at once (P09)."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from itertools import pairwise

import httpx
import pytest

from tests.support.ledger import Start, read_ledger
from tests.support.load import Load
from tests.support.processes import Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

GOALS = (15, 30)  # starts before each kill


def first_starts(starts: list[Start]) -> list[str]:
    """Give the keys in the order in which they came first."""
    return list(dict.fromkeys(each.key for each in starts))


def test_a_killed_broker_keeps_the_order_of_a_queue(processes: Processes, receiver: Receiver) -> None:
    broker, ledger = processes.broker(), receiver.ledger

    def send(http: httpx.Client, key: str) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {broker.token}",
            "Upstash-Deduplication-Id": key,
            "Upstash-Retry-Delay": "50",
            "Upstash-Retries": "10",
        }
        url = f"{broker.url}/v2/enqueue/ordered/{receiver.url}"
        return http.post(url, headers=headers, content=json.dumps({"id": key}))

    def has_started(count: int) -> bool:
        return len(ledger) >= count

    with Load(send, "m") as load:
        for goal in GOALS:
            eventually(partial(has_started, goal), f"{goal} starts", of=[broker, ledger])
            broker.kill()
            broker = processes.broker()
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, ledger])

    assert first_starts(ledger.starts) == list(load.accepted)
    # A message that was cut short may overlap itself at a receiver without a guard, but no other.
    for earlier, later in pairwise(ledger.starts):
        overlaps = earlier.ended_at is None or earlier.ended_at > later.started_at
        assert earlier.key == later.key or not overlaps, f"{later} began during {earlier}"


def test_a_killed_app_keeps_the_order_of_a_queue_and_never_runs_two_at_once(processes: Processes) -> None:
    app = processes.app()

    def send(http: httpx.Client, key: str) -> httpx.Response:
        return http.post(f"{app.url}/delay/in_order/{key}")

    def starts() -> list[Start]:
        return read_ledger(processes.ledger)

    def has_started(count: int) -> bool:
        return len(starts()) >= count

    with Load(send, "m") as load:
        for goal in GOALS:
            eventually(partial(has_started, goal), f"{goal} starts", of=[app])
            app.kill()
            app = processes.app()
    with app.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])

    assert first_starts(starts()) == list(load.accepted)
    for earlier, later in pairwise(starts()):
        # What never ended was killed with its process, before the next process began.
        assert earlier.by != later.by or (earlier.ended_at or later.started_at) <= later.started_at
        assert earlier.ended_at is not None or earlier.by != later.by


def test_a_killed_broker_lets_no_two_tasks_of_a_queue_run_at_once_in_the_app(processes: Processes) -> None:
    broker = processes.broker()
    app = processes.remote_app(broker)
    for key in ("m0", "m1", "m2"):
        app.delay("held_in_order", key)
    eventually(lambda: read_ledger(processes.ledger), "the first one running", of=[broker, app])

    broker.kill()
    broker = processes.broker("--port", str(httpx.URL(broker.url).port))
    app.expect('/qtasks/run HTTP/1.1" 409')  # the one that still runs was delivered again, and not run
    processes.open_gate()

    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, app])
        assert api.dead() == []
    starts = read_ledger(processes.ledger)
    assert first_starts(starts) == ["m0", "m1", "m2"]
    for earlier, later in pairwise(starts):
        assert earlier.ended_at is not None
        assert earlier.ended_at <= later.started_at
    assert max(Counter(each.key for each in starts).values()) <= 2
