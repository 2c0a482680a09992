"""Durations of the wire (contract 3.1) and spans that people pass."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import InvalidValue
from qtasks.protocol.durations import MAX_MS, format_duration, parse_duration_ms, span_ms


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1d10h30m", 124_200),
        ("1d1h30m", 91_800),
        ("1h30m3s", 5_403),
        ("90s", 90),
        ("0s", 0),
        ("30", 30),
        ("3s1m", 63),
        ("1m 1m", 120),
        (" 1 h ", 3_600),
        ("1H30M", 5_400),
        ("1.5s", 1.5),
        ("1m0.25s", 60.25),
        ("0.0001s", 0.001),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, seconds: float) -> None:
    assert parse_duration_ms(text) == seconds * 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10x",
        "-5s",
        "1.5h",
        "1.5",
        ".5s",
        "1.s",
        "s",
        "1h30",
        "1 0s",
        "1e3s",
        "٣s",
        "1\u017f",
        "9" * 30,
    ],
)
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_duration_ms(text)

    assert str(caught.value) == f'invalid duration "{text}"'


@pytest.mark.parametrize(("ms", "text"), [(0, "0s"), (90_000, "90s"), (1_500, "1.5s"), (1, "0.001s")])
def test_a_duration_is_written_in_seconds(ms: int, text: str) -> None:
    assert format_duration(ms) == text


def test_a_negative_duration_is_not_written() -> None:
    with pytest.raises(InvalidValue, match="negative"):
        format_duration(-1)


@given(st.integers(0, MAX_MS))
def test_what_is_written_reads_back_the_same(ms: int) -> None:
    assert parse_duration_ms(format_duration(ms)) == ms


@given(st.text() | st.text("0123456789smhd. ", max_size=70))
def test_any_text_is_a_span_within_bounds_or_invalid(text: str) -> None:
    try:
        ms = parse_duration_ms(text)
    except InvalidValue:
        return

    assert 0 <= ms <= MAX_MS


@pytest.mark.parametrize(
    ("span", "ms"),
    [(1, 1_000), (0.1, 100), (0, 0), (timedelta(minutes=2), 120_000), ("1h30m", 5_400_000), ("10", 10_000)],
)
def test_people_give_seconds_timedeltas_or_text(span: float | timedelta | str, ms: int) -> None:
    assert span_ms(span) == ms


@pytest.mark.parametrize(
    "span", [-1, -0.001, math.nan, math.inf, timedelta(seconds=-1), 1e300, 10**400, "soon"]
)
def test_a_span_that_is_negative_or_endless_is_refused(span: float | timedelta | str) -> None:
    with pytest.raises(InvalidValue):
        span_ms(span)
