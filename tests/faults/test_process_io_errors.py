"""Disks that fail beneath a broker: it stops at once, and nothing succeeds any more (P04).

The kernel makes the calls fail, as `tests/support/breaking_disk.py` asks it to.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support import require
from tests.support.api import read_keys
from tests.support.breaking_disk import can_break
from tests.support.ledger import DONE, balance, read_ledger
from tests.support.processes import Process, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

STOPS_S = 1.0
PARALLELISM = 4
WAITING = 20
SYNCS = "fsync,fdatasync"
LARGE = "x" * 1_000_000
LARGE_COUNT = 40  # more than the log of the database holds until it is copied into the file
BREAKS = [
    pytest.param(SYNCS, "q.db-wal", "", id="sync of the log"),
    pytest.param("pwrite64", "q.db-wal", "", id="write of the log"),
    pytest.param(SYNCS, "q.db", LARGE, id="sync of the file"),
    pytest.param("pwrite64", "q.db", LARGE, id="write of the file"),
]


class Breaking:
    """Runs a module whose disk can be broken."""

    def __init__(self, processes: Processes, calls: str, suffix: str) -> None:
        require(can_break(), "a disk can be broken on Linux only, on x86_64 or aarch64")
        self._processes = processes
        self._trigger = processes.folder / "trigger"
        self._arguments = ["-m", "tests.support.breaking_disk", str(self._trigger), calls, suffix]

    def start(self, *arguments: str) -> Process:
        """Start the module."""
        return self._processes.python(*self._arguments, *arguments)

    def break_disk(self, process: Process) -> None:
        """Have the calls fail from now on."""
        self._trigger.touch()
        process.expect(r"^broken: .* of \[\d+")


@dataclass
class Answers:
    """What a client of a broker is answered, request after request, until nobody listens any more."""

    url: str
    token: str
    receiver: Receiver
    accepted: dict[str, str] = field(default_factory=dict)
    statuses: list[tuple[str, int]] = field(default_factory=list)

    def enqueue(self, http: httpx.Client, key: str, padding: str = "") -> int:
        """Enqueue one message."""
        headers = {
            "Qtasks-Queue": f"parallelism={PARALLELISM}; ordered=false",
            "Upstash-Deduplication-Id": key,
            "Upstash-Retry-Delay": "50",
        }
        answer = http.post(
            f"/v2/enqueue/work/{self.receiver.url}",
            headers=headers,
            content=json.dumps({"id": key, "padding": padding}),
        )
        if answer.is_success:
            self.accepted[key] = answer.text
        self.statuses.append(("enqueue", answer.status_code))
        return answer.status_code

    def ask_all(self, http: httpx.Client, key: str) -> None:
        """Try everything once."""
        self.enqueue(http, key)
        for path in ("/v2/queues", "/v2/logs", "/v2/dlq"):
            self.statuses.append((path, http.get(path).status_code))

    def client(self) -> httpx.Client:
        """Give a client for the broker."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10, trust_env=False)


@pytest.mark.parametrize(("calls", "suffix", "padding"), BREAKS)
def test_a_broker_whose_disk_fails_answers_503_and_exits_within_a_second(
    processes: Processes,
    receiver: Receiver,
    tell: Callable[[object], None],
    calls: str,
    suffix: str,
    padding: str,
) -> None:
    breaking = Breaking(processes, calls, suffix)
    broker = breaking.start("qtasks", "broker", "--store", f"sqlite:///{processes.store}", "--port", "0")
    url = broker.expect(r"broker on (http://\S+), store")[0][1]
    answers = Answers(url, read_keys(processes.store)["QSTASH_TOKEN"], receiver)
    receiver.gate.clear()
    with answers.client() as http:
        for number in range(WAITING):
            assert answers.enqueue(http, f"m{number}") == 200
        eventually(lambda: len(receiver.ledger) == PARALLELISM, "all in flight", of=[broker])
        breaking.break_disk(broker)
        for number in range(LARGE_COUNT):
            if answers.enqueue(http, f"n{number}", padding) != 200:
                break
        failed_at, failed = time.monotonic(), len(answers.statuses)
        receiver.gate.set()
        try:
            while True:
                answers.ask_all(http, "late")
        except httpx.TransportError:
            pass  # it has stopped
    code = broker.wait()
    took_s = time.monotonic() - failed_at

    tell(f"stopped {took_s:.2f} s after the first 503, of {len(answers.statuses) - failed + 1}")
    assert code == 1
    assert took_s <= STOPS_S
    assert {status for _, status in answers.statuses[failed - 1 :]} == {503}
    assert "late" not in answers.accepted
    assert len(receiver.ledger) == PARALLELISM
    assert f"qtasks: the store {processes.store} failed: disk I/O error" in broker.output
    assert_nothing_is_lost(processes, answers)


def assert_nothing_is_lost(processes: Processes, answers: Answers) -> None:
    """Start a broker on a disk that works, and have it do all that was accepted."""
    broker, receiver = processes.broker(), answers.receiver
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, receiver.ledger])
        dead, stuck, interrupted = api.dead(), api.lag(), api.interrupted()
    starts = [each for each in receiver.ledger.starts if each.key in answers.accepted]
    found = balance(answers.accepted, starts, dead=dead, stuck=stuck, interrupted=interrupted, kills=1)
    assert found.faults == []
    # What was answered by 503 may have been stored all the same: its outcome was unknown.
    assert len({each.key for each in receiver.ledger.starts} - set(answers.accepted)) <= 1


@pytest.mark.parametrize(("calls", "suffix"), [(SYNCS, "q.db-wal"), ("pwrite64", "q.db-wal")])
def test_an_app_whose_disk_fails_lives_on_and_its_calls_say_that_the_broker_has_failed(
    processes: Processes, calls: str, suffix: str
) -> None:
    breaking = Breaking(processes, calls, suffix)
    app = breaking.start("uvicorn", "--port", "0", "app_under_test:app")
    url = app.expect(r"Uvicorn running on (http://\S+) ")[0][1]

    def status(method: str, path: str) -> int:
        """Ask over a connection of its own, as uvicorn ends one at an error."""
        return httpx.request(method, f"{url}{path}", timeout=10, trust_env=False).status_code

    for number in range(PARALLELISM):
        assert status("POST", f"/delay/held/m{number}") == 200
    eventually(lambda: len(read_ledger(processes.ledger)) == PARALLELISM, "all in flight", of=[app])
    breaking.break_disk(app)
    assert [status("POST", f"/delay/count/n{number}") for number in range(3)] == [500, 500, 500]
    assert status("GET", "/result/m0") == 500
    app.expect(r"^qtasks\.errors\.BrokerFailed: the store .* cannot be used: disk I/O error", count=3)
    assert status("GET", "/elsewhere") == 404
    processes.open_gate()
    eventually(lambda: all_have_ended(processes.ledger), "an end of what was in flight", of=[app])
    app.terminate()
    assert app.wait(within=5) in (0, -signal.SIGTERM)

    again = processes.app()
    with again.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[again])
        assert api.dead() == []
    done = [each.key for each in read_ledger(processes.ledger) if each.status == DONE]
    # Nobody could record that they were done.
    assert sorted(each for each in done if each[0] == "m") == sorted(f"m{number // 2}" for number in range(8))


def all_have_ended(ledger: Path) -> bool:
    """Say whether nothing runs any more."""
    return all(each.ended_at is not None for each in read_ledger(ledger))
