"""Headers as they come over the wire, in bytes, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

Pairs: TypeAlias = Sequence[tuple[str, str]]
Received: TypeAlias = Sequence[tuple[bytes, bytes]]


def pairs_of(headers: Pairs | Received) -> Pairs:
    """Give all of them as text.

    >>> pairs_of([(b"upstash-label", b"caf\\xe9"), (b"upstash-retries", b"3")])
    [('upstash-label', 'café'), ('upstash-retries', '3')]
    """
    if headers and isinstance(headers[0][0], str):
        return cast(Pairs, headers)
    return [(name_of(name), value_of(value)) for name, value in headers]


def name_of(name: str | bytes) -> str:
    """Read a header's name."""
    return name if isinstance(name, str) else name.decode("latin-1")


def value_of(value: str | bytes) -> str:
    """Read a header's value: clients send UTF-8, older ones Latin-1."""
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
