"""What must hold of all that the larger parsers read: cron, whole headers, targets of requests.

That any text is read or refused as documented is in `test_parser_fuzz.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.cron import MAX_CRON_MS, Cron, parse_cron
from qtasks.protocol.destinations import check_url, parse_destination, split_target
from qtasks.protocol.expression import MAX_LENGTH, parse_expression
from qtasks.protocol.headers import parse_options, render_options
from tests.support import grammar
from tests.support.grammar import cron_items, damaged

DAY_MS = 86_400_000
Pairs = list[tuple[str, str]]

HIGHEST = (59, 23, 31, 12, 7)
LOWEST = (0, 0, 1, 1, 0)
NUMERIC = st.tuples(*(cron_items(low, high) for low, high in zip(LOWEST, HIGHEST, strict=True)))
INSTANTS = st.integers(0, 4 * 10**12) | st.integers(0, MAX_CRON_MS)
# Within a day and a half of a change of offset, more often than chance would have it.
NEAR_CHANGES = st.builds(
    int.__add__,
    st.sampled_from([1_774_746_000_000, 1_792_890_000_000, 1_325_239_200_000, 94_694_400_000]),
    st.integers(-36 * 3_600_000, 36 * 3_600_000),
)


def expanded(field: str, low: int, high: int) -> set[int]:
    """The values of a numeric field; owes nothing to the parser that is tested."""
    found: set[int] = set()
    for each in field.split(","):
        span, _, step = each.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            values = range(low, high + 1)
        elif last:
            values = range(int(first), int(last) + 1)
        else:
            values = range(
                int(first),
                max(int(first), min(high, 6 if high == 7 else high)) + 1 if step else int(first) + 1,
            )
        found |= set(values[:: int(step or 1)])
    return found


def is_due(fields: tuple[str, ...], at: datetime) -> bool:
    minutes, hours, days, months, weekdays = (
        expanded(*each) for each in zip(fields, LOWEST, HIGHEST, strict=True)
    )
    by_day, by_weekday = at.day in days, at.isoweekday() % 7 in {each % 7 for each in weekdays}
    both = fields[2].startswith("*") or fields[4].startswith("*")
    fits = by_day and by_weekday if both else by_day or by_weekday
    return fits and at.minute in minutes and at.hour in hours and at.month in months


def read_cron(text: str) -> Cron:
    try:
        return parse_cron(text)
    except InvalidValue:
        assume(False)
        raise


@given(grammar.ZONES, NUMERIC, INSTANTS | NEAR_CHANGES)
def test_in_any_zone_fires_come_one_after_the_other_where_the_fields_match(
    name: str, fields: tuple[str, ...], start: int
) -> None:
    cron = read_cron(f"CRON_TZ={name} {' '.join(fields)}")
    zone = ZoneInfo(name)
    at = [start]
    for _ in range(3):
        assume(at[-1] <= MAX_CRON_MS)
        at.append(cron.next_after(at[-1]))

    assert all(first < second for first, second in pairwise(at))
    assert all(cron.next_after((first + second) // 2) == second for first, second in pairwise(at))
    for fire in at[1:]:
        shown, before = (datetime.fromtimestamp(each // 1000, zone) for each in (fire, fire - 2 * DAY_MS))
        # In a skipped hour, fixed times fire at the time after it.
        is_moved = "*" not in fields[0] + fields[1] and shown.utcoffset() != before.utcoffset()
        assert is_due(fields, shown) or is_moved


@given(grammar.CRONS, INSTANTS | NEAR_CHANGES, st.integers(0, 40), st.integers(0, 10**9))
def test_the_latest_fire_is_the_last_of_all_that_follow(text: str, after: int, count: int, rest: int) -> None:
    cron = read_cron(text)
    all_fires = [after]
    for _ in range(count + 1):
        assume(all_fires[-1] <= MAX_CRON_MS - 40 * 366 * DAY_MS)
        all_fires.append(cron.next_after(all_fires[-1]))
    *passed, following = all_fires
    until = passed[-1] + rest % (following - passed[-1])

    assert cron.latest_between(after, until) == (passed[-1] if count else None)


@given(grammar.CRONS, INSTANTS, INSTANTS)
def test_the_latest_fire_between_any_two_instants_is_the_last(text: str, after: int, until: int) -> None:
    cron = read_cron(text)

    latest = cron.latest_between(after, until)

    if latest is None:
        assert cron.next_after(after) > until
    else:
        assert after < latest <= until < cron.next_after(latest)


@pytest.mark.parametrize("until", [MAX_CRON_MS + 1, 10**18, 10**30])
def test_a_latest_fire_that_is_out_of_reach_is_refused(until: int) -> None:
    with pytest.raises(InvalidValue, match="no instant that schedules reach"):
        parse_cron("CRON_TZ=Asia/Gaza 0 0 29 2 */7").latest_between(0, until)


@given(grammar.EXPRESSIONS, st.integers(0, 1000))
def test_parentheses_around_an_expression_change_nothing(text: str, retried: int) -> None:
    assume(len(text) <= MAX_LENGTH - 7)

    delay_ms = parse_expression(text).delay_ms(retried)

    assert parse_expression(f"max( {text})").delay_ms(retried) == delay_ms
    assert parse_expression(f"({text})\t").delay_ms(retried) == delay_ms


PREFIXES = st.lists(st.sampled_from(["Callback-", "Failure-Callback-"]), max_size=3).map("".join)
VALUES = {name.removeprefix("Upstash-"): texts for name, texts in grammar.OF_HEADERS.items()} | {
    "Callback": grammar.URLS,
    "Failure-Callback": grammar.URLS,
    "Flow-Control-Key": grammar.IDS,
    "Flow-Control-Value": grammar.FLOWS,
    "Header-Forward": st.sampled_from(["true", "false"]),
}
FORWARDED = grammar.joined("Forward-", grammar.TOKENS | st.sampled_from(["Content-Type", "Host", "", "a b"]))
CASES: st.SearchStrategy[Callable[[str], str]] = st.sampled_from([str, str.lower, str.upper, str.title])


@st.composite
def headers(draw: st.DrawFn) -> Pairs:
    """Headers whose callbacks are there, mostly, with values that are right, mostly."""
    names = st.lists(st.sampled_from(["Upstash-Callback", "Upstash-Callback-Failure-Callback"]), unique=True)
    pairs = [(name, "https://c.example/?a=,b") for name in draw(names)]
    for _ in range(draw(st.integers(0, 6))):
        setting = draw(st.sampled_from(sorted(VALUES)) | FORWARDED)
        prefix = "" if setting.startswith("Qtasks-") else f"Upstash-{draw(PREFIXES)}"
        name = draw(st.just(prefix + setting) | grammar.TOKENS)
        value = draw(VALUES.get(setting, st.just("v")) | st.text(max_size=4))
        pairs.append((draw(CASES)(name), value))
    return pairs


@given(headers(), headers(), headers(), st.booleans())
def test_any_headers_are_options_that_survive_the_wire_or_are_refused(
    sent: Pairs, config: Pairs, defaults: Pairs, token_in_header: bool
) -> None:
    try:
        options = parse_options(sent, config, defaults=defaults, token_in_header=token_in_header)
    except BadRequest as error:
        refusal = str(error)
    else:
        assert parse_options(render_options(options)) == options
        return

    assert refusal.isprintable()


def outcome(
    sent: Pairs, config: Sequence[tuple[str, str]] = (), defaults: Sequence[tuple[str, str]] = ()
) -> object:
    try:
        return parse_options(sent, config, defaults=defaults)
    except BadRequest:
        return None


@given(headers())
def test_the_case_of_names_means_nothing(sent: Pairs) -> None:
    assert outcome([(name.lower(), value) for name, value in sent]) == outcome(sent)


def unique(pairs: Pairs) -> Pairs:
    """Ours, in lower case, each name once and with a value."""
    found = {name.lower(): value for name, value in pairs if value.strip(" \t")}
    return [(name, value) for name, value in found.items() if name.startswith(("upstash-", "qtasks-"))]


@given(headers().map(unique), headers().map(unique), headers().map(unique))
def test_a_header_goes_before_the_query_and_that_before_a_default(
    sent: Pairs, config: Pairs, defaults: Pairs
) -> None:
    merged = dict(defaults) | dict(config) | dict(sent)

    assert outcome(sent, config, defaults) == outcome(list(merged.items()))


RAW = st.binary(max_size=60) | damaged(grammar.URLS).map(lambda text: text.encode(errors="replace"))


@given(RAW, RAW, st.integers(0, 4))
def test_any_target_of_a_request_is_taken_apart_or_refused(path: bytes, query: bytes, count: int) -> None:
    try:
        target = split_target(b"/v2/publish/" + path, query, count)
    except BadRequest as error:
        refusal = str(error)
    else:
        assert len(target.segments) == count
        assert all(name.startswith(("upstash-", "qtasks-", "qstash_token")) for name, _ in target.config)
        assert (target.destination.url is None) != (target.destination.group is None)
        if target.destination.url is not None:
            check_url(target.destination.url)
        return

    assert refusal.isprintable()


SEGMENTS = st.lists(
    st.text("a%é/\ud800", max_size=3) | st.sampled_from(["%41", "%C3%A9", "%c3", "%2", "%2F", "%zz", "%25"])
).map("".join)


@given(SEGMENTS.filter(lambda text: "/" not in text and "\ud800" not in text))
def test_segments_are_decoded_as_the_standard_library_would(segment: str) -> None:
    try:
        wanted = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        with pytest.raises(BadRequest, match="not UTF-8"):
            split_target(f"/{segment}/x".encode(), b"", 1)
        return

    assert split_target(f"/{segment}/x".encode(), b"", 1).segments == (wanted,)


PLAIN = st.lists(st.text("ab%=+;", max_size=12), max_size=4)
OURS = st.lists(
    st.tuples(
        st.sampled_from(["upstash-label", "Qtasks-Queue", "qstash_token", "upstash-x"]),
        st.text("aé&=+% ", max_size=6),
    ),
    max_size=3,
)


@given(PLAIN, OURS)
def test_a_query_is_parted_into_the_destination_s_and_ours(plain: list[str], ours: Pairs) -> None:
    settings = [f"{quote(name)}={quote(value)}" for name, value in ours]
    rest = "&".join(plain)

    for query in ("&".join([*plain, *settings]), "&".join([*settings, *plain])):
        destination, config = parse_destination("https://a.example/x", query)

        assert destination.url == "https://a.example/x" + (f"?{rest}" if rest else "")
        assert config == [(name.lower(), value) for name, value in ours]
