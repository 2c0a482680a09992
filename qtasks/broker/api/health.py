"""Whether the broker is up: for load balancers and supervisors, without a token."""

from __future__ import annotations

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response


async def livez(call: Call) -> Response:
    """Answer 200 as long as the process can answer at all."""
    return json_response({"status": "ok"})
