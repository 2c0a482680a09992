"""`POST /v2/batch`: many messages in one request (contract 2.3).

All of them are accepted in one transaction, or none: a message that is refused refuses the call,
named by its index.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from starlette.responses import Response

from qtasks.broker.api.bodies import header_pairs, parse_json, text_member
from qtasks.broker.api.incoming import Asked, read_asked, refuse_schedule_options
from qtasks.broker.api.routing import Call, json_response, known_pairs
from qtasks.errors import BadRequest, RequestError
from qtasks.protocol.destinations import check_queue_name, parse_destination


async def batch(call: Call) -> Response:
    """Accept messages; the answer lists theirs in the same order, those of a URL group as a list."""
    call.query()
    call.broker.check_open()
    # The body itself is let go of here: a large batch is held no more often than it must be.
    asked = await _read(call, await call.body(call.broker.config.max_batch_bytes, "maxBatchSize"))
    messages = [message for each in asked for message in each.messages]
    places = [place for place, each in enumerate(asked) for _ in each.messages]
    answers = iter(await call.broker.aaccept(messages, places) if messages else ())
    return json_response([each.answer(list(islice(answers, len(each.messages)))) for each in asked])


async def _read(call: Call, body: bytes) -> list[Asked]:
    items = parse_json(body)
    del body
    if not isinstance(items, list):
        raise BadRequest("the body must be a JSON array of messages")
    asked: list[Asked] = []
    for index, item in enumerate(items):
        items[index] = None
        try:
            asked.append(await _asked(call, item))
        except RequestError as error:
            raise type(error)(f"message {index}: {error}") from error
    return asked


async def _asked(call: Call, item: Any) -> Asked:
    """Read one message; unknown members are ignored, as QStash does."""
    if not isinstance(item, dict):
        raise BadRequest("a message must be a JSON object with a destination")
    destination, _ = parse_destination(text_member(item, "destination"), "")
    queue = text_member(item, "queue") or None
    if queue is not None:
        check_queue_name(queue)
    headers = known_pairs(header_pairs(item.get("headers")), call.broker)
    body = text_member(item, "body").encode(errors="surrogatepass")
    asked = await read_asked(call, destination, headers, body, queue=queue)
    refuse_schedule_options(asked.messages[0].options)
    return asked
