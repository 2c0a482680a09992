"""When a failed receiver wants to be asked again (contract 4.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.protocol.hints import retry_hint_ms

NOW = 1_719_490_574_000  # Thu, 27 Jun 2024 12:16:14 GMT
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    "name", ["Retry-After", "x-ratelimit-reset", "X-RateLimit-Reset-Requests", "X-RATELIMIT-RESET-TOKENS"]
)
@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("10", 10_000),
        ("0", 0),
        ("1.5", 1_500),
        (" 2 ", 2_000),
        ("86400", DAY_MS),
        ("6m5s", 365_000),
        ("1h2m", 3_720_000),
        ("120ms", 120),
        ("1.5h", 5_400_000),
        ("1500us", 2),
        ("1µs", 1),  # micro sign
        ("1μs", 1),  # Greek mu
        ("7ns", 1),
        ("0s", 0),
        ("Sun, 27 Jun 2024 12:16:24 GMT", 10_000),  # a Thursday in fact
        ("Thu, 27 Jun 2024 12:16:13 GMT", 0),
    ],
)
def test_every_header_understands_every_format(name: str, value: str, ms: int) -> None:
    assert retry_hint_ms([(name, value)], NOW) == ms


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "-5s",
        "10x",
        "1e3",
        "1m1",
        "86401",
        "24h0.001s",
        "Sat, 29 Jun 2024 12:16:24 GMT",
        "Thu, 31 Feb 2024 12:16:24 GMT",
        "Thu, 27 Jux 2024 12:16:24 GMT",
        "Thu, 27 Jun 0000 12:16:24 GMT",
        "Thu, 27 Jun 2024 25:00:00 GMT",
        "2024-06-27T12:16:24Z",
        "1" * 65,
    ],
)
def test_what_is_unreadable_or_beyond_a_day_counts_as_absent(value: str) -> None:
    assert retry_hint_ms([("Retry-After", value)], NOW) is None


@pytest.mark.parametrize(
    ("headers", "ms"),
    [
        ([], None),
        ([("Content-Type", "10")], None),
        ([("X-RateLimit-Reset", "50"), ("Retry-After", "1")], 1_000),
        ([("X-RateLimit-Reset-Requests", "2s"), ("X-RateLimit-Reset-Tokens", "6m0s")], 360_000),
        ([("Retry-After", "whenever"), ("X-RateLimit-Reset", "3")], 3_000),
        ([("X-RateLimit-Reset", "3"), ("X-RateLimit-Reset-Tokens", "25h")], 3_000),
    ],
)
def test_retry_after_goes_before_the_latest_of_the_others(
    headers: list[tuple[str, str]], ms: int | None
) -> None:
    assert retry_hint_ms(headers, NOW) == ms


def test_a_large_number_in_the_plain_reset_header_is_a_unix_time() -> None:
    at = NOW // 1000 + 60

    assert retry_hint_ms([("X-RateLimit-Reset", f"{at}")], NOW) == 60_000
    assert retry_hint_ms([("X-RateLimit-Reset", f"{at - 120}")], NOW) == 0
    assert retry_hint_ms([("X-RateLimit-Reset-Tokens", f"{at}")], NOW) is None
    assert retry_hint_ms([("Retry-After", f"{at}")], NOW) is None


NAMES = st.sampled_from(["Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Tokens"])


@given(st.lists(st.tuples(NAMES, st.text() | st.text("0123456789.nuµmsh"))), st.integers(0, 10**15))
def test_no_answer_of_a_receiver_can_do_more_than_wait_a_day(
    headers: list[tuple[str, str]], now: int
) -> None:
    wait = retry_hint_ms(headers, now)

    assert wait is None or 0 <= wait <= DAY_MS
