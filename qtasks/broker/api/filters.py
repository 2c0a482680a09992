"""Reads the filters of listings and bulk operations, from a query or a JSON body (contract 2.0, 2.4).

Several values of one filter are alternatives, repeated or separated by commas. What is not known is
refused: a mistyped filter would otherwise widen an operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qtasks.broker.api.bodies import BODY_LIMIT, parse_json
from qtasks.broker.api.routing import Call
from qtasks.broker.store.filters import MessageFilter
from qtasks.errors import BadRequest

FIELDS = {
    "messageId": "message_ids",
    "messageIds": "message_ids",
    "queueName": "queues",
    "url": "urls",
    "host": "hosts",
    "path": "paths",
    "label": "labels",
    "topicName": "url_groups",
    "scheduleId": "schedules",
    "flowControlKey": "flow_keys",
    "callerIp": "caller_ips",
}
DATES = {"fromDate": "since", "toDate": "until"}
NAMES = (*FIELDS, *DATES)
MAY_BE_EMPTY = ("messageids", "dlqids")  # a list of none is none, never all
MOST_DIGITS = 15

Values = Mapping[str, Sequence[str]]


def read_filter(values: Values) -> MessageFilter:
    """Make the filter of values by lower-case name; raises `BadRequest`."""
    wanted: dict[str, Any] = {}
    for name, field in FIELDS.items():
        if name.lower() in values:
            wanted[field] = wanted.get(field, frozenset()) | alternatives(values[name.lower()])
    for name, field in DATES.items():
        given = values.get(name.lower())
        if given:
            wanted[field] = _instant(name, given[-1])
    return MessageFilter(**wanted)


def alternatives(values: Sequence[str]) -> frozenset[str]:
    """Take apart what one filter was given; a URL may hold commas, so a value counts whole and in parts."""
    return frozenset(part for each in values for part in (each, *map(str.strip, each.split(",")))) - {""}


def _instant(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise BadRequest(f"{name} must be an instant in Unix milliseconds, not {text[:32]!r}")
    return int(text)


async def bulk_values(call: Call, *known: str) -> dict[str, list[str]]:
    """Give the filters of a bulk operation, which stand in the query, in a JSON body, or in both.

    Raises `BadRequest` for an empty value in the query too: dropping it would widen the operation.
    """
    values = call.query(*known, empty_is_refused=True)
    body = await call.body(BODY_LIMIT, "maxRequestSize")
    if body.strip():
        for name, found in _members(body, known).items():
            values.setdefault(name, found)  # the query wins
    return values


def _members(body: bytes, known: Sequence[str]) -> dict[str, list[str]]:
    members = parse_json(body)
    if not isinstance(members, dict):
        raise BadRequest("the body must be a JSON object of filters")
    names = {each.lower() for each in known}
    found: dict[str, list[str]] = {}
    for key, value in members.items():
        if key.lower() not in names:
            raise BadRequest(f"unknown filter {key[:64]!r}; known here: {', '.join(known)}")
        is_none = value == [] and key.lower() in MAY_BE_EMPTY
        if value in (None, "", [], [""]) and not is_none:
            raise BadRequest(f"filter {key[:64]!r} is empty; leave it out to ask for all")
        if value is not None:
            found[key.lower()] = [
                _scalar(key, each) for each in (value if isinstance(value, list) else [value])
            ]
    return found


def _scalar(key: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRequest(f"{key[:64]} must be a string, a whole number, or a list of them")
    return str(value)
