"""Where a message goes, found in the target of a request (contract 6.1)."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import BadRequest
from qtasks.protocol.destinations import (
    Destination,
    Target,
    check_queue_name,
    check_url,
    parse_destination,
    split_target,
)

INVALID_SCHEME = "invalid destination url: endpoint has invalid scheme, add http:// or https://"


@pytest.mark.parametrize(
    ("rest", "query", "url"),
    [
        ("https://example.com", "", "https://example.com"),
        ("https://example.com/", "", "https://example.com/"),
        ("HTTP://Example.com:8080/a%2Fb//c", "", "HTTP://Example.com:8080/a%2Fb//c"),
        ("https://example.com/a", "b=c&d=%20+", "https://example.com/a?b=c&d=%20+"),
        ("https://example.com/a", "a=1&&b", "https://example.com/a?a=1&&b"),
        ("https://example.com/a", "x=%FF", "https://example.com/a?x=%FF"),
        ("https://example.com/%FF", "", "https://example.com/%FF"),
        ("https:/example.com/a", "", "https://example.com/a"),
        ("http:/example.com/a", "b=c", "http://example.com/a?b=c"),
        ("https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc%26d", "", "https://example.com/a?b=c&d"),
        ("https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc", "d=e", "https://example.com/a?b=c&d=e"),
        ("https%3A%2F%2Fexample.com%2F%23top", "d=e", "https://example.com/?d=e#top"),
        ("https%3A/example.com", "", "https://example.com"),
        ("https%3A%2F%2Fexample.com%2Fa%2520b", "", "https://example.com/a%20b"),
        ("https://user:pass@example.com/a", "", "https://user:pass@example.com/a"),
        ("http://[::1]:8080/a", "", "http://[::1]:8080/a"),
        ("https://example.com/ü", "", "https://example.com/ü"),
    ],
)
def test_a_url_is_kept_verbatim_with_its_query(rest: str, query: str, url: str) -> None:
    assert parse_destination(rest, query) == (Destination(url=url), [])


def test_settings_in_the_query_are_taken_out_and_decoded() -> None:
    destination, config = parse_destination(
        "https://example.com/a",
        "Upstash-Retries=3&b=c&upstash%2Dforward-x=a+b%21&qstash_token=t%3D&qtasks-expires=1&upstash-delay",
    )

    assert destination == Destination(url="https://example.com/a?b=c")
    assert config == [
        ("upstash-retries", "3"),
        ("upstash-forward-x", "a b!"),
        ("qstash_token", "t="),
        ("qtasks-expires", "1"),
        ("upstash-delay", ""),
    ]


def test_a_query_of_settings_alone_leaves_no_question_mark() -> None:
    assert parse_destination("https://example.com", "upstash-retries=3")[0].url == "https://example.com"


@pytest.mark.parametrize(
    ("rest", "group"),
    [
        ("orders", "orders"),
        ("my%2Dgroup", "my-group"),
        ("example.com", "example.com"),
        ("my%20group", "my group"),
        ("api/llm", "api/llm"),
        ("api%2Femail", "api/email"),
    ],
)
def test_what_is_no_url_is_the_name_of_a_group(rest: str, group: str) -> None:
    assert parse_destination(rest, "a=b&upstash-retries=1") == (
        Destination(group=group),
        [("upstash-retries", "1")],
    )


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ("", "a non-empty destination must be provided"),
        ("example.com/hook", INVALID_SCHEME),
        ("localhost:8000", INVALID_SCHEME),
        ("ftp://example.com", INVALID_SCHEME),
        ("https:example.com", INVALID_SCHEME),
        ("api/other", INVALID_SCHEME),
        ("a%00b", INVALID_SCHEME),
        ("https://", 'invalid destination url: "https://" has no host'),
        ("https:/", 'invalid destination url: "https://" has no host'),
        ("https:///path", 'invalid destination url: "https:///path" has no host'),
        ("https://user@:80/", "has no host"),
        ("https://example.com:port/", "invalid destination url: "),
        ("https://example.com:65536/", "invalid destination url: "),
        ("https://[::1/", "invalid destination url: "),
        ("https%3A%2F%2Fexample.com%2Fa%20b", "has blanks or control characters"),
        ("https%3A%2F%2Fexample.com%2F%0D%0AHost:x", '\\r\\nHost:x" has blanks or control characters'),
        ("https://good.example\\@evil.example/", "has a backslash before or in its host"),
        ("https://example.com/" + "a" * 8192, "is longer than 8192 bytes"),
    ],
)
def test_what_can_be_no_destination_is_refused(rest: str, complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_destination(rest, "")

    assert complaint in str(caught.value)


def test_a_setting_that_is_not_utf_8_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="upstash-label: the value in the query is not UTF-8"):
        parse_destination("https://example.com", "upstash-label=%FF")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", INVALID_SCHEME),
        ("example.com", INVALID_SCHEME),
        ("https:/example.com", INVALID_SCHEME),
        (" https://example.com", INVALID_SCHEME),
        ("https://example.com/\u2028", "has blanks"),
        ("https://example.com/\ud800", "has blanks or control characters"),
    ],
)
def test_a_url_from_a_body_is_not_mended(url: str, complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_url(url)

    assert complaint in str(caught.value)


def test_a_target_is_taken_apart_undecoded() -> None:
    assert split_target(
        b"/v2/enqueue/m%2Eail/https://example.com//a%2F", b"b=%20&upstash-retries=1", 3
    ) == Target(
        segments=("v2", "enqueue", "m.ail"),
        destination=Destination(url="https://example.com//a%2F?b=%20"),
        config=(("upstash-retries", "1"),),
    )


@pytest.mark.parametrize("path", [b"/v2/publish/", b"/v2/publish", b"/v2", b""])
def test_a_target_without_a_destination_is_refused(path: bytes) -> None:
    with pytest.raises(BadRequest, match="a non-empty destination must be provided"):
        split_target(path, b"", 2)


@pytest.mark.parametrize(
    ("path", "query"),
    [(b"/v2/\xff/https://x", b""), (b"/v2/%FF/https://x", b""), (b"/v2/publish/https://x", b"\xff")],
)
def test_a_target_that_is_not_utf_8_is_refused(path: bytes, query: bytes) -> None:
    with pytest.raises(BadRequest, match="not UTF-8"):
        split_target(path, query, 2)


@pytest.mark.parametrize("name", ["emails", "a.b_c-1", "A" * 128])
def test_queue_names_have_letters_digits_and_three_signs(name: str) -> None:
    check_queue_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a\n", "a" * 129])
def test_any_other_queue_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=r'invalid queue name ".*": it must be 1 to 128 letters'):
        check_queue_name(name)


TEXTS = st.text() | st.text("https:/%2Fa.?&=+#@[]\\", max_size=30).map("https://".__add__)


@given(st.text("abc0/%.-_~?=&", max_size=20), st.text("abc=&%20+", max_size=20))
def test_an_encoded_destination_and_a_plain_one_are_the_same(path: str, query: str) -> None:
    url = f"https://example.com/{path}"

    plain, _ = parse_destination(url, query)
    encoded, _ = parse_destination(quote(url, safe=""), query)

    assert plain == encoded


@given(TEXTS, TEXTS)
def test_any_destination_is_understood_or_refused(rest: str, query: str) -> None:
    try:
        destination, _ = parse_destination(rest, query)
    except BadRequest:
        return

    assert (destination.url is None) != (destination.group is None)
    if destination.url is not None:
        check_url(destination.url)


@given(st.binary(), st.binary(), st.integers(0, 4))
def test_any_target_is_understood_or_refused(path: bytes, query: bytes, prefix_segments: int) -> None:
    try:
        target = split_target(path, query, prefix_segments)
    except BadRequest:
        return

    assert len(target.segments) == prefix_segments
