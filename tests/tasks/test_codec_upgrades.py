"""Calls that the code of yesterday enqueued, run by that of today, as `docs/upgrades.md` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from qtasks.errors import DecodeError
from qtasks.tasks.codec import compile_signature


def with_a_default_more(a: int, b: str, c: int = 3) -> None: ...
def with_one_more(a: int, b: str, c: int) -> None: ...
def with_one_less(a: int) -> None: ...
def renamed(a: int, other: str) -> None: ...
def narrowed(a: int, b: int) -> None: ...


def decode(function: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return compile_signature(function, name="shop.order").decode(args, kwargs)


@pytest.mark.parametrize(("args", "kwargs"), [([1, "x"], {}), ([1], {"b": "x"}), ([], {"a": 1, "b": "x"})])
def test_a_parameter_with_a_default_may_be_added(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert decode(with_a_default_more, args, kwargs) == (tuple(args), kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (with_one_more, [1, "x"], {}, "missing 1 required argument: 'c'"),
        (with_one_less, [1, "x"], {}, "takes 1 positional argument but 2 were given"),
        (with_one_less, [1], {"b": "x"}, "got an unexpected keyword argument 'b'"),
        (renamed, [1], {"b": "x"}, "got an unexpected keyword argument 'b'"),
        (narrowed, [1, "x"], {}, "b: expected int, got str"),
    ],
)
def test_other_changes_are_refused_by_name(
    function: Callable[..., object], args: list[Any], kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(DecodeError, match=text):
        decode(function, args, kwargs)


def test_a_parameter_that_is_given_by_position_may_be_renamed() -> None:
    assert decode(renamed, [1, "x"], {}) == ((1, "x"), {})
