"""Reads when a failed receiver wants to be asked again: `Retry-After` and its relatives.

Whether a hint goes before the retry-delay expression is the broker's to decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from fractions import Fraction
from itertools import islice

_DAY_MS = 86_400_000
_RETRY_AFTER = "retry-after"
_RESET = "x-ratelimit-reset"
_RESETS = (_RESET, "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")

_LONGEST = 64
# A receiver has one of each. What sends hundreds of them is not worth the time to read them.
_MOST = 8
_EARLIEST_UNIX_TIME = 10**9
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UNIT_MS = {
    "ns": Fraction(1, 1_000_000),
    "us": Fraction(1, 1000),
    "\u00b5s": Fraction(1, 1000),  # micro sign
    "\u03bcs": Fraction(1, 1000),  # Greek mu
    "ms": Fraction(1),
    "s": Fraction(1000),
    "m": Fraction(60_000),
    "h": Fraction(3_600_000),
}

_DECIMAL = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(_DECIMAL)
_PART = re.compile(rf"({_DECIMAL})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_DATE = re.compile(
    r"[A-Za-z]{3}, ([0-9]{1,2}) ([A-Za-z]{3}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) (?:GMT|UTC)"
)


def retry_hint_ms(headers: Iterable[tuple[str, str]], now: int) -> int | None:
    """Say how long the receiver asks us to wait, if its failed answer says so (contract 4.4).

    `headers` are the answer's, `now` is in Unix milliseconds. `Retry-After` goes first, then the
    latest of the `X-RateLimit-Reset` family. What cannot be read or is more than a day away counts
    as absent, as does what comes behind the first eight of these headers. Returns milliseconds, 0 for at
    once, or `None` without a hint.
    """
    resets: list[int] = []
    hints = (each for each in headers if each[0].lower() in (_RETRY_AFTER, *_RESETS))
    for name, value in islice(hints, _MOST):
        key = name.lower()
        wait = _wait_ms(value.strip(), now, may_be_unix_time=key == _RESET)
        if wait is None or wait > _DAY_MS:
            continue
        if key == _RETRY_AFTER:
            return wait
        resets.append(wait)
    return max(resets, default=None)


def _wait_ms(text: str, now: int, *, may_be_unix_time: bool) -> int | None:
    if len(text) > _LONGEST:
        return None
    if _NUMBER.fullmatch(text):
        seconds = Fraction(text)
        if may_be_unix_time and seconds > _EARLIEST_UNIX_TIME:
            return max(0, math.ceil(seconds * 1000) - now)
        return math.ceil(seconds * 1000)
    if _DURATION.fullmatch(text):
        return math.ceil(sum(Fraction(count) * _UNIT_MS[unit] for count, unit in _PART.findall(text)))
    return _until_date_ms(text, now)


def _until_date_ms(text: str, now: int) -> int | None:
    """Read an RFC 1123 date; its weekday is not checked, as the documentation's own is wrong."""
    match = _DATE.fullmatch(text)
    if match is None or match[2].lower() not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(match[each]) for each in (1, 3, 4, 5, 6))
    month = _MONTHS.index(match[2].lower()) + 1
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return max(0, int(at.timestamp()) * 1000 - now)
