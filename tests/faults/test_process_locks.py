"""A foreign program that holds the write lock of the file: late answers, then honest ones (P05)."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from qtasks import QTasks, Task
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


@pytest.fixture
def guest_store(tmp_path: Path) -> Path:
    """The file of a guest in this very process."""
    return tmp_path / "guest.db"


@pytest.fixture
def add(guest_store: Path) -> Task[[int, int], int, int]:
    """A task of that guest; nobody runs it."""
    tasks = QTasks(f"sqlite:///{guest_store}")

    @tasks.task
    def add(a: int, b: int) -> int:
        return a + b

    return add


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


def test_a_longer_foreign_lock_gives_503_or_store_busy_and_the_repeat_is_stored_once(
    processes: Processes, receiver: Receiver, add: Task[[int, int], int, int], guest_store: Path
) -> None:
    broker = processes.broker()
    enqueue(broker, receiver, "m0").raise_for_status()
    await_keys(broker, receiver, ["m0"])
    add.delay(1, 2)

    # Both at once, as each takes the whole patience.
    with ThreadPoolExecutor(1) as pool, write_lock(processes.store), write_lock(guest_store):
        began_at = time.monotonic()
        guest_call = pool.submit(add.delay, 3, 4)
        answer = enqueue(broker, receiver, "m1")
        took_s = time.monotonic() - began_at
        guest_error = guest_call.exception(timeout=3 * PATIENCE_S)
    repeat = enqueue(broker, receiver, "m1")

    assert answer.status_code == 503
    assert float(answer.headers["Retry-After"]) > 0
    assert "has held the lock" in answer.json()["error"]
    assert PATIENCE_S - 0.5 <= took_s <= 2 * PATIENCE_S
    assert repeat.status_code == 200
    await_keys(broker, receiver, ["m0", "m1"])
    assert isinstance(guest_error, StoreBusy)
    assert add.delay(5, 6).state == "QUEUED"


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
