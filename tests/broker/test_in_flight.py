"""What a node has in hand, and what it says of the tasks among it to whoever waits for them."""

from __future__ import annotations

import pytest

from qtasks.broker.in_flight import InFlight
from qtasks.broker.store.messages import LARGE_BYTES
from qtasks.broker.waiters import Waiters
from tests.support.store import new_claim

NOW = 1_700_000_000_000
LARGE = new_claim(now=NOW, seq=1, task_id="tsk_1", body=bytes(LARGE_BYTES + 1))
SMALL = new_claim(now=NOW, seq=2, task_id="tsk_2", body=bytes(LARGE_BYTES))
PLAIN = new_claim(now=NOW, seq=3, task_id=None)


@pytest.fixture
def waiters() -> Waiters:
    return Waiters()


@pytest.fixture
def in_flight(waiters: Waiters) -> InFlight:
    found = InFlight(waiters)
    found.add([LARGE, SMALL, PLAIN])
    return found


def test_claims_are_known_by_their_leases(in_flight: InFlight) -> None:
    assert (len(in_flight), list(in_flight)) == (3, [LARGE, SMALL, PLAIN])
    assert in_flight.leases == {each.lease for each in (LARGE, SMALL, PLAIN)}
    assert SMALL.lease in in_flight
    assert (SMALL.seq, SMALL.lease_epoch + 1) not in in_flight


def test_large_bodies_alone_take_room_until_they_end(in_flight: InFlight) -> None:
    assert in_flight.large_bytes == LARGE_BYTES + 1

    in_flight.end([SMALL, LARGE])
    in_flight.end([LARGE])  # what has ended may be said to end again

    assert (in_flight.large_bytes, list(in_flight)) == (0, [PLAIN])


def test_tasks_are_under_way_from_their_claim_to_its_end(waiters: Waiters, in_flight: InFlight) -> None:
    assert waiters.are_under_way(["tsk_1", "tsk_2"])

    in_flight.end([LARGE])

    assert not waiters.are_under_way(["tsk_1", "tsk_2"])
    assert waiters.are_under_way(["tsk_2"])


def test_tasks_are_under_way_before_their_claims_are_taken_in(waiters: Waiters) -> None:
    InFlight(waiters).expect([SMALL, PLAIN])

    assert waiters.are_under_way(["tsk_2"])


def test_a_task_that_has_finished_is_under_way_no_more(waiters: Waiters, in_flight: InFlight) -> None:
    waiters.finish(["tsk_1"])

    assert not waiters.are_under_way(["tsk_1"])


def test_of_no_task_at_all_nothing_is_known(waiters: Waiters, in_flight: InFlight) -> None:
    assert not waiters.are_under_way([])
