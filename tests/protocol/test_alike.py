"""`parse_alike` reads and refuses what `parse_options` does, the first time and every time after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import BadRequest
from qtasks.protocol.alike import parse_alike
from qtasks.protocol.headers import MAX_FORWARDED, Options, parse_options

Pairs = list[tuple[str, str]]

NAMES = (
    "Upstash-Deduplication-Id",
    "upstash-deduplication-id",
    "Qtasks-Task-Id",
    "Qtasks-Not-Before",
    "Qtasks-Expires",
    "Upstash-Forward-Qtasks-Signature",
    "UPSTASH-FORWARD-QTASKS-SIGNATURE",
    "Upstash-Forward-Other",
    "Upstash-Retries",
    "Upstash-Header-Forward",
    "Upstash-Callback",
    "Upstash-Callback-Retries",
    "Content-Length",
    "Content-Type",
    "X-Plain",
    "not a name",
)
VALUES = ("", " ", "1", " 1 ", "-1", "tsk_1", "true", "https://a.example", "a\nb", "é", "x" * 9000)
SENT = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8)


def outcome(read: object, *args: object, **kwargs: object) -> object:
    """Give what was read, or why it was refused. The order of forwarded headers means nothing."""
    try:
        found = read(*args, **kwargs)  # type: ignore[operator]
    except BadRequest as error:
        return str(error)
    assert isinstance(found, Options)
    return {**{name: getattr(found, name) for name in Options.__slots__}, "forward": dict(found.forward)}


@given(SENT, st.booleans())
def test_any_headers_read_as_they_do_one_by_one(sent: Pairs, in_header: bool) -> None:
    expected = outcome(parse_options, sent, token_in_header=in_header)

    for headers in (sent, received(sent, "utf-8"), sent, received(sent, "utf-8"), received(sent, "latin-1")):
        found = outcome(parse_alike, headers, token_in_header=in_header)
        if isinstance(expected, str):
            assert isinstance(found, str)  # of several faults either may be named
        else:
            assert found == expected


def received(sent: Pairs, encoding: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode(encoding)) for name, value in sent]


def test_messages_that_are_alike_keep_what_is_their_own() -> None:
    def sent(number: int) -> Pairs:
        return [
            ("upstash-retries", "3"),
            ("qtasks-queue", "parallelism=16; ordered=false"),
            ("upstash-forward-x-mark", "m"),
            ("upstash-deduplication-id", f"tsk_{number}"),
            ("qtasks-task-id", f"tsk_{number}"),
            ("qtasks-expires", f"{number}"),
            ("upstash-forward-qtasks-signature", f"signature {number}"),
            ("content-length", f"{number}"),
        ]

    first, second = parse_alike(sent(1)), parse_alike(sent(2))

    assert first == parse_options(sent(1))
    assert second == parse_options(sent(2))
    assert (first.task_id, second.task_id) == ("tsk_1", "tsk_2")
    assert dict(second.forward) == {"X-Mark": "m", "Qtasks-Signature": "signature 2"}


@pytest.mark.parametrize("others", [MAX_FORWARDED - 1, MAX_FORWARDED])
def test_the_signature_counts_among_what_is_forwarded(others: int) -> None:
    sent = [(f"Upstash-Forward-X{number}", "v") for number in range(others)]
    sent.append(("Upstash-Forward-Qtasks-Signature", "s"))

    expected = outcome(parse_options, sent)

    assert outcome(parse_alike, sent) == outcome(parse_alike, sent) == expected
    assert isinstance(expected, str) == (others == MAX_FORWARDED)


def test_messages_with_the_same_values_under_other_names_are_told_apart() -> None:
    def sent(name: str) -> Pairs:
        return [(name, "1"), ("Qtasks-Task-Id", "tsk_1")]

    retries, forwarded = parse_alike(sent("Upstash-Retries")), parse_alike(sent("Upstash-Forward-X"))

    assert (retries.retries, retries.forward) == (1, ())
    assert (forwarded.retries, forwarded.forward) == (None, (("X", "1"),))


def test_a_query_and_defaults_are_read_as_ever() -> None:
    own = [("Qtasks-Task-Id", "tsk_1")]
    config, defaults = [("qtasks-expires", "5")], [("Upstash-Retries", "1")]

    assert parse_alike(own, config, defaults=defaults) == parse_options(own, config, defaults=defaults)
