"""What a destination is handed at once: the policy alone, by its transitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.broker.adapting import (
    FIRST_PAUSE_MS,
    FORGET_MS,
    FREE,
    LONGEST_HINT_MS,
    LONGEST_PAUSE_MS,
    Standing,
    answered,
    refused,
    room,
    unreachable,
)

MOST = 64


def refuse(standing: Standing, in_flight: int = 1, **changes: Any) -> Standing:
    """Refuse an attempt of this round."""
    facts: dict[str, Any] = {"began_in": standing.round, "fraction": 0.0, "now": 0}
    return refused(standing, in_flight=in_flight, **(facts | changes))


def answer(standing: Standing, count: int = 1, *, took_ms: int = 10, now: int = 0) -> Standing:
    """Answer so many attempts, one after the other, each of them when all that may be are in flight."""
    for _ in range(count):
        in_flight = MOST if standing.limit > MOST else int(standing.limit)
        standing = answered(standing, in_flight=in_flight, took_ms=took_ms, most=MOST, now=now)
    return standing


def lose(standing: Standing, fraction: float = 0.0, now: int = 0) -> Standing:
    return unreachable(standing, era=standing.era, fraction=fraction, now=now)


def test_nothing_is_held_back_without_a_reason() -> None:
    assert room(FREE, 1000, now=0) is None
    assert answer(FREE, 100) is FREE


def test_a_refusal_leaves_four_fifths() -> None:
    assert room(refuse(FREE, 50), 0, now=0) == 40


def test_refusals_of_one_round_leave_what_was_not_refused() -> None:
    standing = first = refuse(FREE, 64)
    for _ in range(53):
        standing = refuse(standing, began_in=first.round - 1)

    assert room(standing, 0, now=0) == 64 - 54


def test_what_is_in_flight_counts_against_the_limit() -> None:
    standing = refuse(FREE, 50)

    assert [room(standing, count, now=0) for count in (39, 40, 64)] == [1, 0, 0]


def test_it_comes_back_to_what_was_taken_before_in_one_round_for_each_step() -> None:
    standing = refuse(FREE, 11)
    assert int(standing.limit) == 8

    assert [int(answer(standing, count).limit) for count in (10, 20)] == [9, 10]


def test_more_than_was_refused_is_tried_after_many_rounds_alone() -> None:
    at_known = answer(refuse(FREE, 11), 30)
    assert int(at_known.limit) == 10

    assert int(answer(at_known, 10 * 25).limit) == 10
    assert int(answer(at_known, 10 * 40).limit) == 11


def test_a_destination_that_has_grown_is_found_out() -> None:
    standing = refuse(FREE, 3)
    counts = 0
    while standing.is_held_back:
        standing = answer(standing)
        counts += 1
        assert counts < 20_000

    assert counts > 100


def test_what_is_not_used_proves_nothing() -> None:
    standing = refuse(FREE, 50)

    unused = answered(standing, in_flight=1, took_ms=10, most=MOST, now=0)

    assert unused.limit == standing.limit


def test_answers_that_take_longer_with_more_in_flight_slow_the_growth_down() -> None:
    standing = answer(lose(FREE), 4, took_ms=10)

    quick, slow = answer(standing, 8, took_ms=10), answer(standing, 8, took_ms=50)

    assert quick.limit > slow.limit + 7


def test_time_forgets_where_little_is_used() -> None:
    standing = refuse(FREE, 10)

    early, late = (
        answered(standing, in_flight=1, took_ms=10, most=MOST, now=now) for now in (FORGET_MS - 1, FORGET_MS)
    )

    assert early.is_held_back
    assert not late.is_held_back


def test_where_all_is_used_time_makes_it_try_again_step_by_step() -> None:
    standing = answer(refuse(FREE, 11), 30)

    assert int(answer(standing, 2, now=FORGET_MS).limit) == 12


def test_one_refusal_with_nothing_else_in_flight_is_soon_made_up_for() -> None:
    standing = refuse(FREE, 1)

    assert room(standing, 0, now=0) == 1
    assert int(answer(standing, 20).limit) == 21


def test_silence_says_nothing_about_how_many_are_taken() -> None:
    standing = refuse(FREE, 64, is_silent=True)
    for _ in range(63):
        standing = refuse(standing, began_in=0, is_silent=True)
    assert room(standing, 0, now=0) == 1

    assert int(answer(standing, 20).limit) == 21
    assert refuse(standing, is_silent=True).probe_at is not None


# --- the circuit ----------------------------------------------------------------------------------


def test_who_cannot_be_reached_gets_one_probe() -> None:
    standing = lose(FREE, now=500)

    assert room(standing, 0, now=500 + FIRST_PAUSE_MS // 2 - 1) == 0
    assert room(standing, 0, now=500 + FIRST_PAUSE_MS // 2) == 1
    assert room(standing, 1, now=500 + FIRST_PAUSE_MS) == 0


def test_probes_come_less_often_up_to_a_limit_and_are_spread() -> None:
    standing, pauses = FREE, []
    for _ in range(6):
        standing = lose(standing, fraction=1.0)
        pauses.append(standing.probe_at)

    assert pauses == [1000, 2000, 4000, LONGEST_PAUSE_MS, LONGEST_PAUSE_MS, LONGEST_PAUSE_MS]
    assert lose(FREE, fraction=0.5).probe_at == 750


def test_what_was_in_flight_with_the_first_failure_tells_nothing_new() -> None:
    standing = lose(FREE)

    assert unreachable(standing, era=0, fraction=0.0, now=0) is standing


def test_a_destination_that_answers_is_trusted_step_by_step() -> None:
    standing = lose(lose(FREE))

    steps = [int(answer(standing, count).limit) for count in (1, 2, 3, 10)]

    assert steps == [2, 3, 4, 11]
    assert answer(standing).failures == 0


def test_who_refuses_a_single_attempt_is_left_alone_for_as_long_as_it_asks() -> None:
    standing = refuse(FREE, 1)
    assert room(standing, 0, now=0) == 1

    assert refuse(standing, 1).probe_at == FIRST_PAUSE_MS // 2
    assert refuse(standing, 1, hint_ms=20_000).probe_at == 20_000
    assert refuse(standing, 1, hint_ms=86_400_000).probe_at == LONGEST_HINT_MS


def test_refusals_from_before_an_outage_do_not_count_after_it() -> None:
    standing = answer(lose(FREE), 5)

    assert refuse(standing, began_in=0).limit == standing.limit


# --- always ---------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(st.sampled_from(["answer", "refuse", "late refusal", "lose"]), st.integers(1, 100)),
    max_size=200,
)


@given(EVENTS)
def test_it_always_recovers_and_the_limit_is_never_below_one(events: list[tuple[str, int]]) -> None:
    standing, now = FREE, 0
    for kind, number in events:
        now += number
        if kind == "answer":
            standing = answered(standing, in_flight=number, took_ms=number, most=MOST, now=now)
        elif kind == "refuse":
            standing = refuse(standing, number, now=now)
        elif kind == "late refusal" and standing.round:
            standing = refuse(standing, number, began_in=standing.round - 1, now=now)
        elif kind == "lose":
            standing = lose(standing, now=now)
        assert standing.limit >= 1
        assert standing.known >= 1
        later = now + LONGEST_PAUSE_MS + LONGEST_HINT_MS
        assert room(standing, 0, now=later) != 0

    for _ in range(30_000):
        if not standing.is_held_back:
            break
        standing = answer(standing, now=now)
    assert room(standing, 1000, now=now) is None


@pytest.mark.parametrize("capacity", [1, 2, 5, 17, 40])
def test_it_settles_at_what_is_taken(capacity: int) -> None:
    standing = refuse(FREE, MOST)
    refusals = answers = 0
    for _ in range(5000):
        limit = int(standing.limit)
        if standing.probe_at is not None:
            standing = replace(standing, probe_at=0)
            limit = 1
        if limit > capacity:
            standing, refusals = refuse(standing, limit), refusals + 1
        else:
            standing, answers = answer(standing), answers + 1

    assert refusals < 0.05 * answers
    assert capacity * 0.7 <= standing.limit < capacity + 1
