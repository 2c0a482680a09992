"""What is hidden, and what is shown instead (contract 3.10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import InvalidValue
from qtasks.protocol.redact import (
    Redaction,
    parse_redaction,
    redact_body,
    redact_headers,
    render_redaction,
)

HELLO = "REDACTED:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.mark.parametrize(
    ("text", "redaction"),
    [
        ("body", Redaction(body=True)),
        ("header", Redaction(all_headers=True)),
        ("headers", Redaction(all_headers=True)),
        ("header[Authorization]", Redaction(headers=frozenset({"authorization"}))),
        ("headers[X-A],header[x-a]", Redaction(headers=frozenset({"x-a"}))),
        (
            " body ,\theader [ X-A ] , Header",
            Redaction(body=True, all_headers=True, headers=frozenset({"x-a"})),
        ),
    ],
)
def test_a_list_names_what_is_hidden(text: str, redaction: Redaction) -> None:
    assert parse_redaction(text) == redaction


@pytest.mark.parametrize("text", ["", "body,", "bodies", "header[]", "header[a b]", "header[a", "heade", "*"])
def test_an_unknown_item_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"must list body, header or header\[<name>\], unlike \""):
        parse_redaction(text)


def test_the_marker_is_the_hash_of_the_original() -> None:
    assert redact_body(b"hello") == HELLO


def test_each_value_of_a_hidden_header_is_hidden_by_itself() -> None:
    headers = {"Authorization": ("hello", "other"), "X": ("hello",)}

    named = redact_headers(headers, Redaction(headers=frozenset({"authorization"})))
    everything = redact_headers(headers, Redaction(all_headers=True))

    assert named == {"Authorization": (HELLO, redact_body(b"other")), "X": ("hello",)}
    assert everything["X"] == (HELLO,)
    assert redact_headers(headers, Redaction(body=True)) == headers


NAMES = st.from_regex("[a-z0-9!_-]{1,20}", fullmatch=True)


@given(st.builds(Redaction, st.booleans(), st.booleans(), st.frozensets(NAMES, max_size=4)))
def test_a_redaction_survives_the_wire(redaction: Redaction) -> None:
    if redaction == Redaction():
        return

    assert parse_redaction(render_redaction(redaction)) == redaction


WORDS = st.sampled_from(["body", "header", "headers", "[", "]", ",", " ", "X-A", "é"])


@given(st.text() | st.lists(WORDS, max_size=12).map("".join))
def test_any_text_is_a_redaction_or_is_refused(text: str) -> None:
    try:
        redaction = parse_redaction(text)
    except InvalidValue:
        return

    assert redaction != Redaction()
    assert parse_redaction(render_redaction(redaction)) == redaction


@given(st.dictionaries(st.text(), st.lists(st.text(st.characters(), min_size=1), max_size=3).map(tuple)))
def test_nothing_of_a_hidden_value_is_left(headers: dict[str, tuple[str, ...]]) -> None:
    hidden = redact_headers(headers, Redaction(all_headers=True))

    assert hidden.keys() == headers.keys()
    assert all(
        each.startswith("REDACTED:") and len(each) == 73 for values in hidden.values() for each in values
    )
