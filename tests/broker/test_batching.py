"""Which claims are delivered together: those that ask for it, can stand it, and are of a quick kind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.broker.batching import MOST_BYTES, Requests, parted
from qtasks.broker.retry import judge
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.messages import LARGE_BYTES
from qtasks.broker.store.records import Again, Claim, Reply
from tests.support.store import new_claim

NOW = 1_700_000_000_000
ASKING = Extras(batch=3)
URL = "https://app.example/qtasks/run"


def asking(seq: int, **changes: Any) -> Claim:
    """A claim that may be batched with two others."""
    usual = {"url": URL, "ordered": False, "extras": ASKING}
    return new_claim(now=NOW, seq=seq, id=f"msg_{seq}", **{**usual, **changes})


def is_quick(claim: Claim) -> bool:
    return claim.extras.kind != "slow"


def parts(*claims: Claim, is_quick: Callable[[Claim], bool] = lambda claim: True) -> list[list[int]]:
    """Give the numbers of what goes together."""
    return [[each.seq for each in part] for part in parted(claims, is_quick)]


def test_those_that_ask_go_together_up_to_as_many_as_they_say() -> None:
    assert parts(*map(asking, range(7))) == [[0, 1, 2], [3, 4, 5], [6]]


def test_what_is_not_quick_goes_alone_and_the_others_together_whatever_their_kinds() -> None:
    one, two, slow = (Extras(batch=3, kind=kind) for kind in ("one", "two", "slow"))
    claims = [asking(seq, extras=extras) for seq, extras in enumerate([one, slow, two, slow, ASKING])]

    assert parts(*claims, is_quick=is_quick) == [[0, 2, 4], [1], [3]]
    assert parts(*claims, is_quick=lambda claim: False) == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize(
    "changes",
    [
        {"extras": Extras()},
        {"ordered": True},
        {"max_retries": 0},
        {"interrupted": 1},
        {"method": "PUT"},
        {"body": b"x" * (LARGE_BYTES + 1)},
        {"extras": Extras(batch=3, api="llm")},
    ],
)
def test_whoever_would_suffer_by_it_goes_alone(changes: dict[str, Any]) -> None:
    assert parts(asking(1), asking(2, **changes), asking(3)) == [[1, 3], [2]]


def test_other_destinations_and_other_timeouts_go_in_batches_of_their_own() -> None:
    found = parts(asking(1), asking(2, url=f"{URL}2"), asking(3, timeout_ms=1), asking(4))

    assert found == [[1, 4], [2], [3]]


def test_a_batch_is_no_longer_than_a_request_should_be() -> None:
    body = b"x" * LARGE_BYTES
    many = [asking(n, body=body, extras=Extras(batch=1000)) for n in range(20)]

    assert [len(each) for each in parts(*many)] == [MOST_BYTES // LARGE_BYTES, 20 - MOST_BYTES // LARGE_BYTES]


def test_what_is_too_much_for_one_request_is_cut_into_parts_alike() -> None:
    many = [asking(n, extras=Extras(batch=100)) for n in range(205)]

    assert [len(each) for each in parts(*many)] == [69, 69, 67]


def admitted(count: int, *claims: Claim) -> list[int]:
    """Give the numbers of those that fit into so many requests, up to the first that does not."""
    return [each.seq for each in takewhile(Requests(count, is_quick), claims)]


def test_requests_have_room_for_what_goes_together_and_for_one_that_goes_alone_each() -> None:
    slow, other = Extras(batch=3, kind="slow"), f"{URL}2"

    assert admitted(2, *map(asking, range(8))) == [0, 1, 2, 3, 4, 5]
    assert admitted(2, *(asking(n, extras=slow) for n in range(4))) == [0, 1]
    assert admitted(2, asking(0), asking(1, extras=slow), asking(2, url=other)) == [0, 1]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["quick", "slow"])), max_size=60),
    st.integers(1, 9),
)
def test_what_fits_takes_no_more_requests_than_there_are(drawn: list[tuple[str, str]], count: int) -> None:
    claims = [
        asking(n, url=f"{URL}{place}", extras=Extras(batch=3, kind=kind))
        for n, (place, kind) in enumerate(drawn)
    ]
    fits = Requests(count, is_quick)

    taken = list(takewhile(fits, claims))

    assert len(parted(taken, is_quick)) <= count
    assert taken == claims or len(parted([*taken, claims[len(taken)]], is_quick)) == count + 1


def test_what_lost_its_line_goes_alone_the_next_time() -> None:
    verdict = judge(asking(1), Reply(0, error="lost", is_alone_next=True), NOW, 0.0)

    assert isinstance(verdict, Again)
    assert (verdict.counted, verdict.interrupted) == (True, True)
