"""The flow-control headers (contract 3.8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import BadRequest
from qtasks.protocol.flow import MAX_FLOW_KEY_BYTES, MAX_PERIOD_MS, FlowSpec, parse_flow, render_flow

MALFORMED = (
    "Upstash-Flow-Control-Value should be either rate=X or parallelism=Y, or both as comma-separated values"
)


@pytest.mark.parametrize(
    ("value", "flow"),
    [
        ("rate=10", FlowSpec("k", rate=10)),
        ("parallelism=1", FlowSpec("k", parallelism=1)),
        ("parallelism=1, rate=10, period=1m", FlowSpec("k", rate=10, parallelism=1, period_ms=60_000)),
        ("period=1h30m3s,rate=1", FlowSpec("k", rate=1, period_ms=5_403_000)),
        ("\t rate = 007 ,period = 60 ", FlowSpec("k", rate=7, period_ms=60_000)),
        ("parallelism=2,period=7d", FlowSpec("k", parallelism=2, period_ms=MAX_PERIOD_MS)),
    ],
)
def test_limits_may_stand_in_any_order(value: str, flow: FlowSpec) -> None:
    assert parse_flow("k", value) == flow


@pytest.mark.parametrize(
    "value",
    [
        "10",
        "rate",
        "rate=",
        "rate=0",
        "rate=-1",
        "rate=1.5",
        "rate=1e3",
        "rate=٣",
        "rate=1234567890",
        "rate=1,",
        "rate=1;parallelism=2",
        "rate=1,rate=2",
        "Rate=1",
        "ratePerSecond=1",
        "period=1m",
        "rate=1=2",
        ",",
    ],
)
def test_a_malformed_value_is_refused_in_qstash_s_words(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_flow("k", value)

    assert str(caught.value) == MALFORMED


@pytest.mark.parametrize(
    ("period", "complaint"),
    [
        ("0", "Upstash-Flow-Control-Value: the period must be whole seconds, 1s to 7d, not"),
        ("1.5s", 'the period must be whole seconds, 1s to 7d, not "1.5s"'),
        ("7d1s", 'the period must be whole seconds, 1s to 7d, not "7d1s"'),
        ("1w", 'Upstash-Flow-Control-Value: invalid duration "1w"'),
        ("", "invalid duration"),
    ],
)
def test_a_period_out_of_range_is_refused(period: str, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        parse_flow("k", f"rate=1,period={period}")


@pytest.mark.parametrize(("key", "value"), [("k", ""), ("", "rate=1"), ("", "")])
def test_key_and_value_come_together(key: str, value: str) -> None:
    with pytest.raises(BadRequest, match="Upstash-Flow-Control-Key and Upstash-Flow-Control-Value must be"):
        parse_flow(key, value)


def test_any_key_may_be_used_up_to_its_length() -> None:
    assert parse_flow("user@example.com/é ,=", "rate=1").key == "user@example.com/é ,="
    assert parse_flow("k" * MAX_FLOW_KEY_BYTES, "rate=1").rate == 1

    with pytest.raises(BadRequest, match="must be 1 to 1024 bytes long"):
        parse_flow("é" * MAX_FLOW_KEY_BYTES, "rate=1")


def test_limits_are_written_as_the_sdks_write_them() -> None:
    assert render_flow(FlowSpec("k", rate=10, parallelism=1, period_ms=60_000)) == (
        "parallelism=1, rate=10, period=60s"
    )
    assert render_flow(FlowSpec("k", rate=10)) == "rate=10"
    assert FlowSpec("k", rate=10, period_ms=5_403_000).period_s == 5_403


LIMITS = st.none() | st.integers(1, 10**9 - 1)


@given(LIMITS, LIMITS, st.integers(1, 7 * 86_400))
def test_limits_survive_the_wire(rate: int | None, parallelism: int | None, seconds: int) -> None:
    flow = FlowSpec("k", rate, parallelism, seconds * 1000)
    if rate is None and parallelism is None:
        return

    assert parse_flow("k", render_flow(flow)) == flow


WORDS = st.sampled_from(["rate", "parallelism", "period", "=", ",", " ", "1", "60", "1m", "0", "d", "-"])


@given(st.text() | st.lists(WORDS, max_size=12).map("".join))
def test_any_value_gives_limits_that_hold_the_rules_or_is_refused(value: str) -> None:
    try:
        flow = parse_flow("k", value)
    except BadRequest:
        return

    assert flow.rate or flow.parallelism
    assert 1000 <= flow.period_ms <= MAX_PERIOD_MS
    assert parse_flow("k", render_flow(flow)) == flow
