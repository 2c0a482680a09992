"""Turns a ladder of waits into the one thing that every broker understands: an expression of `retried`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from qtasks.errors import InvalidValue
from qtasks.protocol.expression import MAX_LENGTH, parse_expression


def ladder_expression(waits_ms: Sequence[int]) -> str:
    """Give an expression that is `waits_ms[retried]`, and the last of them from there on.

    Raises `InvalidValue` for more rungs than an expression may be long.

    >>> ladder_expression([1000, 5000, 60000])
    '1000+4000*min(1,retried)+55000*min(1,max(0,retried-1))'
    """
    terms = [str(waits_ms[0])]
    for rung, (before, after) in enumerate(pairwise(waits_ms)):
        if after == before:
            continue
        passed = "min(1,retried)" if rung == 0 else f"min(1,max(0,retried-{rung}))"
        terms.append(f"{'+' if after > before else '-'}{abs(after - before)}*{passed}")
    text = "".join(terms)
    if len(text) > MAX_LENGTH:
        raise InvalidValue(
            f"{len(waits_ms)} waits are too many for the {MAX_LENGTH} characters that brokers take; "
            "use fewer, an expression, or a function"
        )
    return parse_expression(text).text
