"""Claims while destinations are held back, on every kind of database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qtasks.broker.store import claiming
from qtasks.broker.store.holding import AGAIN_MS, APART_MS, BEHIND_MS, LOOK, Held
from qtasks.broker.store.records import Again, Claimed
from qtasks.clock import ManualClock
from tests.support.store import Verbs

ILL, WELL = "http://ill.example/work", "http://well.example/work"
WIDE: dict[str, Any] = {"parallelism": 100_000, "ordered": False}


def place_of(url: str) -> str:
    return url.removesuffix("/work")


def held(room: int = 0, *, may_put_back: bool = False) -> Held:
    return Held({place_of(ILL): room}, place_of, may_put_back=may_put_back)


def claim(store: Verbs, held: Held | None, *, first: Sequence[int] = (), slots: int = 100) -> Claimed:
    now = store.clock.now()
    return store.database.run(
        lambda session: claiming.claim(
            session,
            node="node-1",
            app="shop",
            slots=slots,
            alone_is_free=True,
            lease_margin_ms=0,
            now=now,
            held=held,
            first=first,
        )
    )


def ids(claimed: Claimed) -> list[str]:
    return [each.id for each in claimed.claims]


def test_no_more_is_claimed_than_a_destination_has_room_for(store: Verbs) -> None:
    sent = [store.enqueue(url=ILL, queue=queue, **WIDE) for queue in ("a", "a", "b", "b")]

    assert ids(claim(store, held(1))) == sent[:1]


def test_what_leads_elsewhere_is_claimed_past_it(store: Verbs) -> None:
    for _ in range(3):
        store.enqueue(url=ILL, queue="a", **WIDE)
    well = [store.enqueue(url=WELL, queue=queue, **WIDE) for queue in ("a", "a", "b")]

    assert ids(claim(store, held())) == well


def test_what_is_left_keeps_its_attempt_and_its_place(store: Verbs) -> None:
    sent = [store.enqueue(url=ILL, queue="a", **WIDE) for _ in range(3)]
    claim(store, held())
    store.clock.advance(AGAIN_MS)

    claimed = claim(store, None)

    assert ids(claimed) == sent
    assert {each.attempt for each in claimed.claims} == {1}


def test_an_ordered_queue_waits_with_its_first(store: Verbs) -> None:
    sent = [store.enqueue(url=url, queue="line") for url in (ILL, WELL)]

    assert ids(claim(store, held())) == []
    store.clock.advance(AGAIN_MS)
    assert ids(claim(store, held(1))) == sent[:1]


def test_what_runs_in_this_process_is_not_held_back(store: Verbs) -> None:
    sent = store.enqueue(url=ILL, queue="a", app="shop", **WIDE)

    assert ids(claim(store, held())) == [sent]


def test_of_spare_slots_everybody_gets_a_few(store: Verbs) -> None:
    for url in (ILL, WELL, "http://other.example/work"):
        for _ in range(5):
            store.enqueue(url=url, queue=place_of(url), **WIDE)
    for _ in range(5):
        store.enqueue(queue="tasks", app="shop", **WIDE)

    claimed = claim(store, Held({place_of(ILL): 0}, place_of, others=2, in_process=3))

    assert sorted(place_of(each.url) if each.app is None else "in process" for each in claimed.claims) == [
        "http://other.example",
        "http://other.example",
        "http://well.example",
        "http://well.example",
        "in process",
        "in process",
        "in process",
    ]


def test_a_queue_that_is_turned_away_is_looked_at_again_after_a_while(store: Verbs) -> None:
    for queue in ("a", "b"):
        store.enqueue(url=ILL, queue=queue, **WIDE)

    claimed = claim(store, held())

    assert {place for _, place in claimed.turned_away} == {place_of(ILL)}
    assert claimed.next_due_at == store.clock.now() + AGAIN_MS
    assert not claim(store, held()).turned_away
    store.clock.advance(AGAIN_MS)
    assert len(claim(store, held()).turned_away) == 1
    store.clock.advance(APART_MS)
    assert len(claim(store, held()).turned_away) == 1


def test_a_queue_that_may_go_on_has_the_first_turn(store: Verbs) -> None:
    late = store.enqueue(url=ILL, queue="late", **WIDE)
    [(queue, _)] = claim(store, held()).turned_away
    store.enqueue(url=ILL, queue="early", **WIDE)

    assert ids(claim(store, held(1), first=[queue])) == [late]


@pytest.mark.parametrize("behind", [1, LOOK])
def test_what_is_in_the_way_is_put_behind(store: Verbs, clock: ManualClock, behind: int) -> None:
    for _ in range(LOOK + behind - 1):
        store.enqueue(url=ILL, queue="a", **WIDE)
    well = store.enqueue(url=WELL, queue="a", **WIDE)

    found: list[str] = []
    for _ in range(3):
        found += ids(claim(store, held(may_put_back=True)))
        clock.advance(AGAIN_MS)

    assert found == [well]


def test_what_was_put_behind_is_ready_at_once_and_in_order(store: Verbs, clock: ManualClock) -> None:
    sent = [store.enqueue(url=ILL, queue="a", **WIDE) for _ in range(LOOK + 10)]
    claim(store, held(may_put_back=True))
    clock.advance(AGAIN_MS)

    claimed = claim(store, None, slots=1000)

    assert ids(claimed) == sent[LOOK:] + sent[:LOOK]


def test_what_was_put_behind_is_not_moved_again_soon(store: Verbs, clock: ManualClock) -> None:
    sent = [store.enqueue(url=ILL, queue="a", **WIDE) for _ in range(LOOK)]
    for _ in range(3):
        claim(store, held(may_put_back=True))
        clock.advance(1000)
    later = store.enqueue(url=ILL, queue="a", **WIDE)
    clock.advance(BEHIND_MS)

    assert ids(claim(store, None, slots=1000)) == [later, *sent]


def test_a_claim_that_is_settled_brings_its_queue_back(store: Verbs) -> None:
    first, second = (store.enqueue(url=ILL, queue="a", **WIDE) for _ in range(2))
    [claimed] = claim(store, held(1)).claims
    assert claimed.id == first
    store.settle(claimed, Again(store.clock.now() + 5000))

    assert ids(claim(store, held(1))) == [second]
