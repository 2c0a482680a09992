"""Reads and writes spans of time: the wire's `1d10h30m`, and what people pass to our functions.

Everything is whole milliseconds inside. Durations in answers of receivers have another grammar,
in `hints`.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

from qtasks.errors import InvalidValue
from qtasks.protocol.text import quoted

# 31,700 years: added to an instant it stays far below the 2^63 of a database's integer.
MAX_MS = 10**15

_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"[ \t]*(?:([0-9]+)[ \t]*([smhd])|([0-9]+\.[0-9]+)[ \t]*s)[ \t]*", re.ASCII | re.I)
_BARE_SECONDS = re.compile("[0-9]+")
_LONGEST = 64


def parse_duration_ms(text: str) -> int:
    """Read a duration of the wire, such as `90s` or `1d10h30m`, as milliseconds (contract 3.1).

    Parts add up, in any order and case; a bare integer is seconds; `s` may have a fraction, which
    is rounded up to the millisecond. Raises `InvalidValue`.

    >>> parse_duration_ms("1h30m3s")
    5403000
    """
    ms = _total_ms(text) if len(text) <= _LONGEST else None
    if ms is None or ms > MAX_MS:
        raise InvalidValue(f"invalid duration {quoted(text)}")
    return ms


def _total_ms(text: str) -> int | None:
    if _BARE_SECONDS.fullmatch(text.strip(" \t")):
        return int(text) * 1000
    total = 0
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            return None
        whole, unit, seconds = part.groups()
        total += int(whole) * _UNIT_MS[unit.lower()] if whole else math.ceil(Fraction(seconds) * 1000)
        position = part.end()
    return total if text else None


def format_duration(ms: int) -> str:
    """Write milliseconds as the SDKs send them: `90s`, `1.5s`."""
    if ms < 0:
        raise InvalidValue(f"a duration cannot be negative: {ms} ms")
    seconds, rest = divmod(ms, 1000)
    return f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") + "s" if rest else f"{seconds}s"


def span_ms(value: float | timedelta | str) -> int:
    """Read what a person gave as a span: seconds, a `timedelta`, or text such as `1h30m`.

    Returns whole milliseconds; raises `InvalidValue` for what is negative or endless.
    """
    if isinstance(value, str):
        return parse_duration_ms(value)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds <= MAX_MS / 1000:  # also false for NaN
        raise InvalidValue(f"a span of time must be at least 0 and finite, not {value!r}")
    return round(seconds * 1000)
