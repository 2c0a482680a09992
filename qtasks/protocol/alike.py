"""Reads the options of messages that are alike, as those of one task are: what is the same is read once.

What it gives, and what it refuses, is what `parse_options` does, which reads whatever is out of the common.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

from qtasks.protocol.headers import (
    MAX_FORWARDED,
    ROWS,
    Options,
    Row,
    check_room,
    check_sendable,
    parse_options,
    read_value,
)
from qtasks.protocol.received import Pairs, Received, name_of, pairs_of, value_of

_FIELDS = [each.name for each in fields(Options)]
_ALL = attrgetter(*_FIELDS)
_FORWARD = _FIELDS.index("forward")
# What each call of a task has for itself: a row of the table, or a header of the app's own.
_OWN: dict[str, tuple[int, Row | None]] = {
    row.header.lower(): (_FIELDS.index(row.field), row)
    for row in ROWS
    if row.field in ("dedup_id", "task_id", "start_at", "expires_at")
}
_SIGNATURE = "Qtasks-Signature"
_SIGNED = f"Upstash-Forward-{_SIGNATURE}"
_OWN[_SIGNED.lower()] = (_FORWARD, None)
_LONGEST = 4096
_KINDS = 256  # so many kinds of messages are remembered, each with no more than that


def parse_alike(
    headers: Pairs | Received, config: Pairs = (), *, defaults: Pairs = (), token_in_header: bool = True
) -> Options:
    """Do what `parse_options` does, at a fraction of its cost for a message like others before.

    Of headers in bytes, text is made of what is the message's own alone.
    """
    found = None if config or defaults else _found(headers, token_in_header)
    if found is not None:
        return found
    return parse_options(pairs_of(headers), config, defaults=defaults, token_in_header=token_in_header)


def _found(headers: Pairs | Received, token_in_header: bool) -> Options | None:
    """Give the options, unless a header is there twice, blank or long."""
    names, values = zip(*headers, strict=True) if headers else ((), ())
    if sum(map(len, names)) > _LONGEST:
        return None
    layout = _layout(names)
    if layout is None:
        return None
    common = tuple([values[place] for place in layout.common])
    if sum(map(len, common)) > _LONGEST:
        return None
    options = [*_shared(layout, common, token_in_header)]
    for place, target, row in layout.own:  # however they are spelled, they are not among what is shared
        value = values[place]
        text = (value if isinstance(value, str) else value_of(value)).strip(" \t")
        if not text:
            return None
        options[target] = (
            _signed(options[target], text) if row is None else read_value(row.header, text, row.read)
        )
    return Options(*options)


@dataclass(frozen=True, slots=True, eq=False)  # it is a key itself, by its identity
class _Layout:
    """Where among the headers of a message what is its own stands, and what it has in common with others."""

    own: tuple[tuple[int, int, Row | None], ...]
    """Place among the headers, place among the options, and the row of the table."""
    common: tuple[int, ...]
    names: tuple[str, ...]
    """Those of `common`."""


@lru_cache(_KINDS)
def _layout(names: tuple[str | bytes, ...]) -> _Layout | None:
    """Find it; None if nothing is the message's own, or something twice."""
    own: dict[str, tuple[int, int, Row | None]] = {}
    common: list[int] = []
    for place, name in enumerate(names):
        key = name_of(name).lower()
        if key in own:
            return None
        if key in _OWN:
            own[key] = (place, *_OWN[key])
        elif key != "content-length":  # which is not the message's
            common.append(place)
    if not own:
        return None
    return _Layout(tuple(own.values()), tuple(common), tuple([name_of(names[place]) for place in common]))


def _signed(forward: tuple[tuple[str, str], ...], signature: str) -> tuple[tuple[str, str], ...]:
    check_sendable(_SIGNED, signature)
    extended = (*forward, (_SIGNATURE, signature))
    if len(extended) > MAX_FORWARDED:  # in bytes there is always room, as what is shared is short
        check_room(extended)
    return extended


@lru_cache(_KINDS)
def _shared(layout: _Layout, common: tuple[str | bytes, ...], token_in_header: bool) -> tuple[Any, ...]:
    pairs = zip(layout.names, map(value_of, common), strict=True)
    options = parse_options(list(pairs), token_in_header=token_in_header)
    values: tuple[Any, ...] = _ALL(options)
    return values
