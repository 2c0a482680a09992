"""When intervals fire, and which there may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import InvalidValue
from qtasks.protocol.cron import MAX_CRON_MS, parse_cron
from qtasks.protocol.every import LONGEST_MS, Every, parse_timing, read_every, write_every

INTERVALS = st.integers(1000, LONGEST_MS)
INSTANTS = st.integers(0, MAX_CRON_MS)


@given(INTERVALS, INSTANTS)
def test_the_next_fire_is_the_first_multiple_after_an_instant(interval_ms: int, ms: int) -> None:
    following = Every(interval_ms).next_after(ms)

    assert following % interval_ms == 0
    assert ms < following <= ms + interval_ms


@given(INTERVALS, INSTANTS, st.integers(0, LONGEST_MS * 3))
def test_the_latest_fire_is_the_one_that_the_next_follows(interval_ms: int, ms: int, span_ms: int) -> None:
    every = Every(interval_ms)
    span_ms = min(span_ms, MAX_CRON_MS - ms)

    latest = every.latest_between(ms, ms + span_ms)

    if latest is None:
        assert every.next_after(ms) > ms + span_ms
    else:
        assert ms < latest <= ms + span_ms < every.next_after(latest)


@pytest.mark.parametrize(
    ("text", "interval_ms", "written"),
    [("1s", 1000, "1s"), ("90", 90_000, "90s"), ("1m30s", 90_000, "90s"), ("1.5s", 1500, "1.5s")],
)
def test_an_interval_is_read_as_any_duration_and_written_in_seconds(
    text: str, interval_ms: int, written: str
) -> None:
    assert read_every(text) == Every(interval_ms)
    assert write_every(Every(interval_ms)) == written


@pytest.mark.parametrize("text", ["0", "0.9s", "366d1s", "soon", ""])
def test_an_interval_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"from one second to 366 days|invalid duration"):
        read_every(text)


@pytest.mark.parametrize("text", ["@every 300s", "@daily", "CRON_TZ=Europe/Paris 0 9 * * mon-fri"])
def test_what_a_schedule_keeps_is_read_as_it_was_written(text: str) -> None:
    assert parse_timing(text).text == text


def test_no_cron_expression_of_the_wire_is_an_interval() -> None:
    with pytest.raises(InvalidValue, match="none of @yearly"):
        parse_cron("@every 300s")


@pytest.mark.parametrize("ms", [-1, MAX_CRON_MS + 1])
def test_no_fire_is_sought_where_no_schedule_reaches(ms: int) -> None:
    with pytest.raises(InvalidValue, match=f"{ms} ms is no instant that schedules reach"):
        Every(1000).next_after(ms)
