"""A foreign program that holds the write lock of the file: late answers, then honest ones (P05)."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from qtasks import QTasks
from qtasks.errors import StoreBusy
from tests.support.processes import BrokerProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SHORT_S = 1.0
PATIENCE_S = 5.0  # how long the broker waits for a foreign lock


@contextmanager
def write_lock(store: Path) -> Iterator[None]:
    """Hold the write lock of a database, as a database browser might."""
    with closing(sqlite3.connect(store, isolation_level=None, timeout=5, check_same_thread=False)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            foreign.execute("ROLLBACK")


def enqueue(broker: BrokerProcess, receiver: Receiver, key: str) -> httpx.Response:
    return httpx.post(
        f"{broker.url}/v2/enqueue/work/{receiver.url}",
        headers={"Authorization": f"Bearer {broker.token}", "Upstash-Deduplication-Id": key},
        content=json.dumps({"id": key}),
        timeout=15,
        trust_env=False,
    )


def await_keys(broker: BrokerProcess, receiver: Receiver, keys: list[str]) -> None:
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, receiver.ledger])
    assert [each.key for each in receiver.ledger.starts] == keys


def test_a_foreign_lock_of_a_second_makes_an_enqueue_late_and_nothing_else(
    processes: Processes, receiver: Receiver
) -> None:
    broker = processes.broker()
    enqueue(broker, receiver, "m0").raise_for_status()
    await_keys(broker, receiver, ["m0"])
    held, pause = threading.Event(), threading.Event()

    def hold() -> None:
        with write_lock(processes.store):
            held.set()
            pause.wait(SHORT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    began_at = time.monotonic()
    answer = enqueue(broker, receiver, "m1")
    took_s = time.monotonic() - began_at
    holder.join()

    assert answer.status_code == 200, answer.text
    assert 0.8 * SHORT_S <= took_s <= SHORT_S + 1
    await_keys(broker, receiver, ["m0", "m1"])


def test_a_longer_foreign_lock_gives_503_and_the_repeat_is_stored_once(
    processes: Processes, receiver: Receiver
) -> None:
    broker = processes.broker()
    enqueue(broker, receiver, "m0").raise_for_status()
    await_keys(broker, receiver, ["m0"])

    with write_lock(processes.store):
        began_at = time.monotonic()
        answer = enqueue(broker, receiver, "m1")
        took_s = time.monotonic() - began_at
    repeat = enqueue(broker, receiver, "m1")

    assert answer.status_code == 503
    assert float(answer.headers["Retry-After"]) > 0
    assert "has held the lock" in answer.json()["error"]
    assert PATIENCE_S - 0.5 <= took_s <= 2 * PATIENCE_S
    assert repeat.status_code == 200
    await_keys(broker, receiver, ["m0", "m1"])


def test_a_reader_does_not_disturb_the_broker(processes: Processes, receiver: Receiver) -> None:
    broker = processes.broker()
    with closing(sqlite3.connect(processes.store, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        began_at = time.monotonic()
        enqueue(broker, receiver, "m0").raise_for_status()
        took_s = time.monotonic() - began_at
        await_keys(broker, receiver, ["m0"])
        reader.execute("ROLLBACK")

    assert took_s < SHORT_S


def test_a_longer_foreign_lock_raises_store_busy_in_a_guest(tmp_path: Path) -> None:
    tasks = QTasks(f"sqlite:///{tmp_path / 'q.db'}")

    @tasks.task
    def add(a: int, b: int) -> int:
        return a + b

    first = add.delay(1, 2)
    with write_lock(tmp_path / "q.db"), pytest.raises(StoreBusy, match="has held the lock"):
        add.delay(3, 4)
    again = add.delay(5, 6)

    assert (first.state, again.state) == ("QUEUED", "QUEUED")
