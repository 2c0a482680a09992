"""How many rows a page of a listing holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtasks.errors import BadRequest


def page_size(query: Mapping[str, Sequence[str]], most: int) -> int:
    """Read `count`: `most` by default and at most (contract 2.9); raises `BadRequest`."""
    text = query.get("count", [str(most)])[-1]
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise BadRequest(f"count must be an integer of at least 1, not {text[:32]!r}")
    return min(int(text), most)
