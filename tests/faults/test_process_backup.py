"""A backup of a broker that is hard at work, and what a restored one still knows (promises P01, P05)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.load import Load
from tests.support.processes import BrokerProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

BULK = 40  # messages of a megabyte each, so that the copy takes many steps
MIB = 1 << 20


def fill(broker: BrokerProcess, receiver: Receiver) -> None:
    """Store much that waits, in a queue that is paused."""
    headers = {"Authorization": f"Bearer {broker.token}", "Upstash-Retry-Delay": "10"}
    with httpx.Client(base_url=broker.url, headers=headers, timeout=20, trust_env=False) as http:
        http.post("/v2/queues", json={"queueName": "bulk", "parallelism": 1}).raise_for_status()
        http.post("/v2/queues/bulk/pause").raise_for_status()
        for number in range(BULK):
            body = json.dumps({"id": f"bulk-{number}", "filler": "x" * MIB})
            http.post(f"/v2/enqueue/bulk/{receiver.url}", content=body).raise_for_status()


def load_on(broker: BrokerProcess, receiver: Receiver, prefix: str) -> Load:
    def send(http: httpx.Client, key: str) -> httpx.Response:
        return http.post(
            f"{broker.url}/v2/enqueue/work/{receiver.url}",
            headers={
                "Authorization": f"Bearer {broker.token}",
                "Upstash-Deduplication-Id": key,
                "Upstash-Retry-Delay": "10",
            },
            content=json.dumps({"id": key}),
        )

    return Load(send, prefix)


def keys_in(copy: Path) -> set[str]:
    """Give the keys of all messages that a file holds, finished or not."""
    with closing(sqlite3.connect(copy)) as connection:
        return {json.loads(body)["id"] for (body,) in connection.execute("SELECT body FROM messages")}


def db(processes: Processes, *arguments: str) -> str:
    """Run a command of `qtasks db` that succeeds; give what it printed."""
    ran = processes.python("-m", "qtasks", "db", *arguments)
    assert ran.wait(60) == 0, str(ran)
    return ran.output


def test_a_backup_under_load_disturbs_nobody_and_a_restored_broker_has_all_that_was_acknowledged(
    processes: Processes, receiver: Receiver, tmp_path: Path
) -> None:
    broker = processes.broker()
    fill(broker, receiver)
    copy, restored = tmp_path / "copy.db", tmp_path / "restored.db"

    with load_on(broker, receiver, "a") as first, load_on(broker, receiver, "b") as second:
        first.await_accepted(50)
        acknowledged = {*first.accepted, *second.accepted}
        said = db(processes, "backup", str(copy), "--store", f"sqlite:///{processes.store}")
        during = len(first.accepted) + len(second.accepted) - len(acknowledged)
        first.await_accepted(len(first.accepted) + 20)
    broker.kill()

    assert "read back and sound" in said
    assert first.repeated == second.repeated == 0, "somebody was told to come back"
    assert during > 0, "the load stood still during the backup"
    assert acknowledged <= keys_in(copy)
    assert db(processes, "check", "--store", f"sqlite:///{copy}") == f"{copy}: ok\n"

    delivered = {each.key for each in receiver.ledger.starts}
    db(processes, "restore", str(copy), "--store", f"sqlite:///{restored}")
    processes.store = restored
    with processes.broker().api() as api:
        api.http.post("/v2/queues/bulk/resume").raise_for_status()
        eventually(lambda: api.lag() == 0, "an end of all work", within=60, of=[receiver.ledger])
        assert api.dead() == []
    now = {each.key for each in receiver.ledger.starts if each.status == 200}

    assert acknowledged | {f"bulk-{number}" for number in range(BULK)} <= now
    assert keys_in(copy) - delivered <= now
