"""The JSON of a message that waits in an outbox: the member of a batch (contract 2.3), in both directions."""

from __future__ import annotations

import orjson

from qtasks.errors import BadRequest, DecodeError
from qtasks.protocol.headers import parse_options, render_options
from qtasks.protocol.shapes import Outgoing


def batch_member(message: Outgoing) -> dict[str, object]:
    """Give a message, whose body must be UTF-8 text, as `/v2/batch` takes it."""
    return {
        "destination": message.destination,
        "queue": message.queue,
        "headers": dict(render_options(message.options)),
        "body": message.body.decode(),
    }


def write_left(message: Outgoing) -> str:
    """Write a message, whose body must be UTF-8 text."""
    return orjson.dumps(batch_member(message)).decode()


def read_left(text: str) -> Outgoing:
    """Read what `write_left` wrote; raises `DecodeError`."""
    try:
        item = orjson.loads(text)
        options = parse_options(item["headers"].items(), token_in_header=False)
        return Outgoing(item["destination"], item["body"].encode(), options, item["queue"])
    except (ValueError, KeyError, TypeError, AttributeError, BadRequest) as error:
        raise DecodeError(f"a message in the outbox cannot be read: {error}") from error
