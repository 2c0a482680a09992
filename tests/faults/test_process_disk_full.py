"""A disk that fills up to the last byte beneath a broker, and has room again (P06).

The disks are real and small: of the reserve they leave 5 %, and the ballast has its usual 8 MiB.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.api import BrokerApi
from tests.support.disks import MIB, SmallDisk, small_disk
from tests.support.ledger import DONE, balance, read_ledger
from tests.support.load import Load
from tests.support.processes import BrokerProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

DISK = 64 * MIB
IN_FLIGHT = 16
WAITING = 40  # messages accepted before the disk fills up, beside those in flight
RESUMES_S = 5.0
REFUSED_S = 3.0  # a look a second, and time for a busy machine
ENDED = {"DELIVERED", "RETRY", "ERROR"}


@pytest.fixture
def disk(tmp_path: Path, processes: Processes) -> Iterator[SmallDisk]:
    """A disk for the database alone."""
    with small_disk(tmp_path, DISK) as mounted:
        processes.store = mounted.folder / "q.db"
        yield mounted


class Sender:
    """Enqueues, and counts what was refused with 507."""

    def __init__(self, broker: BrokerProcess, receiver: Receiver) -> None:
        self.broker = broker
        self.refused = 0
        self._receiver = receiver

    def __call__(self, http: httpx.Client, key: str) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {self.broker.token}",
            "Qtasks-Queue": f"parallelism={IN_FLIGHT}; ordered=false",
            "Upstash-Deduplication-Id": key,
            "Upstash-Retry-Delay": "50",
        }
        url = f"{self.broker.url}/v2/enqueue/work/{self._receiver.url}"
        answer = http.post(url, headers=headers, content=json.dumps({"id": key}))
        self.refused += answer.status_code == 507
        return answer

    def await_refusals(self, *of: object) -> None:
        """Wait until the broker has seen that room is short, and refuses what comes."""
        self.broker.expect("too little room on the disk; messages are refused", within=REFUSED_S)
        goal = self.refused + 2  # the first may be of the time before
        eventually(lambda: self.refused >= goal, "refusals", within=REFUSED_S, of=[self.broker, *of])


def await_in_flight(receiver: Receiver, *of: object) -> None:
    """Wait until as much is in flight as may be."""
    eventually(lambda: len(receiver.ledger) >= IN_FLIGHT, f"{IN_FLIGHT} in flight", of=[*of, receiver.ledger])


def await_ballast(processes: Processes) -> Path:
    """Wait until the ballast is there."""
    ballast = processes.store.with_name("q.db.ballast")
    return eventually(lambda: ballast if ballast.exists() else None, "the ballast")


def have_ended(api: BrokerApi, receiver: Receiver) -> bool:
    """Say whether the end of each attempt so far is recorded."""
    ids = [each.message_id for each in receiver.ledger.starts]
    return all(api.states(each)[-1] in ENDED for each in ids if each is not None)


def test_on_a_full_disk_what_was_begun_ends_and_what_is_new_is_refused_until_there_is_room(
    processes: Processes, receiver: Receiver, disk: SmallDisk, tell: Callable[[object], None]
) -> None:
    broker = processes.broker()
    ballast, send = await_ballast(processes), Sender(broker, receiver)
    receiver.gate.clear()

    with Load(send, "m") as load, broker.api() as api:
        load.await_accepted(IN_FLIGHT + WAITING)
        await_in_flight(receiver, broker)
        disk.fill()
        send.await_refusals(load, disk)
        accepted = len(load.accepted)
        assert api.lag() >= accepted

        receiver.gate.set()
        eventually(lambda: have_ended(api, receiver), "all in flight recorded", of=[broker, disk])
        assert not ballast.exists()
        assert len(receiver.ledger) == IN_FLIGHT  # nothing more was begun
        assert len(load.accepted) == accepted

        disk.make_room()
        made_at = time.monotonic()
        eventually(lambda: len(load.accepted) > accepted, "an acceptance", of=[broker, load, disk])
        took_s = time.monotonic() - made_at
        load.await_accepted(accepted + WAITING)
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, receiver.ledger])
        dead, stuck = api.dead(), api.lag()
    found = balance(load.accepted, receiver.ledger.starts, dead=dead, stuck=stuck, interrupted={}, kills=0)
    tell(f"accepted again {took_s:.1f} s after there was room; {found}")
    assert found.faults == []
    assert found.repeated == 0
    assert took_s <= RESUMES_S
    await_ballast(processes)


def test_below_the_reserve_new_messages_are_refused_and_all_that_was_accepted_is_delivered(
    processes: Processes, receiver: Receiver, disk: SmallDisk
) -> None:
    broker = processes.broker()
    send, keys = Sender(broker, receiver), [f"m{number}" for number in range(IN_FLIGHT + WAITING)]
    ballast = await_ballast(processes)
    receiver.gate.clear()

    with httpx.Client(trust_env=False) as http, broker.api() as api:
        assert all(send(http, key).is_success for key in keys)
        disk.fill(leave=3 * MIB)
        broker.expect("too little room on the disk; messages are refused", within=REFUSED_S)
        refusal = send(http, "late")
        receiver.gate.set()
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, receiver.ledger, disk])

    assert refusal.status_code == 507
    text = refusal.json()["error"]
    assert text.startswith(f"too little room left for {processes.store}: ")
    assert text.endswith(
        "3.2 MiB are kept for what was accepted before; nothing was stored. Make room on its disk and repeat"
    )
    assert {each.key for each in receiver.ledger.starts if each.status == DONE} == set(keys)
    assert ballast.exists()


def test_a_broker_that_is_killed_on_a_full_disk_starts_on_it_and_goes_on_once_there_is_room(
    processes: Processes, receiver: Receiver, disk: SmallDisk
) -> None:
    broker = processes.broker()
    send = Sender(broker, receiver)
    await_ballast(processes)
    receiver.gate.clear()

    with Load(send, "m") as load:
        load.await_accepted(IN_FLIGHT + WAITING)
        await_in_flight(receiver, broker)
        disk.fill()
        send.await_refusals(load, disk)
        broker.kill()
        receiver.gate.set()
        broker = send.broker = processes.broker()
        send.await_refusals(load, disk)
        with broker.api() as api:
            assert api.lag() >= IN_FLIGHT + WAITING
        disk.make_room()
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, receiver.ledger])
        dead, stuck, interrupted = api.dead(), api.lag(), api.interrupted()
    found = balance(
        load.accepted, receiver.ledger.starts, dead=dead, stuck=stuck, interrupted=interrupted, kills=1
    )

    assert found.faults == []
    assert found.in_flight == IN_FLIGHT


def test_an_app_on_a_full_disk_ends_its_tasks_and_its_calls_raise_until_there_is_room(
    processes: Processes, disk: SmallDisk
) -> None:
    app = processes.app()
    await_ballast(processes)
    for number in range(IN_FLIGHT):
        app.delay("held", f"m{number}")
    eventually(lambda: len(read_ledger(processes.ledger)) == IN_FLIGHT, "all in flight", of=[app])
    disk.fill()

    def delay(key: str) -> int:
        return httpx.post(f"{app.url}/delay/count/{key}", timeout=10, trust_env=False).status_code

    eventually(lambda: delay("full") == 500, "a refusal", within=REFUSED_S, of=[app, disk])
    app.expect(r"^qtasks\.errors\.StoreFull: ")
    processes.open_gate()
    with app.broker_api() as api:
        eventually(lambda: api.lag() <= 1, "an end of all that was begun", of=[app, disk])
        disk.make_room()
        eventually(lambda: delay("later") == 200, "an acceptance", within=RESUMES_S, of=[app, disk])
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app, disk])
    starts = read_ledger(processes.ledger)
    assert sorted(each.key for each in starts if each.key != "full") == sorted(
        [*(f"m{number}" for number in range(IN_FLIGHT)), "later"]
    )
    assert {each.status for each in starts} == {DONE}
