"""`/v2/publish/{destination}` and `/v2/enqueue/{queue}/{destination}` (contract 2.1, 2.2)."""

from __future__ import annotations

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest, NotFound
from qtasks.protocol.destinations import Destination, Target, check_queue_name, split_target
from qtasks.protocol.headers import parse_options
from qtasks.protocol.shapes import Outgoing

IN_PUBLISH = 2  # segments before the destination: v2, publish
IN_ENQUEUE = 3  # v2, enqueue, the queue's name


async def publish(call: Call) -> Response:
    """Accept one message without a queue: 200, or 202 with the first id for a duplicate."""
    return await _accept(call, split_target(call.raw_path, call.raw_query, IN_PUBLISH), None)


async def enqueue(call: Call) -> Response:
    """Accept one message for a queue: 200, or 202 with the first id for a duplicate."""
    target = split_target(call.raw_path, call.raw_query, IN_ENQUEUE)
    queue = target.segments[2]
    check_queue_name(queue)
    return await _accept(call, target, queue)


async def _accept(call: Call, target: Target, queue: str | None) -> Response:
    call.broker.check_open()
    outgoing = Outgoing(
        destination=url_of(target.destination),
        body=await call.body(call.broker.config.max_message_bytes),
        options=parse_options(call.headers, target.config, token_in_header=_has_token_header(call)),
        queue=queue,
        caller_ip=call.caller_ip,
    )
    [answer] = await call.broker.aaccept([outgoing])
    return json_response(answer.to_json(), 202 if answer.deduplicated else 200)


def url_of(destination: Destination) -> str:
    """Give the destination's URL; URL groups and API names are not known to this version."""
    if destination.url is not None:
        return destination.url
    name = destination.group or ""
    if "." in name or "/" in name:
        raise BadRequest("invalid destination url: endpoint has invalid scheme, add http:// or https://")
    raise NotFound(f"topic {name} not found")


def _has_token_header(call: Call) -> bool:
    return call.request.headers.get("authorization", "").lower().startswith("bearer ")
