"""Arguments as a person writes them: JSON where the parameter takes it, text where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from qtasks.errors import ArgumentsError
from qtasks.tasks.codec import compile_signature
from qtasks.tasks.written import changed_call, read_call


def mail(to: str, copies: int = 1, *, when: date | None = None) -> None:
    """Take a text, a number and a date."""


def open_ended(first: Any, *rest: int, last: str = "", **more: float) -> None:
    """Take whatever there is."""


def read(function: Callable[..., object], **written: str) -> Any:
    """Read a call of a function."""
    return read_call(compile_signature(function, name="t"), written)


def change(
    function: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any], **changes: str
) -> Any:
    """Change a call of a function."""
    return changed_call(compile_signature(function, name="t"), args, kwargs, changes)


def test_the_annotation_decides_what_a_text_is() -> None:
    assert read(mail, to="5", copies="2", when="2026-01-31") == (
        (),
        {"to": "5", "copies": 2, "when": date(2026, 1, 31)},
    )
    assert read(mail, to='"quoted"') == ((), {"to": "quoted"})
    assert read(mail, to="null", when="null") == ((), {"to": "null", "when": None})


def test_without_an_annotation_json_is_json_and_all_else_is_text() -> None:
    assert read(open_ended, first="[1, 2]") == ((), {"first": [1, 2]})
    assert read(open_ended, first="[1, 2") == ((), {"first": "[1, 2"})
    assert read(open_ended, first="") == ((), {"first": ""})


def test_exact_numbers_are_read_from_their_text() -> None:
    def pay(amount: Decimal) -> None:
        """Take an amount."""

    pay.__annotations__ = {"amount": Decimal}

    assert read(pay, amount="10.10") == ((), {"amount": Decimal("10.10")})


def test_other_keywords_are_for_functions_that_take_them() -> None:
    assert read(open_ended, first="1", tax="0.5") == ((), {"first": 1, "tax": 0.5})
    with pytest.raises(ArgumentsError, match=r"t\(\) has no parameter 'cc'; there are: to, copies, when"):
        read(mail, to="x", cc="y")


def test_an_argument_given_by_position_is_changed_where_it_stands() -> None:
    assert change(mail, ["a", 2], {}, to="b") == (("b", 2), {})
    assert change(mail, ["a"], {}, copies="3") == (("a",), {"copies": 3})
    assert change(open_ended, [1, 2, 3], {"last": "x"}, last="y", first="0") == ((0, 2, 3), {"last": "y"})


def test_what_is_kept_is_checked_by_the_signature_as_it_is_now() -> None:
    with pytest.raises(ArgumentsError, match=r"do not fit t\(\): copies: expected int"):
        change(mail, ["a", "two"], {}, to="b")
    assert change(mail, ["a", "two"], {}, copies="2") == (("a", 2), {})


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({}, "missing 1 required argument: 'to'"),
        ({"to": "x", "copies": "two"}, "copies: expected int, got str"),
        ({"to": "x", "copies": "1.5"}, "copies"),
        ({"to": "x", "when": "tomorrow"}, "when"),
    ],
)
def test_what_does_not_fit_is_said_with_the_parameter(written: dict[str, str], text: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        read(mail, **written)

    assert text in str(caught.value)
