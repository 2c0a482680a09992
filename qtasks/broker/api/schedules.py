"""Schedules: make, list, show, pause, delete (contract 2.7)."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response, known_pairs
from qtasks.protocol.destinations import Target, split_target
from qtasks.protocol.headers import parse_options
from qtasks.protocol.shapes import Outgoing

IN_SCHEDULES = 2  # segments before the destination: v2, schedules


async def create(call: Call) -> Response:
    """Make a schedule, or replace the one of its id; the answer is its id."""
    return await create_from(call, split_target(call.raw_path, call.raw_query, IN_SCHEDULES))


async def create_from(call: Call, target: Target) -> Response:
    """Make a schedule of a request that has been taken apart.

    Defaults of a URL group are not read here: they are those of the group at each fire.
    """
    call.broker.check_open()
    config = known_pairs(target.config, call.broker)
    asked = Outgoing(
        target.destination.url or target.destination.group or "",
        await call.body(call.broker.config.max_message_bytes),
        parse_options(call.headers, config, token_in_header=call.token_in_header),
        caller_ip=call.caller_ip,
    )
    schedule_id = await asyncio.to_thread(call.broker.schedules.create, asked)
    return json_response({"scheduleId": schedule_id})


async def index(call: Call) -> Response:
    """List all schedules."""
    call.query()
    found = await asyncio.to_thread(call.broker.schedules.all)
    return json_response([each.to_json() for each in found])


async def show(call: Call) -> Response:
    """Show one schedule."""
    call.query()
    found = await asyncio.to_thread(call.broker.schedules.one, call.params["id"])
    return json_response(found.to_json())


async def delete(call: Call) -> Response:
    """Delete a schedule; its messages go on, and there being none is no error."""
    call.query()
    await asyncio.to_thread(call.broker.schedules.delete, call.params["id"])
    return Response(status_code=200)


async def pause(call: Call) -> Response:
    """Fire no more until the schedule is resumed; what falls due meanwhile is not made up for."""
    return await _set_paused(call, True)


async def resume(call: Call) -> Response:
    """Let a paused schedule go on with its next fire."""
    return await _set_paused(call, False)


async def _set_paused(call: Call, paused: bool) -> Response:
    call.query()
    await asyncio.to_thread(call.broker.schedules.set_paused, call.params["id"], paused)
    return Response(status_code=200)
