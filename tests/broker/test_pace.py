"""How quick work is, learnt of each kind: of as many as there is room for, those of late."""

from __future__ import annotations

import pytest

from qtasks.broker.pace import MEMORY, Pace, Paces

QUICK_NS = 1000


def quick(paces: Paces, *kinds: str) -> None:
    """Have work of these kinds be quick, in turn, until that is known."""
    for _ in range(MEMORY):
        for kind in kinds:
            paces.took(kind, QUICK_NS // 10)


def known(paces: Paces, *kinds: str) -> list[str]:
    """Give which of these are known to be quick."""
    return [kind for kind in kinds if paces.is_quick(kind)]


def test_one_kind_is_quick_whatever_others_are() -> None:
    paces = Paces(QUICK_NS, most=10)
    quick(paces, "mail", "resize")

    paces.took("resize", 100 * QUICK_NS)

    assert known(paces, "mail", "resize", "unheard of") == ["mail"]


def test_of_too_many_kinds_that_is_forgotten_of_which_nothing_was_learnt_for_longest() -> None:
    paces = Paces(QUICK_NS, most=3)
    quick(paces, "a", "b", "c")

    paces.took("a", 0)
    paces.took("d", 0)

    assert known(paces, "a", "b", "c") == ["a", "c"]


def test_kinds_without_end_take_no_more_room_than_those_that_are_remembered() -> None:
    paces = Paces(QUICK_NS, most=3)
    for number in range(1000):
        quick(paces, "mail")
        paces.took(f"{number}", 0)
        assert not paces.is_quick(f"stranger {number}")

    assert len(paces) == 3
    assert paces.is_quick("mail")


def test_many_at_once_teach_as_much_as_one_after_the_other() -> None:
    one_by_one, at_once = Pace(QUICK_NS), Pace(QUICK_NS)
    for _ in range(20):
        one_by_one.took(QUICK_NS // 3)
    at_once.took(QUICK_NS // 3, 20)

    assert at_once._mean_ns == pytest.approx(one_by_one._mean_ns)
