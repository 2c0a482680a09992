"""Even intervals: the fires of a schedule that comes every so often, down to once a second.

An interval has no beginning: it fires at each multiple of it since 1970, so that brokers, and lives of a
broker, agree on the instants without telling each other. Cron expressions are in `cron`.
"""

from __future__ import annotations

from dataclasses import dataclass

from qtasks.errors import InvalidValue
from qtasks.protocol.cron import MAX_CRON_MS, Cron, parse_cron
from qtasks.protocol.durations import format_duration, parse_duration_ms
from qtasks.protocol.text import quoted

SHORTEST_MS = 1000
LONGEST_MS = 366 * 86_400_000
_PREFIX = "@every "


@dataclass(frozen=True, slots=True)
class Every:
    """When a schedule fires that has an interval instead of a cron expression."""

    interval_ms: int

    @property
    def text(self) -> str:
        """What stands where others have their cron expression: `@every 30s`."""
        return f"{_PREFIX}{format_duration(self.interval_ms)}"

    def next_after(self, ms: int) -> int:
        """Give the first fire strictly after an instant, both in Unix milliseconds.

        Raises `InvalidValue` for instants before 1970 or beyond the year 5138, as a cron expression does.
        """
        if not 0 <= ms <= MAX_CRON_MS:
            raise InvalidValue(f"{ms} ms is no instant that schedules reach")
        return ms - ms % self.interval_ms + self.interval_ms

    def latest_between(self, after_ms: int, until_ms: int) -> int | None:
        """Give the last fire after one instant and not after another, or `None` if there is none."""
        latest = until_ms - until_ms % self.interval_ms
        return latest if latest > after_ms else None


Timing = Cron | Every


def read_every(text: str) -> Every:
    """Read an interval of the wire, such as `30s` or `1h30m`; raises `InvalidValue`."""
    interval_ms = parse_duration_ms(text)
    if not SHORTEST_MS <= interval_ms <= LONGEST_MS:
        raise InvalidValue(f"must be from one second to 366 days, not {quoted(text)}")
    return Every(interval_ms)


def write_every(every: Every) -> str:
    """Write an interval as `read_every` reads it."""
    return format_duration(every.interval_ms)


def parse_timing(text: str) -> Timing:
    """Read what a schedule keeps: a cron expression, or `@every` and an interval; raises `InvalidValue`."""
    if text.startswith(_PREFIX):
        return read_every(text.removeprefix(_PREFIX))
    return parse_cron(text)
