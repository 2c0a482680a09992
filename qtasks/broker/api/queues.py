"""Operations on queues (contract 2.6)."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.bodies import read_object
from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest

KNOWN = ("queueName", "parallelism", "paused")


async def index(call: Call) -> Response:
    """List all queues."""
    call.query()
    found = await asyncio.to_thread(call.broker.queues)
    return json_response([each.to_json() for each in found])


async def show(call: Call) -> Response:
    """Show one queue."""
    call.query()
    found = await asyncio.to_thread(call.broker.queue, call.params["queue"])
    return json_response(found.to_json())


async def upsert(call: Call) -> Response:
    """Make or change a queue; a missing `paused` keeps what it is."""
    call.query()
    name, parallelism, paused = await _read(call)
    await asyncio.to_thread(call.broker.set_queue, name, parallelism, paused)
    return Response(status_code=200)


async def delete(call: Call) -> Response:
    """Drop a queue with what waits in it; 200 also if there is none."""
    call.query()
    await asyncio.to_thread(call.broker.delete_queue, call.params["queue"])
    return Response(status_code=200)


async def pause(call: Call) -> Response:
    """Start nothing more of a queue until it is resumed."""
    return await _set_paused(call, True)


async def resume(call: Call) -> Response:
    """Let a paused queue go on."""
    return await _set_paused(call, False)


async def _set_paused(call: Call, paused: bool) -> Response:
    call.query()
    await asyncio.to_thread(call.broker.set_paused, call.params["queue"], paused)
    return Response(status_code=200)


async def _read(call: Call) -> tuple[str, int, bool | None]:
    members = await read_object(call, '{"queueName": "mail", "parallelism": 2}')
    for key in members:
        if key not in KNOWN:
            raise BadRequest(f"unknown member {key[:64]!r}; known here: {', '.join(KNOWN)}")
    name, parallelism, paused = members.get("queueName"), members.get("parallelism", 1), members.get("paused")
    if not isinstance(name, str) or not name:
        raise BadRequest("queueName must be the name of a queue")
    if type(parallelism) is not int or parallelism < 1:
        raise BadRequest(f"parallelism must be an integer of at least 1, not {parallelism!r:.32}")
    if paused is not None and not isinstance(paused, bool):
        raise BadRequest("paused must be true or false")
    return name, parallelism, paused
