"""Results of tasks: our own addition to the wire, for `AsyncResult`."""

from __future__ import annotations

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.durations import parse_duration_ms

LONGEST_WAIT_MS = 60_000


async def show(call: Call) -> Response:
    """Say where a task is, waiting for its end up to `wait` (a duration, 60 s at most)."""
    text = call.query("wait").get("wait", ["0"])[-1]
    try:
        wait_ms = min(parse_duration_ms(text), LONGEST_WAIT_MS)
    except InvalidValue as error:
        raise BadRequest(f"wait: {error}") from error
    found = await call.broker.aresult(call.params["id"], wait_ms)
    return json_response(found.to_json())
