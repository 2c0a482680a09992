"""When cron expressions fire, clock changes included (contract 1.7)."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qtasks.errors import InvalidValue
from qtasks.protocol.cron import MAX_CRON_LENGTH, MAX_CRON_MS, Cron, parse_cron

MINUTE_MS = 60_000
DAY_MS = 86_400_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def fires(text: str, after: str, count: int) -> list[str]:
    """The fires after an instant, as times of the expression's zone without its offset."""
    cron, at = parse_cron(text), ms(after)
    zone = ZoneInfo(text.partition("=")[2].split()[0]) if text.startswith("CRON_TZ=") else UTC
    shown = []
    for _ in range(count):
        at = cron.next_after(at)
        shown.append(datetime.fromtimestamp(at / 1000, zone).isoformat())
    return shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * * *", ["2026-01-01T00:01:00", "2026-01-01T00:02:00"]),
        ("*/20 3 * * *", ["2026-01-01T03:00:00", "2026-01-01T03:20:00", "2026-01-01T03:40:00"]),
        ("5/20 3 * * *", ["2026-01-01T03:05:00", "2026-01-01T03:25:00", "2026-01-01T03:45:00"]),
        ("0 9-17/8,20 * * *", ["2026-01-01T09:00:00", "2026-01-01T17:00:00", "2026-01-01T20:00:00"]),
        ("0 0 1 JAN,jul *", ["2026-07-01T00:00:00", "2027-01-01T00:00:00"]),
        ("0 0 * * MON-WED/2", ["2026-01-05T00:00:00", "2026-01-07T00:00:00", "2026-01-12T00:00:00"]),
        ("0 0 * * 0", ["2026-01-04T00:00:00", "2026-01-11T00:00:00"]),
        ("0 0 * * 7", ["2026-01-04T00:00:00", "2026-01-11T00:00:00"]),
        ("0 0 * * SAT-SUN", ["2026-01-03T00:00:00", "2026-01-04T00:00:00", "2026-01-10T00:00:00"]),
        ("0 0 * * SUN-MON", ["2026-01-04T00:00:00", "2026-01-05T00:00:00", "2026-01-11T00:00:00"]),
        ("0 0 * * 1-1/2", ["2026-01-05T00:00:00", "2026-01-12T00:00:00"]),
        ("0 0 * * 2/5", ["2026-01-06T00:00:00", "2026-01-13T00:00:00"]),
        ("0 0 13 * 5", ["2026-01-02T00:00:00", "2026-01-09T00:00:00", "2026-01-13T00:00:00"]),
        ("0 0 */13 * 4", ["2026-01-01T00:00:00", "2026-05-14T00:00:00"][1:]),
        ("0 0 29 2 *", ["2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
        ("@hourly", ["2026-01-01T01:00:00", "2026-01-01T02:00:00"]),
        ("@daily", ["2026-01-02T00:00:00"]),
        ("@Midnight", ["2026-01-02T00:00:00"]),
        ("@weekly", ["2026-01-04T00:00:00"]),
        ("@monthly", ["2026-02-01T00:00:00"]),
        ("@yearly", ["2027-01-01T00:00:00"]),
        ("@annually", ["2027-01-01T00:00:00"]),
        ("CRON_TZ=UTC 0 12 * * *", ["2026-01-01T12:00:00"]),
    ],
)
def test_an_expression_fires_where_all_fields_match(text: str, expected: list[str]) -> None:
    found = fires(text, "2026-01-01T00:00:00Z", len(expected))

    assert [each.removesuffix("+00:00") for each in found] == expected


def test_a_zone_decides_what_the_fields_mean() -> None:
    assert fires("CRON_TZ=Asia/Kathmandu 0 4 * * *", "2026-01-01T00:00:00Z", 1) == [
        "2026-01-02T04:00:00+05:45"
    ]


def test_a_fire_comes_strictly_after() -> None:
    cron = parse_cron("* * * * *")

    assert cron.next_after(0) == 60_000
    assert cron.next_after(59_999) == 60_000
    assert cron.next_after(60_000) == 120_000


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        # Clocks go from 02:00 to 03:00, and later from 03:00 back to 02:00.
        ("30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        ("0,30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]),
        ("0 3 * * *", "2026-03-28T12:00Z", ["2026-03-29T03:00:00+02:00", "2026-03-30T03:00:00+02:00"]),
        ("30 * * * *", "2026-03-29T00:00Z", ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"]),
        ("*/30 2 * * *", "2026-03-28T12:00Z", ["2026-03-30T02:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        ("0 */2 * * *", "2026-03-28T23:00Z", ["2026-03-29T04:00:00+02:00"]),
        ("30 2 * * *", "2026-10-24T12:00Z", ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
        # Already in the repeated hour: what fired in its first run has had its turn.
        ("30 2 * * *", "2026-10-25T01:10Z", ["2026-10-26T02:30:00+01:00"]),
        ("*/30 2 * * *", "2026-10-25T00:10Z", ["2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00"]),
        ("30 * * * *", "2026-10-25T00:00Z", ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]),
        ("* * 25 10 *", "2026-10-25T00:59Z", ["2026-10-25T02:00:00+01:00", "2026-10-25T02:01:00+01:00"]),
    ],
)
def test_clock_changes_follow_debian_s_rule(text: str, after: str, expected: list[str]) -> None:
    assert fires(f"CRON_TZ=Europe/Berlin {text}", after, len(expected)) == expected


def test_a_skipped_midnight_does_not_fire_at_one() -> None:
    # Where cronsim alone would: Havana's clocks go from 00:00 to 01:00.
    assert fires("CRON_TZ=America/Havana */20 0 * * *", "2026-03-08T04:50Z", 1) == [
        "2026-03-09T00:00:00-04:00"
    ]


def test_half_an_hour_s_change_loses_no_minute() -> None:
    # Where cronsim alone would: Lord Howe's clocks go from 02:00 back to 01:30.
    assert fires("CRON_TZ=Australia/Lord_Howe * 2 * * *", "2026-04-04T14:40Z", 1) == [
        "2026-04-05T02:00:00+10:30"
    ]


def test_the_text_is_given_back_trimmed_and_otherwise_as_it_was() -> None:
    assert parse_cron(" \t0  4 * * mon ").text == "0  4 * * mon"
    assert parse_cron(" CRON_TZ=Europe/Berlin @daily ").text == "CRON_TZ=Europe/Berlin @daily"
    assert parse_cron(" @daily") == parse_cron("@daily")
    assert len({parse_cron("@daily"), parse_cron("@daily"), parse_cron("@hourly")}) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'invalid cron "": it has 0 fields instead of five: minute, hour, day-of-month, month, day'),
        ("* * * *", "it has 4 fields instead of five"),
        ("0 * * * * *", 'invalid cron "0 * * * * *": it has 6 fields instead of five'),
        ("@reboot", '"@reboot" is none of @yearly, @annually,'),
        ("@every 1h", '"@every 1h" is none of'),
        ("TZ=UTC * * * * *", "it has 6 fields"),
        ("CRON_TZ=UTC", "it has 0 fields"),
        ("60 * * * *", 'invalid cron "60 * * * *": bad minute'),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * 32 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("* * L * *", 'bad day-of-month "L"'),
        ("* * * * 5L/2", 'bad day-of-week "5L/2"'),
        ("* * * * MON#1", 'bad day-of-week "MON#1"'),
        ("5-1 * * * *", "bad minute"),
        ("*/0 * * * *", 'bad minute "*/0"'),
        ("1,,2 * * * *", 'bad minute ""'),
        ("-1 * * * *", 'bad minute "-1"'),
        ("*-5 * * * *", 'bad minute "*-5"'),
        ("٣ * * * *", 'bad minute "٣"'),
        ("* * * * ſun", "bad day-of-week"),
        ("0 0 31 2 *", 'invalid cron "0 0 31 2 *": it never fires, as these months have no such day'),
        ("0 0 30,31 FEB *", "it never fires"),
        ("0 0 31 4,6,9,11 */2", "it never fires"),
        ("* " * 129, "it is longer than 256 characters"),
        ("CRON_TZ=Mars/Base * * * * *", 'unknown time zone "Mars/Base"'),
        ("CRON_TZ= * * * * *", 'unknown time zone ""'),
        ("CRON_TZ=Europe * * * * *", 'unknown time zone "Europe"'),
        ("CRON_TZ=../../etc/passwd * * * * *", 'unknown time zone "../../etc/passwd"'),
        ("CRON_TZ=/etc/localtime * * * * *", 'unknown time zone "/etc/localtime"'),
        ("CRON_TZ=Europe//Berlin * * * * *", "unknown time zone"),
        ("CRON_TZ=localtime * * * * *", 'unknown time zone "localtime"'),
        ("CRON_TZ=right/UTC * * * * *", 'unknown time zone "right/UTC"'),
        ("CRON_TZ=leapseconds * * * * *", 'unknown time zone "leapseconds"'),
        ("CRON_TZ=UTC\0 * * * * *", 'unknown time zone "UTC\\x00"'),
    ],
)
def test_what_can_never_fire_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_cron(text)

    assert complaint in str(caught.value)


@pytest.mark.parametrize("instant", [-1, MAX_CRON_MS + 1])
def test_an_instant_out_of_reach_is_refused(instant: int) -> None:
    with pytest.raises(InvalidValue, match="no instant that schedules reach"):
        parse_cron("@daily").next_after(instant)


def test_the_last_instant_within_reach_has_a_next_fire() -> None:
    assert parse_cron("CRON_TZ=Europe/Berlin 0 0 29 2 */7").next_after(MAX_CRON_MS) > MAX_CRON_MS


@pytest.mark.parametrize(
    ("after", "until", "expected"),
    [
        ("2026-01-01T00:00Z", "2026-01-01T00:59Z", None),
        ("2026-01-01T00:00Z", "2026-01-01T01:00Z", "2026-01-01T01:00Z"),
        ("2026-01-01T01:00Z", "2026-01-01T01:59Z", None),
        ("2026-01-01T00:00Z", "2029-01-01T03:30Z", "2029-01-01T03:00Z"),
        ("2026-01-02T00:00Z", "2026-01-01T00:00Z", None),
    ],
)
def test_the_latest_missed_fire_is_found(after: str, until: str, expected: str | None) -> None:
    latest = parse_cron("@hourly").latest_between(ms(after), ms(until))

    assert latest == (expected and ms(expected))


CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00Z"),
    ("America/Havana", "2026-03-08T05:00Z"),
    ("America/Havana", "2026-11-01T05:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30Z"),
    ("Africa/Casablanca", "2026-02-15T02:00Z"),
    ("Africa/Casablanca", "2026-03-22T02:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00Z"),
    ("Asia/Kathmandu", "2026-01-01T00:00Z"),
]


def item(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(sorted).map(lambda span: f"{span[0]}-{span[1]}")
    steps = st.integers(1, 30).map(lambda step: f"/{step}")
    return st.builds(str.__add__, spans, st.just("") | steps) | number.map(str)


def part(low: int, high: int) -> st.SearchStrategy[str]:
    stars = st.just("*") | st.integers(2, 30).map(lambda step: f"*/{step}")
    return stars | st.lists(item(low, high), min_size=1, max_size=3).map(",".join)


TIMES = st.tuples(part(0, 59), part(0, 4) | part(0, 23))
# Days that are near the changes often enough.
DATES = st.sampled_from(["* * *", "* * 6,0", "8,25,29 * *", "*/2 3,10-12 *", "5 * SAT"])


def matching(field: str, low: int, high: int) -> set[int]:
    """An expansion of numeric fields that owes nothing to the one that is tested."""
    found: set[int] = set()
    for each in field.split(","):
        span, _, step = each.partition("/")
        first, _, last = span.partition("-")
        values = range(low, high + 1) if span == "*" else range(int(first), int(last or first) + 1)
        found |= set(values[:: int(step or 1)])
    return found


@functools.cache
def offset_minutes(instant: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) // 60


class Oracle:
    """Walks the minutes of real time, as a cron daemon does, and fires by Debian's rule."""

    def __init__(self, times: tuple[str, str], dates: str, zone: str) -> None:
        self.minutes, self.hours = matching(times[0], 0, 59), matching(times[1], 0, 23)
        day, month, weekday = dates.split()
        self.days, self.months = matching(day, 1, 31), matching(month, 1, 12)
        self.weekdays = {each % 7 for each in matching(weekday.replace("SAT", "6"), 0, 7)}
        self.both_days = day.startswith("*") or weekday.startswith("*")
        self.is_fixed = "*" not in times[0] + times[1]
        self.zone = ZoneInfo(zone)

    def first(self, after: int, until: int) -> int | None:
        start = after // MINUTE_MS * MINUTE_MS
        highest = self._wall(start - DAY_MS)
        for at in range(start - DAY_MS + MINUTE_MS, until + 1, MINUTE_MS):
            wall = self._wall(at)
            passed = range(highest + 1, wall + 1) if self.is_fixed else [wall]
            highest = max(highest, wall)
            if at > after and any(self._matches(each) for each in passed):
                return at
        return None

    def _wall(self, at: int) -> int:
        """Minutes on the zone's clocks, counted from 1970."""
        # Every change is at a full half hour of UTC.
        return at // MINUTE_MS + offset_minutes(at // (30 * MINUTE_MS) * 1800, self.zone)

    def _matches(self, wall: int) -> bool:
        if wall % 60 not in self.minutes or wall // 60 % 24 not in self.hours:
            return False
        date = datetime.fromtimestamp(wall * 60, UTC)
        by_day, by_weekday = date.day in self.days, date.isoweekday() % 7 in self.weekdays
        fits = by_day and by_weekday if self.both_days else by_day or by_weekday
        return fits and date.month in self.months


@settings(deadline=None)
@given(TIMES, DATES, st.sampled_from(CHANGES), st.integers(-36 * 60, 36 * 60), st.integers(0, 59_999))
@example(("30", "1"), "* * *", CHANGES[1], 10, 0)
@example(("*", "2"), "* * *", CHANGES[4], -20, 0)
@example(("0", "0"), "* * *", CHANGES[8], -60, 0)
@example(("*", "0"), "* * *", CHANGES[8], -60, 0)
def test_fires_near_a_change_are_those_of_a_daemon_that_looks_each_minute(
    times: tuple[str, str], dates: str, change: tuple[str, str], minutes: int, rest: int
) -> None:
    zone, instant = change
    after = ms(instant) + minutes * MINUTE_MS + rest
    until = after + 2 * DAY_MS
    oracle = Oracle(times, dates, zone)

    found = parse_cron(f"CRON_TZ={zone} {' '.join(times)} {dates}").next_after(after)

    assert oracle.first(after, until) == (found if found <= until else None)


ZONES = st.sampled_from(["", *(f"CRON_TZ={zone} " for zone, _ in CHANGES)])
FIELDS = st.tuples(part(0, 59), part(0, 23), part(1, 31), part(1, 12), part(0, 7)).map(" ".join)
INSTANTS = st.integers(0, 4 * 10**12)


def parsed(text: str) -> Cron:
    assume(len(text) <= MAX_CRON_LENGTH)
    try:
        return parse_cron(text)
    except InvalidValue as error:
        assume("never fires" not in str(error))
        raise


@given(ZONES, FIELDS, INSTANTS)
def test_every_expression_fires_again_and_again(zone: str, fields: str, start: int) -> None:
    cron = parsed(zone + fields)

    at = [start]
    for _ in range(3):
        at.append(cron.next_after(at[-1]))

    assert all(first < second for first, second in pairwise(at))
    assert all(cron.next_after(each - 1) == each for each in at[1:])


@given(ZONES, FIELDS, INSTANTS, st.integers(0, 400 * DAY_MS))
def test_nothing_fires_between_the_latest_fire_and_the_end(
    zone: str, fields: str, after: int, span: int
) -> None:
    cron = parsed(zone + fields)
    until = after + span

    latest = cron.latest_between(after, until)

    if latest is None:
        assert cron.next_after(after) > until
    else:
        assert after < latest <= until < cron.next_after(latest)


SLOWEST = [
    "CRON_TZ=America/Havana 0 0 29 2 */7",
    "CRON_TZ=America/Havana * * 29 2 */7",
    "CRON_TZ=Mars/" + "x" * 240,
    "*/" + "9" * 254,
    ",".join(["0-59"] * 49) + " * * * *",
    ",".join(["*"] * 124) + " * * * *",
    "* * * * " + ",".join(["SUN-MON/2"] * 24),
    "*," * 128,
    "0 0 31 2,4,6,9,11 *",
]


@pytest.mark.parametrize("text", SLOWEST)
def test_nothing_is_slow_at_the_longest(text: str) -> None:
    assert len(text) <= MAX_CRON_LENGTH
    spans = []
    for _ in range(5):
        begun = time.perf_counter()
        try:
            parse_cron(text).next_after(4_000_000_000_000)
        except InvalidValue:
            pass
        spans.append(time.perf_counter() - begun)

    assert min(spans) < 0.010


ALPHABET = st.text("0123456789*,-/ @LW#?ADEFJMNOSTUacdijlmnoruy=_\t", max_size=60)


@given(ALPHABET | st.text(max_size=40) | st.builds(str.__add__, st.just("CRON_TZ="), ALPHABET))
def test_any_text_is_an_expression_that_fires_or_is_refused(text: str) -> None:
    try:
        cron = parse_cron(text)
    except InvalidValue:
        return

    assert cron.next_after(0) > 0
    assert parse_cron(cron.text) == cron
