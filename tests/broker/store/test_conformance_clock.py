"""What a wall clock that is set back or forward may do to any database (promise P16).

It loses nothing, repeats nothing, and delays nothing that was already due.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.store import DAY_MS, Verbs, bodies

STEPS = pytest.mark.parametrize("step_ms", [-3 * DAY_MS, 3 * DAY_MS], ids=["back", "forward"])
WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}


def claim_soon(store: Verbs, turns: int = 20) -> list[bytes]:
    """Claim with one slot, a millisecond apart, delivering what is claimed."""
    found: list[bytes] = []
    for _ in range(turns):
        store.clock.advance(1)
        for claim in store.claim(1):
            found.append(claim.body)
            store.deliver(claim)
    return found


@STEPS
def test_a_ready_message_starts_at_once_after_a_step(store: Verbs, step_ms: int) -> None:
    store.enqueue(b"ordered")
    store.enqueue(b"unordered", **WIDE)

    store.clock.step_wall(step_ms)

    assert sorted(bodies(store.claim())) == [b"ordered", b"unordered"]


@STEPS
def test_a_delay_that_was_seen_to_have_passed_stays_passed(store: Verbs, step_ms: int) -> None:
    store.enqueue(b"delayed", **WIDE, start_at=store.clock.now() + 1000)
    store.enqueue(b"first", queue="wide", start_at=store.clock.now() + 999)
    store.clock.advance(1000)
    assert bodies(store.claim(1)) == [b"first"]

    store.clock.step_wall(step_ms)

    assert bodies(store.claim(1)) == [b"delayed"]


@STEPS
def test_what_is_enqueued_after_a_step_starts(store: Verbs, step_ms: int) -> None:
    store.enqueue(b"before")
    store.clock.step_wall(step_ms)
    store.enqueue(b"after")
    store.enqueue(b"after", **WIDE)

    assert sorted(claim_soon(store)) == [b"after", b"after", b"before"]


@STEPS
def test_an_ordered_queue_keeps_its_order_over_a_step(store: Verbs, step_ms: int) -> None:
    store.enqueue(b"1")
    store.clock.step_wall(step_ms)
    store.enqueue(b"2")
    store.clock.step_wall(-step_ms)
    store.enqueue(b"3")

    assert claim_soon(store) == [b"1", b"2", b"3"]


@STEPS
def test_a_delivery_that_ends_after_a_step_is_recorded(store: Verbs, step_ms: int) -> None:
    message_id = store.enqueue()
    claim = store.claim_one()

    store.clock.step_wall(step_ms)

    assert store.deliver(claim) is True
    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


@STEPS
def test_a_claim_is_not_given_twice_because_of_a_step(store: Verbs, step_ms: int) -> None:
    store.enqueue(**WIDE)
    store.claim_one()

    store.clock.step_wall(step_ms)

    assert store.claim() == []


@STEPS
def test_a_message_handed_back_before_a_step_starts_at_once(store: Verbs, step_ms: int) -> None:
    store.enqueue(**WIDE)
    store.hand_back(store.claim_one())

    store.clock.step_wall(step_ms)

    assert len(store.claim()) == 1


@STEPS
def test_what_was_in_flight_at_a_crash_starts_at_once_after_a_step(store: Verbs, step_ms: int) -> None:
    store.enqueue()
    store.claim_one()

    store.clock.step_wall(step_ms)
    store.recover("node-2")

    assert len(store.claim(node="node-2")) == 1


def test_a_queue_that_waits_since_before_a_step_back_is_not_starved(store: Verbs) -> None:
    store.enqueue(b"old", queue="old")
    store.clock.step_wall(-3 * DAY_MS)
    for _ in range(50):
        store.enqueue(b"new", **WIDE)

    assert b"old" in claim_soon(store, turns=5)


def test_an_old_message_is_not_starved_by_newer_ones_of_its_queue_after_a_step_back(store: Verbs) -> None:
    store.enqueue(b"old", queue="wide", parallelism=1, ordered=False)
    store.clock.step_wall(-3 * DAY_MS)
    for _ in range(50):
        store.enqueue(b"new", queue="wide")

    assert b"old" in claim_soon(store, turns=5)


def test_a_message_delayed_to_an_instant_waits_for_that_instant_after_a_step_back(store: Verbs) -> None:
    store.enqueue(**WIDE, start_at=store.clock.now() + 1000)
    store.clock.step_wall(-DAY_MS)

    store.clock.advance(DAY_MS + 999)
    assert store.claim() == []
    store.clock.advance(1)

    assert len(store.claim()) == 1


@STEPS
def test_the_states_of_a_message_stay_in_order_over_a_step(store: Verbs, step_ms: int) -> None:
    message_id = store.enqueue()
    store.fail(store.claim_one(), after_ms=1000)
    store.clock.step_wall(step_ms)
    store.clock.advance(3 * DAY_MS + 1000)

    store.deliver(store.claim_one())

    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, DELIVERED"


def test_an_id_repeated_after_a_step_back_is_a_repeat(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.clock.step_wall(-3 * DAY_MS)

    assert store.enqueue(dedup_key="id:a") == first
