"""Results and progress of tasks: our own addition to the wire, for `AsyncResult` and `Context`."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.bodies import read_object
from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.durations import parse_duration_ms
from qtasks.protocol.results import MOST_IDS, ProgressReport

LONGEST_WAIT_MS = 60_000


async def show(call: Call) -> Response:
    """Say where a task is, waiting for its end up to `wait` (a duration, 60 s at most)."""
    found = await call.broker.results.afind(call.params["id"], _wait_ms(call))
    return json_response(found.to_json())


async def query(call: Call) -> Response:
    """Say which of some tasks have settled, waiting for the first of them up to `wait`."""
    wait_ms = _wait_ms(call)
    members = await read_object(call, '{"ids": ["tsk_1"]}')
    ids = members.get("ids")
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise BadRequest("ids must be a list of task ids")
    if len(ids) > MOST_IDS:
        raise BadRequest(f"ids has {len(ids)} task ids, of which one question takes {MOST_IDS} at most")
    return json_response({"settled": await call.broker.results.asettled(ids, wait_ms)})


async def forget(call: Call) -> Response:
    """Drop the value or error that is kept of a task."""
    call.query()
    is_forgotten = await asyncio.to_thread(call.broker.results.forget, call.params["id"])
    return json_response({"forgotten": int(is_forgotten)})


async def report(call: Call) -> Response:
    """Note how far a task has come; 404 if it is not under way."""
    call.query()
    members = await read_object(call, '{"done": 3, "total": 10, "note": "Importing"}')
    try:
        progress = ProgressReport.of(members.get("done"), members.get("total"), members.get("note"))
    except InvalidValue as error:
        raise BadRequest(str(error)) from error
    await asyncio.to_thread(call.broker.results.report, {call.params["id"]: progress})
    return Response(status_code=200)


async def cancel(call: Call) -> Response:
    """Call off the message with which a task is under way, if there is one."""
    call.query()
    is_called_off = await asyncio.to_thread(call.broker.cancel_task, call.params["id"])
    return json_response({"cancelled": int(is_called_off)})


def _wait_ms(call: Call) -> int:
    text = call.query("wait").get("wait", ["0"])[-1]
    try:
        return min(parse_duration_ms(text), LONGEST_WAIT_MS)
    except InvalidValue as error:
        raise BadRequest(f"wait: {error}") from error
