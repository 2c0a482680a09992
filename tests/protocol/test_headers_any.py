"""All options there can be as headers, and all headers there can be as options (contract 3)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import BadRequest
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.durations import MAX_MS
from qtasks.protocol.every import Every
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import (
    CALLBACKS,
    ROWS,
    Callback,
    Options,
    QueueSpec,
    canonical_name,
    parse_options,
    render_options,
)
from qtasks.protocol.redact import Redaction

NAMES = st.from_regex("[A-Za-z0-9!_-]{1,20}", fullmatch=True).map(canonical_name)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=50)
TRIMMED = VALUES.map(lambda value: value.strip(" \t")).filter(bool)
RESERVED = {"Host", "Content-Length", "Transfer-Encoding", "Content-Type"}
MILLISECONDS = st.integers(0, MAX_MS - 1)
WHOLE_SECONDS = st.integers(0, 10**12).map(lambda seconds: seconds * 1000)
LABELS = st.from_regex("[a-z0-9é ]{1,10}", fullmatch=True).map(str.strip).filter(bool)

IDS = st.from_regex("[A-Za-z0-9._-]{1,128}", fullmatch=True)
LIMITS = st.tuples(st.none() | st.integers(1, 10**9 - 1), st.none() | st.integers(1, 10**9 - 1))
FLOWS = st.builds(
    lambda key, limits, seconds: FlowSpec(key, limits[0], limits[1], seconds * 1000),
    TRIMMED,
    LIMITS.filter(any),
    st.integers(1, 7 * 86_400),
)
REDACTIONS = st.builds(
    Redaction, st.booleans(), st.booleans(), st.frozensets(NAMES.map(str.lower), max_size=3)
).filter(lambda redaction: redaction != Redaction())
# What a message and its callbacks have alike.
OF_ALL: dict[str, Any] = {
    "method": st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    "content_type": st.none() | TRIMMED,
    "forward": st.dictionaries(NAMES.filter(lambda name: name not in RESERVED), TRIMMED, max_size=5).map(
        lambda headers: tuple(headers.items())
    ),
    "timeout_ms": st.none() | st.integers(1, MAX_MS),
    "retries": st.none() | MILLISECONDS,
    "retry_delay": st.none() | st.sampled_from(["1000", "pow(2, retried)", "1 +  1"]),
    "delay_ms": st.none() | MILLISECONDS,
    "not_before": st.none() | WHOLE_SECONDS,
    "labels": st.lists(LABELS, unique=True, max_size=3).map(tuple),
    "dedup_id": st.none() | TRIMMED.filter(lambda text: ":" not in text),
    "content_dedup": st.booleans(),
    "flow": st.none() | FLOWS,
    "redact": st.none() | REDACTIONS,
}
URLS = st.sampled_from(["https://c.example/cb?a=b,c", "http://[::1]:8080/é", "HTTPS://c#f"])
LAST_CALLBACK = st.builds(Callback, URLS, st.builds(Options, **OF_ALL))
CALLBACK = st.builds(Callback, URLS, st.builds(Options, **OF_ALL, failure_callback=st.none() | LAST_CALLBACK))
OPTIONS = st.builds(
    Options,
    task_id=st.none() | IDS,
    start_at=st.none() | MILLISECONDS,
    expires_at=st.none() | MILLISECONDS,
    result_ttl_ms=st.none() | WHOLE_SECONDS,
    queue=st.none() | st.builds(QueueSpec, st.integers(1, 10**6), st.booleans()),
    **OF_ALL,
    cron=st.none() | st.sampled_from(["@daily", "CRON_TZ=Asia/Tokyo 0 4 * * 1-5"]).map(parse_cron),
    schedule_id=st.none() | IDS,
    schedule_queue=st.none() | IDS,
    every=st.none() | st.integers(1000, 10**10).map(Every),
    catch_up=st.sampled_from([None, "latest", "all", "none"]),
    overlap=st.sampled_from([None, "allow", "skip"]),
    expires_after_ms=st.none() | st.integers(1, 10**10),
    callback=st.none() | CALLBACK,
    failure_callback=st.none() | CALLBACK,
)


@given(OPTIONS)
def test_all_options_survive_the_wire(options: Options) -> None:
    assert parse_options(render_options(options)) == options


OUR_NAMES = st.sampled_from(
    [
        *(row.header for row in ROWS),
        *(header for header, _ in CALLBACKS),
        "Upstash-Header-Forward",
        "Upstash-Forward-X",
        "Upstash-Flow-Control-Key",
        "Upstash-Flow-Control-Value",
        "Upstash-Callback-Retries",
        "Upstash-Callback-Failure-Callback",
        "Upstash-Failure-Callback-Forward-X",
    ]
)
GOOD_VALUES = st.sampled_from(["1", "true", "https://x", "rate=1,period=1m", "body", "@daily", "GET"])
PAIRS = st.lists(st.tuples(OUR_NAMES | NAMES | st.text(), GOOD_VALUES | VALUES | st.text()), max_size=8)


@given(PAIRS, PAIRS, st.booleans())
def test_any_headers_give_options_that_hold_the_rules_or_are_refused(
    headers: list[tuple[str, str]], config: list[tuple[str, str]], token_in_header: bool
) -> None:
    try:
        options = parse_options(headers, config, token_in_header=token_in_header)
    except BadRequest:
        return

    assert parse_options(render_options(options)) == options
