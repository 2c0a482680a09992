"""Why a dead letter died: read from the error document of a task, or from the bare answer."""

from __future__ import annotations

import orjson
import pytest

from qtasks.cli.bulk import pause_ms
from qtasks.cli.letters import Cause, cause_of, grouped, message_of, task_of
from qtasks.protocol.shapes import DeadLetter, MessageView

TRACE = """Traceback (most recent call last):
  File "/app/shop.py", line 3, in outer
    inner()
  File "/app/mail.py", line 8, in inner
    raise ValueError("x")
ValueError: x
"""
ENVELOPE = b'{"v":1,"task":"shop.welcome","id":"tsk_1","args":[],"kwargs":{},"meta":{}}'


def letter(
    answer: bytes = b"", *, body: bytes = b"", status: int = 0, error: str | None = None, at: int = 0
) -> DeadLetter:
    """Make a dead letter."""
    message = MessageView(
        message_id="msg_1", url="https://a.example", max_retries=0, not_before=0, created_at=at, body=body
    )
    return DeadLetter(
        dlq_id=f"{at}-1", message=message, response_status=status, response_body=answer, error=error
    )


def document(trace: str | None = TRACE, message: str = "x") -> bytes:
    """Write what a task answers of an error."""
    return orjson.dumps({"error": {"type": "ValueError", "message": message, "traceback": trace}})


def test_the_place_is_where_the_error_was_raised() -> None:
    found = cause_of(letter(document(), body=ENVELOPE, status=500))

    assert found == Cause("shop.welcome", "ValueError", "/app/mail.py:8 in inner")


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (letter(document(None), status=489), Cause("https://a.example", "ValueError")),
        (letter(b"nope", status=404), Cause("https://a.example", "HTTP 404")),
        (letter(error="connection refused"), Cause("https://a.example", "connection refused")),
        (letter(), Cause("https://a.example", "no answer")),
        (letter(b'{"error": "text"}', status=500), Cause("https://a.example", "HTTP 500")),
        (letter(b"[1]", status=500), Cause("https://a.example", "HTTP 500")),
        (letter(b"\xff", status=500, body=b"\xff"), Cause("https://a.example", "HTTP 500")),
    ],
)
def test_without_a_document_the_answer_is_the_cause(given: DeadLetter, cause: Cause) -> None:
    assert cause_of(given) == cause


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"task": "x"}', b'{"v":1,"task":3,"kwargs":{}}'])
def test_what_is_no_envelope_is_no_task(body: bytes) -> None:
    assert task_of(letter(body=body)) is None


def test_equal_causes_come_together_whatever_their_messages() -> None:
    letters = [
        letter(document(message="newest"), body=ENVELOPE, at=30),
        letter(b"", status=404, at=20),
        letter(document(message="oldest"), body=ENVELOPE, at=10),
    ]

    first, second = grouped(letters)

    assert (first.count, first.first_at, first.last_at, message_of(first.newest)) == (2, 10, 30, "newest")
    assert (second.count, second.cause.error) == (1, "HTTP 404")


def test_a_rate_is_kept_on_average() -> None:
    assert [pause_ms(done, 400, 100) for done in (10, 40, 100)] == [0, 0, 600]
