"""`POST /v2/batch`: many messages in one request (contract 2.3).

All of them are accepted in one transaction, or none: a message that is refused refuses the call,
named by its index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from qtasks.broker.api.enqueue import url_of
from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest, RequestError
from qtasks.protocol.destinations import check_queue_name, parse_destination
from qtasks.protocol.headers import parse_options
from qtasks.protocol.shapes import Outgoing


async def batch(call: Call) -> Response:
    """Accept messages; the answer lists theirs in the same order."""
    call.query()
    call.broker.check_open()
    items = _read(await call.body(call.broker.config.max_batch_bytes, "maxBatchSize"))
    outgoing = [_outgoing(index, item, call.caller_ip) for index, item in enumerate(items)]
    answers = await call.broker.aaccept(outgoing)
    return json_response([each.to_json() for each in answers])


def _read(body: bytes) -> list[Any]:
    try:
        items = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(items, list):
        raise BadRequest("the body must be a JSON array of messages")
    return items


def _outgoing(index: int, item: object, caller_ip: str | None) -> Outgoing:
    """Read one message; unknown members are ignored, as QStash does."""
    try:
        if not isinstance(item, dict):
            raise BadRequest("a message must be a JSON object with a destination")
        destination, _ = parse_destination(_text(item, "destination"), "")
        queue = _text(item, "queue") or None
        if queue is not None:
            check_queue_name(queue)
        return Outgoing(
            destination=url_of(destination),
            body=_text(item, "body").encode(),
            options=parse_options(_headers(item.get("headers")), token_in_header=False),
            queue=queue,
            caller_ip=caller_ip,
        )
    except RequestError as error:
        raise type(error)(f"message {index}: {error}") from error


def _text(item: Mapping[str, object], key: str) -> str:
    """Give a member that is a text; null and absent are empty."""
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a string, not {type(value).__name__}")
    return value


def _headers(headers: object) -> Iterator[tuple[str, str]]:
    """Give the pairs of an object of strings, or of lists of strings."""
    if headers is None:
        return
    if not isinstance(headers, dict):
        raise BadRequest("headers must be an object of strings")
    for name, value in headers.items():
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, str):
                raise BadRequest(f"header {name[:64]} must be a string, not {type(each).__name__}")
            yield name, each
