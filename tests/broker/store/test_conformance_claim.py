"""What claiming owes on every database: parallelism, order, pause, delays, fairness, and the attempt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from qtasks.broker.store import claiming
from qtasks.broker.store.records import Claim
from tests.support.store import DAY_MS, HOOK, LEASE_MARGIN_MS, NODE, Verbs, bodies

WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}


def claim_one_by_one(store: Verbs, count: int) -> list[Claim]:
    """Claim with a single free slot each time, a millisecond apart."""
    claims: list[Claim] = []
    for _ in range(10 * count):
        if len(claims) < count:
            store.clock.advance(1)
            claims += store.claim(1)
    return claims


def test_an_attempt_is_counted_and_leased_by_the_claim(store: Verbs) -> None:
    store.enqueue(timeout_ms=60_000)

    claim = store.claim_one()

    assert (claim.attempt, claim.lease_epoch) == (1, 1)
    assert claim.started_at == store.clock.now()
    assert claim.lease_until == store.clock.now() + 60_000 + LEASE_MARGIN_MS


def test_each_further_attempt_counts_up(store: Verbs) -> None:
    store.enqueue()
    for attempt in (1, 2, 3):
        claim = store.claim_one()
        assert (claim.attempt, claim.lease_epoch) == (attempt, attempt)
        store.fail(claim, after_ms=0)


def test_a_claimed_message_is_not_claimed_again(store: Verbs) -> None:
    store.enqueue(**WIDE)

    assert (len(store.claim()), len(store.claim())) == (1, 0)


def test_no_more_is_claimed_than_there_are_slots(store: Verbs) -> None:
    for _ in range(5):
        store.enqueue(**WIDE)

    assert [len(store.claim(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_no_more_of_a_queue_is_in_flight_than_its_parallelism(store: Verbs) -> None:
    for _ in range(5):
        store.enqueue(queue="wide", parallelism=2, ordered=False)

    first, _ = store.claim()
    assert store.claim() == []
    store.deliver(first)

    assert len(store.claim()) == 1


def test_a_raised_parallelism_takes_effect_at_the_next_claim(store: Verbs) -> None:
    for _ in range(5):
        store.enqueue()
    assert len(store.claim()) == 1

    store.set_queue("mail", 4)

    assert len(store.claim()) == 3


def test_a_lowered_parallelism_lets_what_is_in_flight_end(store: Verbs) -> None:
    for _ in range(6):
        store.enqueue(parallelism=3)
    claims = store.claim()
    store.set_queue("mail", 1)

    store.deliver(claims[0])
    assert store.claim() == []
    store.deliver(claims[1])
    assert store.claim() == []
    store.deliver(claims[2])

    assert len(store.claim()) == 1


def test_an_ordered_queue_starts_in_the_order_of_acceptance(store: Verbs) -> None:
    store.store(*(store.message(b"%d" % n, parallelism=10) for n in range(3)))
    store.clock.step_wall(-DAY_MS)
    store.enqueue(b"3")

    assert bodies(store.claim()) == [b"0", b"1", b"2", b"3"]


def test_an_unordered_queue_starts_what_is_due_first(store: Verbs) -> None:
    now = store.clock.now()
    for number, delay in enumerate((3000, 1000, 2000)):
        store.enqueue(b"%d" % number, **WIDE, start_at=now + delay)

    store.clock.advance(5000)

    assert bodies(store.claim()) == [b"1", b"2", b"0"]


def test_in_an_ordered_queue_the_next_starts_only_after_the_end_of_the_first(store: Verbs) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")

    claim = store.claim_one()
    store.fail(claim, after_ms=12_000)
    assert store.claim() == []
    store.clock.advance(11_999)
    assert store.claim() == []
    store.clock.advance(1)
    again = store.claim_one()
    assert (again.body, store.claim()) == (b"first", [])
    store.deliver(again)

    assert bodies(store.claim()) == [b"second"]


def test_a_dead_head_lets_the_next_start(store: Verbs) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")

    store.kill(store.claim_one())

    assert bodies(store.claim()) == [b"second"]


def test_a_retry_keeps_one_slot_of_an_ordered_queue_and_leaves_the_others(store: Verbs) -> None:
    for number in range(4):
        store.enqueue(b"%d" % number, parallelism=2)
    first, second = store.claim()

    store.fail(first)
    assert store.claim() == []
    store.deliver(second)

    assert bodies(store.claim()) == [b"2"]


def test_a_retry_in_an_ordered_queue_goes_before_what_has_not_started(store: Verbs) -> None:
    for number in range(4):
        store.enqueue(b"%d" % number, parallelism=2)
    first, second = store.claim()
    store.fail(first, after_ms=1000)
    store.clock.advance(1000)

    store.deliver(second)

    assert bodies(store.claim()) == [b"0", b"2"]


def test_a_retry_holds_up_nobody_in_an_unordered_queue(store: Verbs) -> None:
    store.enqueue(b"first", queue="wide", ordered=False)
    store.enqueue(b"second", queue="wide", ordered=False)

    store.fail(store.claim_one())

    assert bodies(store.claim()) == [b"second"]


def test_a_retry_starts_when_it_is_due_and_not_before(store: Verbs) -> None:
    store.enqueue(**WIDE)
    store.fail(store.claim_one(), after_ms=12_000)

    store.clock.advance(11_999)
    assert store.claim() == []
    store.clock.advance(1)

    assert store.claim_one().attempt == 2


def test_a_delayed_message_starts_when_it_is_due_and_not_before(store: Verbs) -> None:
    store.enqueue(**WIDE, start_at=store.clock.now() + 2000)

    store.clock.advance(1999)
    assert store.claim() == []
    store.clock.advance(1)

    assert len(store.claim()) == 1


def test_a_delayed_message_holds_up_nobody(store: Verbs) -> None:
    store.enqueue(b"later", **WIDE, start_at=store.clock.now() + 2000)
    store.enqueue(b"now", **WIDE)

    assert bodies(store.claim()) == [b"now"]


def test_a_message_handed_back_starts_again_without_having_spent_an_attempt(store: Verbs) -> None:
    store.enqueue()

    first = store.claim_one()
    store.hand_back(first)
    second = store.claim_one()

    assert (second.attempt, second.lease_epoch) == (1, first.lease_epoch + 1)


def test_a_message_handed_back_keeps_its_place_in_an_ordered_queue(store: Verbs) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")

    store.hand_back(store.claim_one())

    assert bodies(store.claim()) == [b"first"]


def test_a_paused_queue_starts_nothing(store: Verbs) -> None:
    store.enqueue()

    store.pause("mail")

    assert store.claim() == []


def test_a_paused_queue_accepts(store: Verbs) -> None:
    store.set_queue("mail", 1, paused=True)

    store.enqueue()

    assert (store.queue("mail").lag, store.claim()) == (1, [])


def test_pausing_one_queue_stops_no_other(store: Verbs) -> None:
    store.enqueue(b"paused")
    store.enqueue(b"other", queue="other")

    store.pause("mail")

    assert bodies(store.claim()) == [b"other"]


def test_what_is_in_flight_when_its_queue_is_paused_can_end(store: Verbs) -> None:
    message_id = store.enqueue()
    claim = store.claim_one()

    store.pause("mail")

    assert store.deliver(claim)
    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


def test_a_retry_that_falls_due_in_a_paused_queue_waits_as_well(store: Verbs) -> None:
    store.enqueue()
    store.fail(store.claim_one(), after_ms=1000)
    store.pause("mail")

    store.clock.advance(5000)

    assert store.claim() == []


def test_a_resumed_queue_goes_on_from_the_oldest(store: Verbs) -> None:
    store.enqueue(b"first")
    store.fail(store.claim_one(), after_ms=1000)
    store.pause("mail")
    store.enqueue(b"second")
    store.clock.advance(5000)
    store.claim()

    store.pause("mail", paused=False)

    assert bodies(store.claim()) == [b"first"]


@pytest.mark.parametrize("paused", [True, False])
def test_pausing_and_resuming_twice_is_the_same_as_once(store: Verbs, paused: bool) -> None:
    store.enqueue()

    assert store.pause("mail", paused)
    assert store.pause("mail", paused)

    assert store.queue("mail").paused is paused


def test_pausing_an_unknown_queue_finds_none(store: Verbs) -> None:
    assert store.pause("nobody") is False


def test_messages_of_an_app_are_claimed_by_its_own_node_only(store: Verbs) -> None:
    store.enqueue(b"a", **WIDE, app="app-a")
    store.enqueue(b"b", **WIDE, app="app-b")
    store.enqueue(b"http", **WIDE)

    assert bodies(store.claim(app="app-b")) == [b"b", b"http"]
    store.recover(NODE)
    assert bodies(store.claim(app=None)) == []
    store.recover(NODE)
    assert bodies(store.claim(app="app-a")) == [b"a"]


def test_a_claim_says_when_the_next_message_falls_due(store: Verbs) -> None:
    due_at = store.clock.now() + 5000
    store.enqueue(**WIDE, start_at=due_at + 1)
    store.enqueue(**WIDE, start_at=due_at)

    claimed = store.database.run(
        lambda session: claiming.claim(
            session,
            node="n",
            app=None,
            slots=1,
            alone_is_free=True,
            lease_margin_ms=0,
            now=store.clock.now(),
        )
    )

    assert claimed.next_due_at == due_at


def test_a_claim_does_not_come_back_empty_while_another_queue_has_something_to_start(store: Verbs) -> None:
    store.enqueue(b"only one", queue="short", parallelism=100, ordered=False)
    for _ in range(3):
        store.enqueue(b"many", **WIDE)
        store.clock.advance(1)

    claimed = []
    for _ in range(4):
        claimed += bodies(store.claim(1))
        store.clock.advance(1)

    assert sorted(claimed) == [b"many", b"many", b"many", b"only one"]


def test_a_large_backlog_does_not_keep_a_small_queue_waiting(store: Verbs) -> None:
    for _ in range(50):
        store.enqueue(b"big", queue="big", parallelism=100, ordered=False)
    for _ in range(2):
        store.enqueue(b"small", queue="small", parallelism=100, ordered=False)

    assert bodies(claim_one_by_one(store, 6)).count(b"small") == 2


def test_queues_take_turns_when_there_are_fewer_slots_than_queues(store: Verbs) -> None:
    for number in range(30):
        store.enqueue(queue=f"q{number % 5}", parallelism=100, ordered=False)

    assert Counter(each.queue for each in claim_one_by_one(store, 10)) == {f"q{n}": 2 for n in range(5)}


def test_a_queue_that_is_refilled_all_the_time_does_not_starve_the_others(store: Verbs) -> None:
    store.enqueue(b"busy", **WIDE)
    store.enqueue(b"other", queue="other")

    claimed = []
    for _ in range(4):
        [claim] = claim_one_by_one(store, 1)
        claimed.append(claim.body)
        store.enqueue(b"busy", **WIDE)
        store.deliver(claim)

    assert b"other" in claimed


def test_more_queues_than_one_claim_visits_are_all_served(store: Verbs) -> None:
    store.store(*(store.message(queue=f"q{n}") for n in range(200)))

    served = {each.queue for _ in range(10) for each in store.claim(100)}

    assert served == {f"q{n}" for n in range(200)}


def test_full_and_paused_queues_do_not_hide_the_others(store: Verbs) -> None:
    for n in range(100):
        store.enqueue(queue=f"paused{n}")
        store.pause(f"paused{n}")
        store.enqueue(queue=f"full{n}")
    store.claim(1000)
    while store.claim(1000):
        pass
    for n in range(100):
        store.enqueue(queue=f"full{n}")

    store.enqueue(b"free", queue="free")

    assert bodies(store.claim(1)) == [b"free"]


def test_whatever_is_enqueued_is_claimed_in_the_end(store: Verbs) -> None:
    """A walk through all that can put a queue in line or out of it; nothing may get stuck."""
    ids = {store.enqueue(queue=f"q{n % 4}", parallelism=1 + n % 2, ordered=n % 4 < 2) for n in range(40)}
    delivered: set[str] = set()

    for turn in range(200):
        for place, claim in enumerate(store.claim(3)):
            if (turn + place) % 3 == 0 and claim.attempt == 1:
                store.fail(claim, after_ms=1000)
            elif (turn + place) % 5 == 0 and claim.lease_epoch < 4:
                store.hand_back(claim)
            else:
                store.deliver(claim)
                delivered.add(claim.id)
        if turn % 7 == 0:
            store.pause(f"q{turn % 4}", paused=turn % 2 == 0)
        store.clock.advance(300)
    for n in range(4):
        store.pause(f"q{n}", paused=False)
    while claims := store.claim():
        for claim in claims:
            store.deliver(claim)
            delivered.add(claim.id)

    assert delivered == ids


def test_a_published_message_needs_no_slot_of_a_queue(store: Verbs) -> None:
    for number in range(3):
        store.enqueue(b"%d" % number, queue="", parallelism=1 << 31, ordered=False, url=HOOK)

    assert bodies(store.claim()) == [b"0", b"1", b"2"]


def test_from_the_first_that_does_not_fit_all_wait(store: Verbs) -> None:
    for n in range(6):
        store.enqueue(b"%d" % n, **WIDE)
    store.enqueue(b"other", queue="other")
    seen: list[bytes] = []

    def fits(claim: Claim) -> bool:
        seen.append(claim.body)
        return claim.body != b"3"

    assert bodies(store.claim(admit=lambda: fits)) == [b"0", b"1", b"2"]
    assert seen == [b"0", b"1", b"2", b"3"]  # and nobody was asked after it
    assert sorted(bodies(store.claim())) == [b"3", b"4", b"5", b"other"]


def test_one_claim_never_gives_a_message_twice(store: Verbs) -> None:
    for number in range(20):
        store.enqueue(queue=f"q{number % 3}", parallelism=[1, 2, 100][number % 3], ordered=number % 3 == 0)

    claims = store.claim(100)

    assert len({each.id for each in claims}) == len(claims) == 1 + 2 + 6
