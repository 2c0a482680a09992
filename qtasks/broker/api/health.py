"""Whether the broker is up: for load balancers and supervisors, without a token."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response


async def livez(call: Call) -> Response:
    """Answer 200 as long as the process can answer at all."""
    return json_response({"status": "ok"})


async def readyz(call: Call) -> Response:
    """Answer 200 if messages are accepted and delivered now, else 503 with the reason."""
    problem = await asyncio.to_thread(call.broker.problem)
    if problem is not None:
        return json_response({"status": "unavailable", "error": problem}, 503)
    return json_response({"status": "ok"})
