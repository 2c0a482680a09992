"""Reads cron expressions and says when they fire (contract 1.7), on the clocks of any zone.

cronsim reads the fields and finds matching wall times. Which instants those are, where clocks are put
forward and back, is decided here, after Debian's cron. Nobody's clock is read: instants are passed in.
"""

from __future__ import annotations

import copy
import re
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from qtasks.errors import InvalidValue
from qtasks.protocol.text import quoted

MAX_CRON_LENGTH = 256
# The year 5138, with room for fifty more in a `datetime`.
MAX_CRON_MS = 10**14

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_NUMBERS = {name: at for at, name in enumerate(_MONTHS, 1)} | {name: at for at, name in enumerate(_DAYS)}
_DAY_OF_WEEK = 4
_HIGHEST = (59, 23, 31, 12, 6)
_NUMBER = "[0-9]{1,2}"
_VALUES = (_NUMBER, _NUMBER, _NUMBER, "|".join([_NUMBER, *_MONTHS]), "|".join([_NUMBER, *_DAYS]))
# What one item of a list may look like. cronsim knows more, such as `L` and `#`, which hardly
# another cron does.
_ITEMS = tuple(
    re.compile(rf"(?:\*|(?P<first>{each})(?:-(?P<last>{each}))?)(?:/(?P<step>[1-9][0-9]?))?", re.A | re.I)
    for each in _VALUES
)
_SEPARATOR = re.compile("[ \t]+")
_ZONE_PREFIX = "CRON_TZ="
_ZONE = re.compile("[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,2}")
# These differ between machines, or count leap seconds, which Unix time does not.
_ODD_ZONES = re.compile("(?:localtime|posixrules|Factory|posix/.*|right/.*)", re.IGNORECASE)
_DAY_S = 86_400
_DAY = timedelta(days=1)


class _Times(CronSim):
    """cronsim's matching, with a quicker way to days that are rare: it looks at each on the way there."""

    end = datetime.max.replace(tzinfo=UTC)
    """Where to stop, in the month that follows; then there is no next time."""

    def advance_month(self) -> None:
        now = self.dt
        if now > self.end:
            raise StopIteration
        if now.month in self.months:
            return
        later = [each for each in self.months if each > now.month]
        year, month = (now.year, min(later)) if later else (now.year + 1, min(self.months))
        self.dt = datetime(year, month, 1, tzinfo=now.tzinfo)

    def advance_day(self) -> bool:
        if not self.day_and:  # then at most a week goes by until the next
            return super().advance_day()
        date = self.dt.date()
        if self.match_day(date):
            return False
        last = monthrange(date.year, date.month)[1]
        later = (date.replace(day=each) for each in range(date.day + 1, last + 1) if each in self.days)
        # Without a match, cronsim goes on with the next month.
        found = next(filter(self.match_day, later), None) or date.replace(day=last) + _DAY
        self.dt = datetime.combine(found, time(), tzinfo=self.dt.tzinfo)
        return True


@dataclass(frozen=True, slots=True)
class Cron:
    """When a schedule fires; `parse_cron` makes it. Equal texts are equal.

    `text` is the expression as it was given, trimmed, with the zone in front if there was one.
    """

    text: str
    _times: _Times = field(repr=False, compare=False)
    _zone: tzinfo = field(repr=False, compare=False)
    _is_fixed: bool = field(repr=False, compare=False)

    def next_after(self, ms: int) -> int:
        """Give the first fire strictly after an instant, both in Unix milliseconds.

        Debian's rule, where clocks are changed: a job at fixed times fires once at the next valid
        minute for all it would miss in a skipped hour, and the first time only in a repeated one. A
        job with `*` in its minute or hour fires at every real time that matches. Raises
        `InvalidValue` for instants before 1970 or beyond the year 5138.
        """
        return self._next_after(ms, None)

    def _next_after(self, ms: int, until_ms: int | None) -> int:
        """Do what `next_after` does; what it gives beyond `until_ms` need not be a fire."""
        furthest = ms if until_ms is None else max(ms, until_ms)
        if ms < 0 or furthest > MAX_CRON_MS:
            raise InvalidValue(f"{ms if ms < 0 else furthest} ms is no instant that schedules reach")
        after = ms // 1000
        # No clock shows a time that is two days ahead.
        end = None if until_ms is None else furthest // 1000 + 2 * _DAY_S
        return (self._next_fixed(after, end) if self._is_fixed else self._next_real(after, end)) * 1000

    def latest_between(self, after_ms: int, until_ms: int) -> int | None:
        """Give the last fire after one instant and not after another, or `None` if there is none.

        This costs a few dozen calls of `next_after` at most, however many fires there were.
        """
        latest = self._next_after(after_ms, until_ms)
        if latest > until_ms:
            return None
        # The last fire is in [latest, beyond]: halve that until nothing follows the latest.
        beyond = until_ms
        while (following := self._next_after(latest, beyond)) <= beyond:
            latest = following
            middle = (latest + beyond) // 2
            following = self._next_after(middle, beyond)
            if following <= beyond:
                latest = following
            else:
                beyond = middle
        return latest

    def _next_fixed(self, after: int, end: int | None) -> int:
        wall = after + self._offset(after)
        while True:
            wall = self._next_wall(wall, end)
            # In a repeated hour, while it runs a second time, the first may be behind us already.
            if (instant := self._first_instant(wall)) > after:
                return instant

    def _first_instant(self, wall: int) -> int:
        """Say when clocks first show a wall time, or for one that they skip, the time after it."""
        shown = datetime.fromtimestamp(wall, UTC).replace(tzinfo=self._zone, fold=0)
        instant = int(shown.timestamp())
        offset = self._offset(instant)
        if instant + offset == wall:
            return instant
        # For a skipped time Python counts on with the offset of before, and so ends up behind the
        # change; with the offset of after, the instant lies before it.
        return self._change(wall - offset, instant)

    def _next_real(self, after: int, end: int | None) -> int:
        """Find the next instant whose wall time matches, going from one change of offset to the next.

        Years without a match are jumped over, together with the changes in them: a wall time that
        matches is the next one whatever the offset, but near a change.
        """
        reached = after
        offset = self._offset(reached)
        while True:
            found = self._next_wall(reached + offset, end) - offset
            horizon = min(found, reached + 2 * _DAY_S)
            if self._offset(horizon) != offset:
                # From the change on, itself included.
                change = self._change(reached, horizon)
                reached, offset = change - 1, self._offset(change)
            elif found <= horizon:
                return found
            else:
                reached = max(horizon, found - 2 * _DAY_S)
                offset = self._offset(reached)

    def _next_wall(self, wall: int, end: int | None) -> int:
        """Find the next matching wall time, or one beyond the end; seconds as if they were UTC's."""
        times = copy.copy(self._times)
        times.dt = datetime.fromtimestamp(wall, UTC)
        if end is None:
            return int(next(times).timestamp())
        times.end = datetime.fromtimestamp(end, UTC)
        found = next(times, None)
        return end + 2 * _DAY_S if found is None else int(found.timestamp())

    def _change(self, before: int, after: int) -> int:
        """Find the first second of the new offset, where the offset of two instants differs."""
        old = self._offset(before)
        while after - before > 1:
            middle = (before + after) // 2
            if self._offset(middle) == old:
                before = middle
            else:
                after = middle
        return after

    def _offset(self, instant: int) -> int:
        offset = datetime.fromtimestamp(instant, self._zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())


def parse_cron(text: str) -> Cron:
    """Read a cron expression of five fields, or a nickname such as `@daily`.

    A zone may stand in front, as in `CRON_TZ=Europe/Berlin 0 4 * * *`; without one it is UTC. Names
    of months and days, ranges, lists and steps may be used; Sunday is 0 and 7. Where both days are
    restricted, either may match. Raises `InvalidValue`, also for what can never fire.
    """
    text = text.strip(" \t")
    if len(text) > MAX_CRON_LENGTH:
        raise _invalid(text, f"it is longer than {MAX_CRON_LENGTH} characters")
    zone: tzinfo = UTC
    expression = text
    if text.startswith(_ZONE_PREFIX):
        name, *rest = _SEPARATOR.split(text.removeprefix(_ZONE_PREFIX), maxsplit=1)
        zone = _read_zone(text, name)
        expression = rest[0] if rest else ""
    parts = _read_fields(text, expression)
    try:
        times = _Times(" ".join(parts), datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        raise _invalid(text, _reason(parts, error)) from error
    return Cron(text, times, zone, _is_fixed="*" not in parts[0] + parts[1])


def _read_zone(text: str, name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        if not _ZONE.fullmatch(name) or _ODD_ZONES.fullmatch(name):
            raise ValueError(name)
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError) as error:  # of a file that is none, missing, or a folder
        raise _invalid(text, f"unknown time zone {quoted(name)}") from error


def _read_fields(text: str, expression: str) -> list[str]:
    """Bring the five fields into the form that cronsim reads as we mean it."""
    if expression.startswith("@"):
        nickname = _NICKNAMES.get(expression.lower())
        if nickname is None:
            raise _invalid(text, f"{quoted(expression)} is none of {', '.join(_NICKNAMES)}")
        expression = nickname
    parts = _SEPARATOR.split(expression) if expression else []
    if len(parts) != len(_FIELDS):
        raise _invalid(text, f"it has {len(parts)} fields instead of five: {', '.join(_FIELDS)}")
    return [_read_field(text, at, part) for at, part in enumerate(parts)]


def _read_field(text: str, at: int, part: str) -> str:
    items: list[str] = []
    for item in part.split(","):
        match = _ITEMS[at].fullmatch(item)
        if match is None:
            raise _invalid(text, f"bad {_FIELDS[at]} {quoted(item)}")
        items.append(_plain_item(at, match))
    return ",".join(items)


def _plain_item(at: int, match: re.Match[str]) -> str:
    """Write an item with numbers, and with an end wherever cronsim would guess another one.

    cronsim takes `5-5/2` for `5/2`, and lets a step such as `1/2` go on to the second Sunday, 7.
    """
    if match["first"] is None:
        return match[0]
    first, step = _number(match["first"]), match["step"]
    if match["last"] is None:
        last = max(first, _HIGHEST[at]) if step else first
    elif at == _DAY_OF_WEEK and match["last"].upper() == "SUN" and first:
        last = 7
    else:
        last = _number(match["last"])
    return f"{first}-{last}/{step}" if step and last != first else f"{first}-{last}"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else _NUMBERS[text.upper()]


def _reason(parts: list[str], error: CronSimError) -> str:
    if "day-of-month" in str(error):
        try:
            CronSim(" ".join([*parts[:3], "*", parts[4]]), datetime.fromtimestamp(0, UTC))
        except CronSimError:
            pass
        else:
            return "it never fires, as these months have no such day"
    return str(error).lower()


def _invalid(text: str, reason: str) -> InvalidValue:
    return InvalidValue(f"invalid cron {quoted(text)}: {reason}")
