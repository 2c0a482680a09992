"""Shows what the read API shows of messages and schedules, without what their senders want hidden.

What is hidden, and what stands in its place, is in `redact`; answers of receivers are never hidden.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from qtasks.protocol.redact import Redaction, redact_body, redact_headers
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import DeadLetter, LogEntry, MessageView

_Shown = TypeVar("_Shown", bound=MessageView | LogEntry | ScheduleView | DeadLetter)


def redacted(view: _Shown, redaction: Redaction | None) -> _Shown:
    """Give a view with markers for what is hidden (contract 3.10); without a redaction, as it is.

    The marker of a body is text, so that it is shown as text where bodies are. Headers are hidden from
    those of callbacks too: the same secret may well be in both. An empty body has nothing to hide.
    """
    if redaction is None:
        return view
    if isinstance(view, DeadLetter):
        return replace(view, message=redacted(view.message, redaction))
    return replace(
        view,
        body=redact_body(view.body).encode() if redaction.body and view.body else view.body,
        header=redact_headers(view.header, redaction),
        callback_header=redact_headers(view.callback_header, redaction),
        failure_callback_header=redact_headers(view.failure_callback_header, redaction),
    )
