"""The kill programme of the standalone broker: SIGKILL under load, again and again, on one file."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.support import repeats
from tests.support.ledger import DONE, balance
from tests.support.load import Load, Send
from tests.support.processes import BrokerProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SEED = 20
WORK_S = 0.03
PHASE = 150  # messages of each phase without a kill
DRAIN_S = 120.0
MOST_BETWEEN = 60  # deliveries between two kills


def sender(broker: Callable[[], BrokerProcess], receiver: Receiver, queue: str, **options: str) -> Send:
    """Give the way to enqueue, wherever the broker is just then."""
    more = {name.replace("_", "-"): value for name, value in options.items()}

    def send(http: httpx.Client, key: str) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {broker().token}",
            "Upstash-Deduplication-Id": key,
            "Upstash-Retries": "5",
            "Upstash-Retry-Delay": "100",
            **more,
        }
        url = f"{broker().url}/v2/enqueue/{queue}/{receiver.url}"
        return http.post(url, headers=headers, content=json.dumps({"id": key}))

    return send


def test_no_kill_of_the_broker_loses_or_doubles_a_message(
    processes: Processes, receiver: Receiver, tell: Callable[[object], None]
) -> None:
    rng, kills = random.Random(SEED), repeats(100)
    ledger, broker = receiver.ledger, processes.broker()
    receiver.work_s = WORK_S
    send = sender(lambda: broker, receiver, "work", Qtasks_Queue="parallelism=32; ordered=false")

    def settled() -> bool:
        with broker.api() as api:
            return api.lag() == 0

    def has_started(count: int) -> bool:
        return len(ledger) >= count

    with Load(send, "before") as before:
        before.await_accepted(PHASE)
    eventually(settled, "an end of all work", of=[broker, ledger])
    with Load(send, "during") as during:
        for _ in range(kills):
            goal = len(ledger) + rng.randrange(MOST_BETWEEN)
            eventually(partial(has_started, goal), f"{goal} starts", of=[broker, ledger, during])
            broker.kill()
            broker = processes.broker()
    with Load(send, "after") as after:
        after.await_accepted(PHASE)
    ended_at = time.monotonic()
    eventually(settled, "an end of all work", within=DRAIN_S, of=[broker, ledger, during, after])
    drained_s = time.monotonic() - ended_at

    accepted = before.accepted | during.accepted | after.accepted
    with broker.api() as api:
        dead, stuck, interrupted = api.dead(), api.lag(), api.interrupted()
    found = balance(accepted, ledger.starts, dead=dead, stuck=stuck, interrupted=interrupted, kills=kills)
    tell(f"{found}; all work was done {drained_s:.1f} s after the last was accepted")
    assert found.faults == []
    # However often an enqueue was repeated, it made one message: the one of the answer.
    assert all(each.message_id == json.loads(accepted[each.key])["messageId"] for each in ledger.starts)
    quiet = [each for each in ledger.starts if not each.key.startswith("during")]
    assert sorted(each.key for each in quiet if each.status == DONE) == sorted(
        [*before.accepted, *after.accepted]
    )
