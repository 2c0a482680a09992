"""Every parser of the wire on any text: it reads it, or refuses it with the exception that it documents.

Texts are arbitrary, or of the alphabet of the grammar, or made by the grammar, or so made and then
damaged: parsers are entered deeply. What they cost is in `test_parser_work.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from qtasks.broker.store.logs import parse_place
from qtasks.broker.store.views import parse_cursor
from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.destinations import check_url, parse_destination
from qtasks.protocol.durations import MAX_MS, format_duration, parse_duration_ms, span_ms
from qtasks.protocol.expression import DAY_MS, parse_expression
from qtasks.protocol.flow import MAX_PERIOD_MS, parse_flow, parse_period, render_flow
from qtasks.protocol.header_values import read_labels
from qtasks.protocol.headers import ROWS, Options, parse_options, render_options
from qtasks.protocol.hints import retry_hint_ms
from qtasks.protocol.redact import Redaction, parse_redaction, render_redaction
from tests.support import grammar, repeats
from tests.support.grammar import Texts, damaged, of

NOW = 1_719_490_574_000


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser: its texts, its alphabet, what it may raise, and what must hold of all that it gives."""

    parse: Callable[[str], Any]
    texts: Texts
    alphabet: str
    refuses: type[Exception] | tuple[type[Exception], ...]
    holds: Callable[[Any], bool] = bool

    @property
    def any_text(self) -> Texts:
        return st.text() | of(self.alphabet) | self.texts | damaged(self.texts)


def hint(text: str) -> int | None:
    return retry_hint_ms([("X-RateLimit-Reset", text), ("Retry-After", text)], NOW)


def delays(text: str) -> list[int]:
    expression = parse_expression(text)
    return [expression.delay_ms(each) for each in (*range(8), 999, 1000)]


def holds_labels(labels: tuple[str, ...]) -> bool:
    return len(set(labels)) == len(labels) and all(each and "," not in each for each in labels)


def round_trips(options: Options) -> bool:
    return parse_options(render_options(options)) == options


def is_place(found: Any) -> bool:
    return found is None or all(0 <= each < 10**18 for each in found)


def place(text: str) -> tuple[int, int, int] | None:
    found = parse_place(text)
    return None if found is None else (found.time, found.seq, found.step)


def value_of(name: str) -> Callable[[str], Options]:
    return lambda text: parse_options([(name, text)])


PARSERS = {
    "duration": Parser(
        parse_duration_ms,
        grammar.DURATIONS,
        "0123456789.smhdSMHD \t-",
        InvalidValue,
        lambda ms: 0 <= ms <= MAX_MS and parse_duration_ms(format_duration(ms)) == ms,
    ),
    "span": Parser(
        span_ms, grammar.DURATIONS, "0123456789.smhd ", InvalidValue, lambda ms: 0 <= ms <= MAX_MS
    ),
    "period": Parser(
        parse_period,
        grammar.DURATIONS,
        "0123456789.smhd ",
        InvalidValue,
        lambda ms: 1000 <= ms <= MAX_PERIOD_MS,
    ),
    "expression": Parser(
        delays,
        grammar.EXPRESSIONS,
        "0123456789.eE+-*/%(), retidpowmaxbsq",
        InvalidValue,
        lambda found: all(0 <= each <= DAY_MS for each in found),
    ),
    "cron": Parser(
        parse_cron,
        grammar.CRONS,
        "0123456789*,-/ SUNMOFEBJAN@dailyCRON_TZ=",
        InvalidValue,
        lambda cron: cron.next_after(0) > 0 and parse_cron(cron.text) == cron,
    ),
    "flow": Parser(
        lambda text: parse_flow("k", text),
        grammar.FLOWS,
        "rateplismod=,0123456789 smhd",
        BadRequest,
        lambda flow: parse_flow("k", render_flow(flow)) == flow,
    ),
    "redaction": Parser(
        parse_redaction,
        grammar.REDACTIONS,
        "headersbody[], x-A",
        InvalidValue,
        lambda found: found != Redaction() and parse_redaction(render_redaction(found)) == found,
    ),
    "labels": Parser(read_labels, grammar.LABELS, "a, \0é", InvalidValue, holds_labels),
    "hint": Parser(
        hint, grammar.HINTS, "0123456789.nsmhuµ, GMTSun:", (), lambda ms: ms is None or 0 <= ms <= DAY_MS
    ),
    "url": Parser(check_url, grammar.URLS, "htps:/[]@?#%.0aé\\ ", BadRequest, lambda found: found is None),
    "destination": Parser(
        lambda text: parse_destination(text, "a=b")[0],
        grammar.URLS | grammar.URLS.map(lambda url: quote(url, safe="")) | grammar.IDS,
        "htps:/%3AaF2cé?&=",
        BadRequest,
        lambda found: (found.url is None) != (found.group is None),
    ),
    "place": Parser(place, grammar.PLACES, "0123456789-٣²", (), is_place),
    "cursor": Parser(parse_cursor, grammar.PLACES, "0123456789-٣²", (), is_place),
    **{
        name: Parser(value_of(name), texts, "0123456789truefalsGET=;,.- ", BadRequest, round_trips)
        for name, texts in grammar.OF_HEADERS.items()
    },
}


def test_every_header_of_the_table_is_among_them() -> None:
    assert {row.header for row in ROWS} == grammar.OF_HEADERS.keys()


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=repeats(500))
@given(data=st.data())
def test_any_text_is_read_or_refused_as_documented(name: str, data: st.DataObject) -> None:
    parser = PARSERS[name]
    text = data.draw(parser.any_text)

    try:
        found = parser.parse(text)
    except parser.refuses as error:
        refusal = str(error)
    else:
        assert parser.holds(found)
        return

    assert refusal.isprintable()  # one line, fit for a log
    assert len(refusal) < 1000


@pytest.mark.parametrize("name", PARSERS)
def test_the_grammar_s_texts_are_read_or_else_nothing_is_entered_deeply(name: str) -> None:
    parser = PARSERS[name]

    def is_read(text: str) -> bool:
        try:
            parser.parse(text)
        except parser.refuses:
            return False
        return len(text) > 1

    find(parser.texts, is_read, settings=settings(max_examples=200, phases=[Phase.generate], database=None))


UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@given(
    st.lists(
        st.tuples(st.integers(0, 10**5), st.sampled_from("smhdSMHD"), grammar.BLANKS), min_size=1, max_size=6
    )
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str, str]]) -> None:
    text = "".join(f"{blank}{count}{blank}{unit}" for count, unit, blank in parts)

    assert parse_duration_ms(text) == sum(count * UNITS[unit.lower()] for count, unit, _ in parts)


@given(st.floats() | st.integers() | st.timedeltas() | st.integers(0, 10**12))
def test_any_span_that_a_person_gives_is_read_or_refused(value: float | timedelta) -> None:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    try:
        ms = span_ms(value)
    except InvalidValue:
        assert math.isnan(seconds) or not 0 <= seconds <= MAX_MS / 1000
        return

    assert ms == round(seconds * 1000)
    assert 0 <= ms <= MAX_MS
