"""Deliveries of several messages in one request, and their answers: lines of JSON, one for each message.

A destination asks for them with `Qtasks-Batch`, and takes them beside itself, at `…/batch`. One signature
covers the whole body. The answers come as they are ready, in any order; a line that never comes is a lost
reply.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from qtasks.errors import InvalidValue
from qtasks.values import dataclass

CONTENT_TYPE = "application/x-ndjson"
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """One message of a batch; `retried` counts from 0, names of headers are in lower case."""

    message_id: str
    retried: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """What a destination says to one message of a batch."""

    message_id: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def batch_url(url: str) -> str:
    """Give the address that takes batches for a destination.

    >>> batch_url("https://app.example/qtasks/run?x=1")
    'https://app.example/qtasks/batch'
    """
    return f"{url.partition('?')[0].rpartition('/')[0]}/{BATCH}"


def write_deliveries(lines: Iterable[DeliveryLine]) -> bytes:
    """Write the body of a batch."""
    return b"".join(
        _line(each.message_id, "retried", each.retried, each.headers, each.body) for each in lines
    )


def read_deliveries(body: bytes) -> list[DeliveryLine]:
    """Read the body of a batch; raises `InvalidValue`."""
    return [_delivery(_members(each)) for each in body.splitlines()]


def _delivery(members: Mapping[str, Any]) -> DeliveryLine:
    try:
        headers, retried = dict(members["headers"]), int(members["retried"])
        return DeliveryLine(members["messageId"], retried, headers, _read(members))
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidValue(f"a line of a batch is no message: {error!r}") from error


def write_answers(lines: Iterable[AnswerLine]) -> bytes:
    """Write answers that are ready."""
    return b"".join(_line(each.message_id, "status", each.status, each.headers, each.body) for each in lines)


def _line(message_id: str, name: str, number: int, headers: object, body: bytes) -> bytes:
    """Write one line; `number` is what the two kinds call differently."""
    members = {"messageId": message_id, name: number, "headers": headers, **_written(body)}
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def read_answer(line: bytes) -> AnswerLine:
    """Read one answer; raises `InvalidValue`."""
    members = _members(line)
    try:
        headers = _pairs(members["headers"])
        return AnswerLine(members["messageId"], int(members["status"]), headers, _read(members))
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidValue(f"a line of a batch is no answer: {error!r}") from error


def _pairs(pairs: Sequence[Sequence[Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(value)) for name, value in pairs)


def _members(line: bytes) -> Mapping[str, Any]:
    try:
        members = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidValue(f"a line of a batch is no JSON: {error}") from error
    if not isinstance(members, dict):
        raise InvalidValue("a line of a batch is no JSON object")
    return members


def _written(body: bytes) -> dict[str, str]:
    """Nearly all bodies are texts; others would be no JSON."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body64": b64encode(body).decode()}


def _read(members: Mapping[str, Any]) -> bytes:
    text = members.get("body")
    if text is not None:
        return bytes(text, "utf-8")
    return b64decode(members["body64"])
