"""What the read API shows of messages, made from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import orjson

from qtasks.broker.store.database import Session
from qtasks.broker.store.extras import NO_EXTRAS, Extras, unpack_extras
from qtasks.broker.store.messages import unpack_headers
from qtasks.broker.store.records import Headers
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Callback, canonical_name
from qtasks.protocol.shapes import HeaderMap, MessageView
from qtasks.protocol.shown import redacted

_canonical = lru_cache(maxsize=1024)(canonical_name)


def find_message(session: Session, message_id: str, readable_since: int) -> MessageView | None:
    """Give a message that is pending, or that finished after `readable_since` (contract 1.2)."""
    row = session.one("message_by_id", {"id": message_id})
    if row is None:
        return None
    *content, stage, last_ended_at = row
    if stage is None and (last_ended_at or 0) < readable_since:
        return None
    return message_view(content)


def message_view(row: Sequence[Any]) -> MessageView:
    """Make the view of a row of `log_message` or `message_by_id`, with what is to be hidden hidden."""
    (id_, queue, url, method, headers, body, created_at, not_before, max_retries, retry_delay,
     timeout_ms, labels, caller_ip, packed) = row  # fmt: skip
    extras = unpack_extras(packed)
    view = MessageView(
        message_id=id_,
        url=url,
        method=method,
        header=header_map(headers),
        body=body,
        max_retries=max_retries,
        not_before=not_before,
        created_at=created_at,
        queue_name=queue,
        caller_ip=caller_ip,
        labels=tuple(orjson.loads(labels)) if labels else (),
        retry_delay_expression=retry_delay,
        timeout_ms=timeout_ms,
        **_shown_extras(extras),
    )
    return redacted(view, extras.redact)


def _shown_extras(extras: Extras) -> dict[str, Any]:
    if extras == NO_EXTRAS:
        return {}
    names = {
        "topic_name": extras.group,
        "endpoint_name": extras.endpoint,
        "schedule_id": extras.schedule_id,
    }
    return names | shown_settings(extras)


class _Settings(Protocol):
    """What a message and a schedule have in common beyond their delivery."""

    @property
    def callback(self) -> Callback | None: ...
    @property
    def failure_callback(self) -> Callback | None: ...
    @property
    def flow(self) -> FlowSpec | None: ...


def shown_settings(settings: _Settings) -> dict[str, Any]:
    """Give the attributes of a view that show callbacks and flow control."""
    shown: dict[str, Any] = {}
    if settings.callback is not None:
        shown |= {"callback": settings.callback.url, "callback_header": settings.callback.header}
    if settings.failure_callback is not None:
        failure = settings.failure_callback
        shown |= {"failure_callback": failure.url, "failure_callback_header": failure.header}
    if settings.flow is not None:
        flow = settings.flow
        shown |= {"flow_control_key": flow.key, "rate": flow.rate, "parallelism": flow.parallelism}
        shown["period_s"] = flow.period_s
    return shown


def header_map(packed: bytes | None) -> HeaderMap:
    """Make the API's map of header names to lists of values, of headers as they are stored."""
    return header_lists(unpack_headers(packed) if packed else ())


def header_lists(headers: Headers) -> HeaderMap:
    """Make the API's map of header names, as Go spells them, to lists of values."""
    found: dict[str, tuple[str, ...]] = {}
    for sent, value in headers:
        name = _canonical(sent)
        found[name] = (*found.get(name, ()), value)
    return found


def parse_cursor(text: str) -> tuple[int, int] | None:
    """Read `<ms>-<seq>`, the form of DLQ ids and cursors; None if it is something else."""
    instant, dash, seq = text.partition("-")
    if dash and all(each.isdecimal() and len(each) <= 18 for each in (instant, seq)):
        return int(instant), int(seq)
    return None  # more digits are beyond what a database counts
