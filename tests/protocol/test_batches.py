"""The lines of a batch and of its answers: what is written is read back, and nonsense is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import InvalidValue
from qtasks.protocol.batches import (
    AnswerLine,
    DeliveryLine,
    read_answer,
    read_deliveries,
    write_answers,
    write_deliveries,
)

TEXTS = st.text(st.characters(codec="utf-8"))
DELIVERIES = st.builds(
    DeliveryLine, TEXTS, st.integers(0, 99), st.dictionaries(TEXTS, TEXTS, max_size=3), st.binary()
)
ANSWERS = st.builds(
    AnswerLine,
    TEXTS,
    st.integers(100, 599),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
    st.binary(),
)


@given(st.lists(DELIVERIES, max_size=4))
def test_a_batch_is_read_as_it_was_written(lines: list[DeliveryLine]) -> None:
    written = write_deliveries(lines)

    assert written.count(b"\n") == len(lines)
    assert read_deliveries(written) == lines


@given(st.lists(ANSWERS, max_size=4))
def test_answers_are_read_as_they_were_written(lines: list[AnswerLine]) -> None:
    written = write_answers(lines)

    assert [read_answer(each) for each in written.splitlines()] == lines


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"nonsense", "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"{}", "line of a batch"),
        (b'{"messageId":"m","retried":0,"headers":{},"status":200}', "body64"),
        (b'{"messageId":"m","retried":0,"headers":7,"status":200,"body64":"?"}', "line of a batch"),
    ],
)
@pytest.mark.parametrize("read", [read_deliveries, read_answer])
def test_a_line_that_is_none_is_refused(read: Callable[[bytes], object], line: bytes, text: str) -> None:
    with pytest.raises(InvalidValue, match=text):
        read(line)


def test_a_status_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidValue, match="invalid literal"):
        read_answer(b'{"messageId":"m","headers":[],"status":"x","body":"b"}')
