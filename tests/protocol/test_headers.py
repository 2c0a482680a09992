"""Options as request headers, read and written (contract 3)."""

from __future__ import annotations

from dataclasses import fields

import pytest

from qtasks.errors import BadRequest
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.every import Every
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import (
    MAX_FORWARDED,
    MAX_FORWARDED_BYTES,
    MAX_HEADER_BYTES,
    ROWS,
    Callback,
    Options,
    QueueSpec,
    canonical_name,
    parse_options,
    render_options,
)
from qtasks.protocol.redact import Redaction

SAMPLES = [
    ("Content-Type", "text/plain; charset=utf-8", Options(content_type="text/plain; charset=utf-8")),
    ("Upstash-Method", "get", Options(method="GET")),
    ("Upstash-Timeout", "1d1h30m", Options(timeout_ms=91_800_000)),
    ("Upstash-Retries", "0", Options(retries=0)),
    ("Upstash-Retry-Delay", "1000 * (1 + retried)", Options(retry_delay="1000 * (1 + retried)")),
    ("Upstash-Delay", "1h30m", Options(delay_ms=5_400_000)),
    ("Upstash-Not-Before", "1700000000", Options(not_before=1_700_000_000_000)),
    ("Upstash-Label", " a,b,, a , c", Options(labels=("a", "b", "c"))),
    ("Upstash-Deduplication-Id", "abc 1", Options(dedup_id="abc 1")),
    ("Upstash-Content-Based-Deduplication", "True", Options(content_dedup=True)),
    ("Qtasks-Task-Id", "tsk_1.2", Options(task_id="tsk_1.2")),
    ("Qtasks-Not-Before", "1700000000123", Options(start_at=1_700_000_000_123)),
    ("Qtasks-Expires", "1700000000456", Options(expires_at=1_700_000_000_456)),
    ("Qtasks-Dedup-Window", "60", Options(dedup_window_ms=60_000)),
    ("Qtasks-Unique", "started", Options(unique="started")),
    ("Qtasks-Result-TTL", "86400", Options(result_ttl_ms=86_400_000)),
    ("Qtasks-Queue", "parallelism=16; ordered=false", Options(queue=QueueSpec(16, ordered=False))),
    ("Qtasks-Queue", "ordered=true", Options(queue=QueueSpec(1, ordered=True))),
    ("Upstash-Redact-Fields", "body, header[X]", Options(redact=Redaction(True, headers=frozenset({"x"})))),
    ("Upstash-Cron", "CRON_TZ=UTC 0 4 * * MON", Options(cron=parse_cron("CRON_TZ=UTC 0 4 * * MON"))),
    ("Upstash-Schedule-Id", "nightly-1", Options(schedule_id="nightly-1")),
    ("Upstash-Queue-Name", "mail", Options(schedule_queue="mail")),
    ("Qtasks-Every", "1m30s", Options(every=Every(90_000))),
    ("Qtasks-Catch-Up", "all", Options(catch_up="all")),
    ("Qtasks-Overlap", "Skip", Options(overlap="skip")),
    ("Qtasks-Expires-After", "10m", Options(expires_after_ms=600_000)),
    ("Qtasks-Batch", "100", Options(batch=100)),
    ("Qtasks-Batch-Kind", "shop.f.<locals>.grüßen", Options(kind="shop.f.<locals>.grüßen")),
    ("Upstash-Callback", "https://c.example/?a=,b", Options(callback=Callback("https://c.example/?a=,b"))),
    ("Upstash-Failure-Callback", "http://f", Options(failure_callback=Callback("http://f"))),
    ("Upstash-Forward-X-Api-KEY", "k", Options(forward=(("X-Api-Key", "k"),))),
    ("Upstash-Forward-Authorization", "Bearer r", Options(forward=(("Authorization", "Bearer r"),))),
    ("Upstash-Forward-Content-Type", "a/b", Options(content_type="a/b")),
    ("Upstash-Forward-Upstash-Forward-X", "1", Options(forward=(("Upstash-Forward-X", "1"),))),
    ("Upstash-Forward-Upstash-Workflow-RunId", "1", Options(forward=(("Upstash-Workflow-Runid", "1"),))),
]


def test_the_table_fills_every_field_but_those_of_several_headers_once() -> None:
    of_several = {"forward", "flow", "callback", "failure_callback"}

    assert sorted(row.field for row in ROWS) == sorted({each.name for each in fields(Options)} - of_several)
    assert {row.header for row in ROWS} <= {header for header, _, _ in SAMPLES}


@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
@pytest.mark.parametrize(("header", "value", "options"), SAMPLES)
def test_a_header_in_any_case_sets_its_option(
    header: str, value: str, options: Options, spell: type[str]
) -> None:
    assert parse_options([(spell(header), value)]) == options


@pytest.mark.parametrize(("header", "value", "options"), SAMPLES[1:])
def test_the_query_works_like_headers(header: str, value: str, options: Options) -> None:
    assert parse_options([], [(header.lower(), value)]) == options


@pytest.mark.parametrize(("header", "value", "options"), SAMPLES)
def test_options_are_written_as_headers_that_mean_the_same(header: str, value: str, options: Options) -> None:
    assert parse_options(render_options(options)) == options


def test_options_are_written_as_the_sdks_write_them() -> None:
    options = Options(
        method="PUT",
        content_type="application/json",
        forward=(("X-Tenant", "42"),),
        timeout_ms=1_500,
        retries=0,
        delay_ms=90_000,
        not_before=1_700_000_000_001,
        labels=("a", "b"),
        content_dedup=True,
        result_ttl_ms=60_000,
        queue=QueueSpec(16, ordered=False),
        flow=FlowSpec("tenant-42", rate=10, parallelism=1, period_ms=60_000),
        callback=Callback("https://c", Options(content_type="a/b", retries=1, forward=(("X", "1"),))),
    )

    assert render_options(options) == [
        ("Content-Type", "application/json"),
        ("Upstash-Method", "PUT"),
        ("Upstash-Timeout", "1.5s"),
        ("Upstash-Retries", "0"),
        ("Upstash-Delay", "90s"),
        ("Upstash-Not-Before", "1700000001"),
        ("Upstash-Label", "a,b"),
        ("Upstash-Content-Based-Deduplication", "true"),
        ("Qtasks-Result-TTL", "60"),
        ("Qtasks-Queue", "parallelism=16; ordered=false"),
        ("Upstash-Flow-Control-Key", "tenant-42"),
        ("Upstash-Flow-Control-Value", "parallelism=1, rate=10, period=60s"),
        ("Upstash-Callback", "https://c"),
        ("Upstash-Callback-Forward-Content-Type", "a/b"),
        ("Upstash-Callback-Retries", "1"),
        ("Upstash-Callback-Forward-X", "1"),
        ("Upstash-Forward-X-Tenant", "42"),
    ]


def test_defaults_are_not_written() -> None:
    assert render_options(Options()) == []


def test_a_header_goes_before_the_query() -> None:
    options = parse_options(
        [("Upstash-Retries", "1"), ("Upstash-Forward-X", "header"), ("Upstash-Delay", "")],
        [("upstash-retries", "2"), ("upstash-forward-x", "query"), ("upstash-delay", "3s")],
    )

    assert options == Options(retries=1, forward=(("X", "header"),), delay_ms=3_000)


def test_the_query_goes_before_the_defaults_of_a_group() -> None:
    options = parse_options(
        [("Upstash-Retries", "1"), ("Upstash-Flow-Control-Value", "rate=2")],
        [("upstash-retries", "2"), ("upstash-delay", "2s")],
        defaults=[
            ("Upstash-Retries", "3"),
            ("Upstash-Delay", "3s"),
            ("Upstash-Timeout", "3s"),
            ("Upstash-Flow-Control-Key", "k"),
            ("Upstash-Flow-Control-Value", "rate=3"),
            ("Upstash-Callback-Retries", "3"),
            ("X-Plain", "3"),
        ],
    )

    assert options == Options(retries=1, delay_ms=2_000, timeout_ms=3_000, flow=FlowSpec("k", rate=2))


def test_header_forward_may_be_a_default_of_a_group() -> None:
    options = parse_options([("X-Event", "push")], defaults=[("Upstash-Header-Forward", "true")])

    assert options == Options(forward=(("X-Event", "push"),))


def test_the_query_cannot_set_plain_headers() -> None:
    assert parse_options([], [("content-type", "a/b"), ("x-header", "1")]) == Options()


def test_a_header_sent_several_times_is_one_with_its_values_joined() -> None:
    options = parse_options(
        [
            ("Upstash-Forward-X-A", "value-uppercase"),
            ("Upstash-Label", "a"),
            ("upstash-forward-x-a", "value-lowercase"),
            ("upstash-label", "b"),
        ]
    )

    assert options == Options(forward=(("X-A", "value-uppercase, value-lowercase"),), labels=("a", "b"))


@pytest.mark.parametrize(
    "header",
    [
        *(header for header, _, _ in SAMPLES),
        "Upstash-Flow-Control-Key",
        "Upstash-Flow-Control-Value",
        "Upstash-Header-Forward",
    ],
)
@pytest.mark.parametrize("value", ["", " \t"])
def test_an_empty_value_counts_as_absent(header: str, value: str) -> None:
    assert parse_options([(header, value)], [(header, value)]) == Options()


def test_headers_that_nobody_knows_are_ignored_and_not_forwarded() -> None:
    headers = [
        ("Upstash-Telemetry-Sdk", "upstash-qstash-js"),
        ("Upstash-New", "1"),
        ("Qtasks-New", "1"),
        ("Authorization", "Bearer token"),
        ("User-Agent", "curl"),
        ("Cookie", "a=b"),
        ("X-Anything", "1"),
    ]

    assert parse_options(headers) == Options()


def test_the_forwarded_content_type_goes_before_the_plain_one() -> None:
    options = parse_options([("Upstash-Forward-Content-Type", "a/b"), ("Content-Type", "c/d")])

    assert options == Options(content_type="a/b")


@pytest.mark.parametrize("name", ["Host", "content-length", "TRANSFER-ENCODING"])
def test_headers_that_frame_a_message_are_dropped(name: str) -> None:
    assert parse_options([(f"Upstash-Forward-{name}", "1")]) == Options()


PLAIN = [
    ("Content-Type", "a/b"),
    ("X-GitHub-Event", "push"),
    ("Cookie", "a=b"),
    ("Authorization", "Basic s"),
    ("X-Both", "plain"),
    ("Upstash-Forward-X-Both", "explicit"),
    ("Host", "h"),
    ("Content-Length", "3"),
    ("Connection", "close"),
    ("Keep-Alive", "1"),
    ("Transfer-Encoding", "chunked"),
    ("TE", "trailers"),
    ("Trailer", "x"),
    ("Upgrade", "h2c"),
    ("Expect", "100-continue"),
    ("Proxy-Authorization", "p"),
    ("Upstash-New", "1"),
    ("Qtasks-New", "1"),
]


@pytest.mark.parametrize("by_query", [False, True])
def test_header_forward_takes_plain_headers_along(by_query: bool) -> None:
    flag = [("upstash-header-forward", "True")]

    options = parse_options([*PLAIN, *([] if by_query else flag)], flag if by_query else [])

    assert options.content_type == "a/b"
    assert dict(options.forward) == {"X-Github-Event": "push", "Cookie": "a=b", "X-Both": "explicit"}


def test_header_forward_takes_the_senders_authorization_along_if_the_token_came_by_query() -> None:
    flag = ("upstash-header-forward", "true")

    options = parse_options(PLAIN, [flag, ("qstash_token", "t")], token_in_header=False)

    assert dict(options.forward)["Authorization"] == "Basic s"


@pytest.mark.parametrize(
    ("header", "value", "complaint"),
    [
        ("Upstash-Delay", "10x", 'Upstash-Delay: invalid duration "10x"'),
        ("upstash-retries", "x", 'Upstash-Retries: must be an integer of at least 0, not "x"'),
        ("Upstash-Retries", "-1", 'Upstash-Retries: must be an integer of at least 0, not "-1"'),
        ("Upstash-Retries", "1_0", 'Upstash-Retries: must be an integer of at least 0, not "1_0"'),
        ("Upstash-Retries", "1" * 16, "Upstash-Retries: must have at most 15 digits"),
        ("Upstash-Not-Before", "1.5", 'Upstash-Not-Before: must be an integer of at least 0, not "1.5"'),
        ("Upstash-Timeout", "0s", "Upstash-Timeout: must be longer than 0"),
        (
            "Upstash-Method",
            "HEAD",
            'Upstash-Method: must be one of GET, POST, PUT, PATCH, DELETE, not "HEAD"',
        ),
        ("Upstash-Retry-Delay", "2 **", 'Upstash-Retry-Delay: invalid expression "2 **": expected'),
        ("Upstash-Label", "a\tb", 'Upstash-Label: "a\\tb" has characters that cannot be printed'),
        ("Upstash-Label", "x" * 257, "is longer than 256 bytes"),
        ("Upstash-Deduplication-Id", "a:b", "DeduplicationId cannot contain ':'"),
        ("Upstash-Deduplication-Id", "x" * 1025, "Upstash-Deduplication-Id: must be at most 1024 bytes"),
        ("Upstash-Content-Based-Deduplication", "yes", 'must be true or false, not "yes"'),
        ("Upstash-Header-Forward", "1", 'Upstash-Header-Forward: must be true or false, not "1"'),
        ("Qtasks-Task-Id", "a/b", 'Qtasks-Task-Id: must be 1 to 128 letters, digits, ".", "_" or "-"'),
        ("Qtasks-Batch-Kind", "a\tb", 'Qtasks-Batch-Kind: "a\\tb" has characters that cannot be printed'),
        ("Qtasks-Batch-Kind", "é" * 65, "Qtasks-Batch-Kind: must be at most 128 bytes long, unlike"),
        ("Qtasks-Queue", "16", "Qtasks-Queue: must look like"),
        ("Qtasks-Queue", "parallelism=1; parallelism=2", "Qtasks-Queue: must look like"),
        ("Qtasks-Queue", "parallelism=0", "Qtasks-Queue: parallelism must be at least 1"),
        ("Qtasks-Queue", "ordered=no", "Qtasks-Queue: must be true or false"),
        ("Upstash-Forward-", "1", "the name of the header to forward is missing"),
        ("Upstash-Forward-X Y", "1", '"Upstash-Forward-X Y" is not the name of a header'),
        ("Upstash-Forward-X", "a\r\nB: c", "Upstash-Forward-X: the value must not contain CR, LF, NUL"),
        ("Upstash-Forward-X", "a\x7fb", "Upstash-Forward-X: the value must not contain"),
        ("Upstash-Deduplication-Id", "a\0b", "Upstash-Deduplication-Id: the value must not contain"),
        ("Content-Type", "a\ud800", "Content-Type: the value must not contain"),
        ("Upstash-Callback", "team", "invalid callback url: endpoint has invalid scheme, add http://"),
        ("Upstash-Failure-Callback", "https://", 'invalid callback url: "https://" has no host'),
        ("Upstash-Callback", "https://a, https://b", "has blanks or control characters"),
        ("Upstash-Flow-Control-Key", "k", "Upstash-Flow-Control-Value must be given together"),
        ("Upstash-Flow-Control-Value", "rate=1", "Upstash-Flow-Control-Key and Upstash-Flow-Control-Value"),
        (
            "Upstash-Redact-Fields",
            "bodies",
            "Upstash-Redact-Fields: must list body, header or header[<name>]",
        ),
        ("Upstash-Cron", "* * *", 'Upstash-Cron: invalid cron "* * *": it has 3 fields instead of five'),
        ("Upstash-Schedule-Id", "a/b", "Upstash-Schedule-Id: must be 1 to 128 letters"),
        ("Upstash-Queue-Name", "a b", 'invalid queue name "a b"'),
    ],
)
@pytest.mark.parametrize("by_query", [False, True])
def test_a_value_that_cannot_be_honoured_is_refused_by_name(
    header: str, value: str, complaint: str, by_query: bool
) -> None:
    if by_query and header == "Content-Type":
        return
    sent = [(header, value)]

    with pytest.raises(BadRequest) as caught:
        parse_options([] if by_query else sent, sent if by_query else [])

    assert complaint in str(caught.value)


def test_one_header_is_limited_in_size() -> None:
    name = "Upstash-Forward-X"
    fits = "v" * (MAX_HEADER_BYTES - len(name))
    assert parse_options([(name, fits)]).forward == (("X", fits),)

    with pytest.raises(BadRequest, match="Upstash-Forward-X: name and value are limited to 8192 bytes"):
        parse_options([(name, fits + "v")])


def test_forwarded_headers_are_limited_in_number() -> None:
    fits = [(f"Upstash-Forward-X-{each}", "v") for each in range(MAX_FORWARDED)]
    assert len(parse_options(fits).forward) == MAX_FORWARDED

    with pytest.raises(BadRequest, match="at most 100 headers can be forwarded, not 101"):
        parse_options([*fits, ("Upstash-Forward-Y", "v")])


def test_forwarded_headers_are_limited_together() -> None:
    fits = [(f"Upstash-Forward-{each}", "v" * (MAX_FORWARDED_BYTES // 16 - 1)) for each in "abcdefghijklmnop"]
    assert len(parse_options(fits).forward) == 16

    with pytest.raises(BadRequest, match="limited to 65536 bytes, not 65538"):
        parse_options([*fits, ("Upstash-Forward-Q", "v")])


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("content-type", "Content-Type"),
        ("BYPASS-TUNNEL-REMINDER", "Bypass-Tunnel-Reminder"),
        ("x-API-key", "X-Api-Key"),
        ("-a--b-", "-A--B-"),
        ("x_y-1z", "X_y-1z"),
        ("no name", "no name"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_names_are_spelled_as_go_does(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical
