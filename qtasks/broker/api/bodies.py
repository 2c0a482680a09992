"""Reads JSON bodies, and the members that several operations have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from qtasks.broker.api.routing import Call
from qtasks.errors import BadRequest

BODY_LIMIT = 1024 * 1024
_TEXTS = {str}


def parse_json(body: bytes) -> Any:
    """Read JSON; raises `BadRequest`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


async def read_object(call: Call, example: str) -> dict[str, Any]:
    """Read a body that must be a JSON object such as the example; raises `BadRequest`."""
    members = parse_json(await call.body(BODY_LIMIT, "maxRequestSize"))
    if not isinstance(members, dict):
        raise BadRequest(f"the body must be a JSON object such as {example}")
    return members


def text_member(item: Mapping[str, object], key: str) -> str:
    """Give a member that is a text; null and absent are empty."""
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a string, not {type(value).__name__}")
    return value


def header_pairs(headers: object) -> list[tuple[str, str]]:
    """Give the pairs of an object of strings, or of lists of strings."""
    if headers is None:
        return []
    if not isinstance(headers, dict):
        raise BadRequest("headers must be an object of strings")
    if set(map(type, headers.values())) <= _TEXTS:
        return list(headers.items())
    return list(_each_pair(headers))


def _each_pair(headers: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, str):
                raise BadRequest(f"header {name[:64]} must be a string, not {type(each).__name__}")
            yield name, each
