"""How many rows a page of a listing holds, and how they are made JSON of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from qtasks.errors import BadRequest

T = TypeVar("T")


def page_size(query: Mapping[str, Sequence[str]], most: int) -> int:
    """Read `count`: `most` by default and at most (contract 2.9); raises `BadRequest`."""
    text = query.get("count", [str(most)])[-1]
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise BadRequest(f"count must be an integer of at least 1, not {text[:32]!r}")
    return min(int(text), most)


def shown(rows: list[T], to_json: Callable[[T], dict[str, object]]) -> list[dict[str, object]]:
    """Make the JSON of rows, letting go of each: large bodies need not be held in both forms at once."""
    rows.reverse()
    made: list[dict[str, object]] = []
    while rows:
        made.append(to_json(rows.pop()))
    return made
