"""Views without what their senders want hidden (contract 3.10)."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from qtasks.protocol.redact import Redaction, redact_body
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import DeadLetter, LogEntry, MessageView, State
from qtasks.protocol.shown import redacted

SECRET = "s3cret"
MARKER = redact_body(SECRET.encode())
WITH_SECRETS: dict[str, Any] = {
    "body": SECRET.encode(),
    "header": {"Authorization": (SECRET,), "X": ("open",)},
    "callback_header": {"Authorization": (SECRET,)},
    "failure_callback_header": {"Authorization": (SECRET,)},
}
MESSAGE = MessageView(
    message_id="msg_1", url="https://x", max_retries=0, not_before=1, created_at=1, **WITH_SECRETS
)
ENTRY = LogEntry(
    time=1,
    message_id="msg_1",
    state=State.ERROR,
    url="https://x",
    response_body=b"answer",
    response_header={"X": ("answer",)},
    **WITH_SECRETS,
)
LETTER = DeadLetter(dlq_id="1-0", message=MESSAGE, response_body=b"answer")
SCHEDULE = ScheduleView(
    schedule_id="s", cron="@daily", destination="https://x", created_at=1, retries=3, **WITH_SECRETS
)
EVERYTHING = Redaction(body=True, headers=frozenset({"authorization"}))
View = MessageView | LogEntry | DeadLetter | ScheduleView


@pytest.mark.parametrize("view", [MESSAGE, ENTRY, LETTER, SCHEDULE])
def test_nothing_hidden_is_in_the_json_of_any_view(view: View) -> None:
    shown = redacted(view, EVERYTHING).to_json()

    text = orjson.dumps(shown).decode()
    assert SECRET not in text
    assert base64.b64encode(SECRET.encode()).decode().rstrip("=") not in text
    assert shown["header"] == {"Authorization": [MARKER], "X": ["open"]}


@pytest.mark.parametrize("view", [MESSAGE, LETTER, SCHEDULE])
def test_a_hidden_body_is_shown_as_text(view: View) -> None:
    assert redacted(view, EVERYTHING).to_json()["body"] == MARKER


def test_a_hidden_body_is_text_even_where_the_original_is_not() -> None:
    shown = redacted(replace(MESSAGE, body=b"\xff"), EVERYTHING).to_json()

    assert shown["body"] == redact_body(b"\xff")
    assert "bodyBase64" not in shown


def test_a_log_entry_has_the_marker_in_base64() -> None:
    body = redacted(ENTRY, EVERYTHING).to_json()["body"]

    assert body == base64.b64encode(MARKER.encode()).decode()


def test_the_answers_of_receivers_are_shown() -> None:
    assert redacted(LETTER, EVERYTHING).response_body == b"answer"
    assert redacted(ENTRY, replace(EVERYTHING, all_headers=True)).response_header == {"X": ("answer",)}


@pytest.mark.parametrize("view", [MESSAGE, ENTRY, LETTER, SCHEDULE])
def test_what_nobody_hides_is_shown(view: View) -> None:
    assert redacted(view, None) == view
    assert redacted(view, Redaction(headers=frozenset({"other"}))) == view


def test_an_empty_body_stays_empty() -> None:
    assert "body" not in redacted(replace(MESSAGE, body=b""), EVERYTHING).to_json()
