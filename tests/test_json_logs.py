"""Log records as JSON: one line each, with the facts as members, whatever they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from qtasks.logs import JsonFormatter


def record(text: str = "delivered", *args: Any, extra: dict[str, Any] | None = None) -> logging.LogRecord:
    return logging.getLogger("qtasks.dispatcher").makeRecord(
        "qtasks.dispatcher", logging.WARNING, __file__, 1, text, args, None, extra=extra
    )


def line_of(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_has_time_level_logger_message_and_the_facts() -> None:
    made = record("delivered to %s", "you", extra={"message_id": "msg_1", "attempt": 2})
    made.created = 1_700_000_000.5

    assert line_of(made) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "warning",
        "logger": "qtasks.dispatcher",
        "message": "delivered to you",
        "message_id": "msg_1",
        "attempt": 2,
    }


@pytest.mark.parametrize(
    ("fact", "written"),
    [
        ({1, 2}, "{1, 2}"),
        (Path("/a"), "/a"),
        ({3: "x"}, {"3": "x"}),
        (float("nan"), None),
        (1 << 80, str(1 << 80)),
        ("a\ud800b", "a?b"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_a_fact_of_any_kind_is_written(fact: object, written: object) -> None:
    assert line_of(record(extra={"fact": fact}))["fact"] == written


def test_a_fact_does_not_take_the_place_of_what_every_line_has() -> None:
    assert line_of(record(extra={"level": "none", "time": "never"}))["level"] == "warning"


def test_an_exception_is_a_member_with_its_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        made = record()
        made.exc_info = (type(error), error, error.__traceback__)

    text = line_of(made)["exception"]

    assert text.startswith("Traceback")
    assert text.endswith("ValueError: broken")
