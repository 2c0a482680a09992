"""What becomes of a message after a reply: `judge`, and the instant of the next attempt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.broker.retry import judge
from qtasks.broker.store.records import Again, Dead, Delivered, Reply
from qtasks.protocol.ladder import ladder_ms
from tests.support.store import new_claim

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
NON_RETRYABLE = ("Upstash-NonRetryable-Error", "true")
RUNNING = ("Qtasks-Uncounted", "running")
DRAINING = ("Qtasks-Uncounted", "draining")

CLAIM = new_claim(now=NOW)


def verdict(status: int, *headers: tuple[str, str], fraction: float = 0.0, **claim: Any) -> object:
    """Judge a reply to a claim that differs from `CLAIM` as said."""
    return judge(replace(CLAIM, **claim), Reply(status, headers), NOW, fraction)


def delay_ms(status: int, *headers: tuple[str, str], **conditions: Any) -> int:
    """Say how long a reply makes the message wait."""
    found = verdict(status, *headers, **conditions)
    assert isinstance(found, Again)
    assert found.at is not None
    return found.at - NOW


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_delivers(status: int) -> None:
    assert verdict(status) == Delivered()


@pytest.mark.parametrize(
    "status", [0, 101, 199, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 409, 429, 489, 500, 503, 599]
)
def test_everything_else_is_tried_again(status: int) -> None:
    assert isinstance(verdict(status), Again)


@pytest.mark.parametrize("status", [0, 302, 404, 500])
def test_a_failure_without_a_retry_left_is_dead(status: int) -> None:
    assert verdict(status, attempt=4, max_retries=3) == Dead()


def test_the_last_retry_is_still_made() -> None:
    assert isinstance(verdict(500, attempt=3, max_retries=3), Again)


def test_without_retries_the_first_failure_is_dead() -> None:
    assert verdict(500, attempt=1, max_retries=0) == Dead()


@pytest.mark.parametrize("value", ["true", "True", "TRUE"])
@pytest.mark.parametrize("name", ["Upstash-NonRetryable-Error", "upstash-nonretryable-error"])
def test_489_with_its_header_is_dead_at_once(name: str, value: str) -> None:
    assert verdict(489, (name, value)) == Dead()


@pytest.mark.parametrize("headers", [(), (("Upstash-NonRetryable-Error", "false"),)])
def test_489_without_its_header_is_a_failure_like_any_other(headers: tuple[tuple[str, str], ...]) -> None:
    assert isinstance(verdict(489, *headers), Again)


@pytest.mark.parametrize("status", [400, 500])
def test_the_header_without_489_means_nothing(status: int) -> None:
    assert isinstance(verdict(status, NON_RETRYABLE), Again)


def test_the_ladder_is_the_contract_s() -> None:
    seconds = [ladder_ms(retried) // 1000 for retried in range(6)]

    assert seconds == [12, 2 * 60 + 28, 30 * 60 + 8, 6 * 3600 + 7 * 60 + 6, 86_400, 86_400]


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 12), (2, 148), (3, 1808)])
def test_the_default_wait_climbs_the_ladder(attempt: int, seconds: int) -> None:
    assert delay_ms(500, attempt=attempt) == seconds * 1000


def test_a_ladder_may_end_early() -> None:
    def waits_ms(**claim: Any) -> list[int]:
        found = [
            judge(
                replace(CLAIM, attempt=attempt, max_retries=9, **claim), Reply(500), NOW, 0, longest_ms=20_000
            )
            for attempt in (1, 2, 3)
        ]
        return [each.at - NOW for each in found if isinstance(each, Again) and each.at is not None]

    assert waits_ms() == [12_000, 20_000, 20_000]
    assert waits_ms(retry_delay="60000") == [60_000, 60_000, 60_000]


@given(retried=st.integers(0, 10_000))
def test_the_ladder_never_falls_nor_passes_a_day(retried: int) -> None:
    assert 0 < ladder_ms(retried) <= ladder_ms(retried + 1) <= DAY_MS


@given(fraction=st.floats(0, 1, exclude_max=True), attempt=st.integers(1, 20))
def test_jitter_adds_up_to_a_tenth_and_takes_nothing_off(fraction: float, attempt: int) -> None:
    waited = delay_ms(500, attempt=attempt, max_retries=100, fraction=fraction)

    ladder = ladder_ms(attempt - 1)
    assert ladder <= waited <= 1.1 * ladder


def test_jitter_spreads_what_failed_together() -> None:
    assert delay_ms(500, fraction=0.0) < delay_ms(500, fraction=0.5) < delay_ms(500, fraction=0.99)


@pytest.mark.parametrize(
    ("attempt", "expression", "waited_ms"),
    [
        (1, "1000", 1000),
        (3, "1000", 1000),
        (1, "1000 * (1 + retried)", 1000),
        (3, "1000 * (1 + retried)", 3000),
        (1, "pow(2, retried) * 1000", 1000),
        (3, "pow(2, retried) * 1000", 4000),
        (1, "pow(retried, 2) * 1000", 0),
        (2, "max(1000, pow(2, retried) * 100)", 1000),
        (1, "1e30", DAY_MS),
        (1, "0 - 5", 0),
        (1, "0 / 0", 0),
    ],
)
def test_an_expression_replaces_the_ladder(attempt: int, expression: str, waited_ms: int) -> None:
    assert delay_ms(500, attempt=attempt, retry_delay=expression) == waited_ms


def test_an_expression_is_not_spread() -> None:
    assert delay_ms(500, retry_delay="1000", fraction=0.99) == 1000


@pytest.mark.parametrize(
    ("name", "value", "waited_ms"),
    [
        ("Retry-After", "10", 10_000),
        ("retry-after", "10", 10_000),
        ("Retry-After", "0", 0),
        ("Retry-After", "0.25", 250),
        ("Retry-After", "Tue, 14 Nov 2023 22:13:30 GMT", 10_000),
        ("Retry-After", "Sun, 14 Nov 2023 22:13:30 GMT", 10_000),
        ("Retry-After", "Tue, 14 Nov 2023 22:13:10 GMT", 0),
        ("X-RateLimit-Reset", "1700000005", 5000),
        ("X-RateLimit-Reset", "6m5s", 365_000),
        ("X-RateLimit-Reset-Requests", "120ms", 120),
        ("X-RateLimit-Reset-Tokens", "1h2m", 3_720_000),
    ],
)
def test_the_destination_s_hint_replaces_the_ladder(name: str, value: str, waited_ms: int) -> None:
    assert delay_ms(500, (name, value)) == waited_ms


@pytest.mark.parametrize("status", [302, 404, 429, 500, 503])
def test_a_hint_counts_for_any_failure(status: int) -> None:
    assert delay_ms(status, ("Retry-After", "10")) == 10_000


def test_a_hint_goes_before_the_expression() -> None:
    assert delay_ms(503, ("Retry-After", "10"), retry_delay="1000") == 10_000


def test_a_hint_is_not_spread() -> None:
    assert delay_ms(503, ("Retry-After", "10"), fraction=0.99) == 10_000


@pytest.mark.parametrize("value", ["86401", "25h", "soon", "", "-1", "Tue, 14 Nov 2033 22:13:30 GMT"])
def test_a_hint_that_is_unreadable_or_beyond_a_day_is_no_hint(value: str) -> None:
    assert delay_ms(503, ("Retry-After", value)) == 12_000


def test_retry_after_goes_before_the_other_hints() -> None:
    headers = (("X-RateLimit-Reset", "60"), ("Retry-After", "10"))

    assert delay_ms(503, *headers) == 10_000


def test_the_latest_of_the_other_hints_counts() -> None:
    headers = (("X-RateLimit-Reset-Tokens", "60"), ("X-RateLimit-Reset-Requests", "90"))

    assert delay_ms(503, *headers) == 90_000


def test_a_hint_does_not_give_a_message_more_attempts() -> None:
    assert verdict(503, ("Retry-After", "10"), attempt=4) == Dead()


def test_a_draining_app_spends_no_attempt() -> None:
    found = verdict(503, DRAINING, ("Retry-After", "1"))

    assert found == Again(NOW + 1000, counted=False)


def test_a_draining_app_spends_no_attempt_even_after_the_last_retry() -> None:
    assert verdict(503, DRAINING, attempt=4) == Again(NOW + 1000, counted=False)


def test_a_message_that_still_runs_spends_no_attempt_until_its_lease_ends() -> None:
    found = verdict(409, RUNNING, ("Retry-After", "5"), lease_until=NOW + 1)

    assert found == Again(NOW + 5000, counted=False)


def test_a_message_that_still_runs_after_its_lease_has_ended_spends_an_attempt() -> None:
    found = verdict(409, RUNNING, ("Retry-After", "5"), lease_until=NOW)

    assert found == Again(NOW + 5000, counted=True)


def test_the_end_of_the_first_lease_bounds_all_redeliveries_of_what_still_runs() -> None:
    """Otherwise each redelivery would bring a new lease, and the message would never be dead."""
    found = verdict(409, RUNNING, attempt=4, guard_until=NOW, lease_until=NOW + 70_000)

    assert found == Dead()


def test_a_marker_without_a_hint_waits_a_moment() -> None:
    assert verdict(503, DRAINING) == Again(NOW + 1000, counted=False)


def test_the_marker_means_nothing_from_a_destination_that_is_no_app_of_ours() -> None:
    assert verdict(503, DRAINING, attempt=4, task_id=None) == Dead()


def test_the_marker_means_nothing_on_a_success() -> None:
    assert verdict(200, DRAINING) == Delivered()


def test_a_refusal_for_good_goes_before_the_marker() -> None:
    assert verdict(489, NON_RETRYABLE, DRAINING) == Dead()


@given(
    status=st.integers(0, 999),
    attempt=st.integers(1, 5),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["Retry-After", "X-RateLimit-Reset", "Upstash-NonRetryable-Error"]),
            st.text(max_size=20),
        ),
        max_size=4,
    ),
)
def test_every_reply_has_a_verdict_within_a_day(
    status: int, attempt: int, headers: list[tuple[str, str]]
) -> None:
    found = verdict(status, *headers, attempt=attempt)

    if isinstance(found, Again):
        assert attempt <= CLAIM.max_retries
        assert found.at is not None
        assert NOW <= found.at <= NOW + DAY_MS * 1.1
    else:
        assert found == (Delivered() if 200 <= status < 300 else Dead())
