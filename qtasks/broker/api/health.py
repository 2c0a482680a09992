"""Whether the broker is up, and how it does: for load balancers, supervisors and Prometheus."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response
from qtasks.broker.exposition import CONTENT_TYPE, render
from qtasks.broker.store import depths


async def livez(call: Call) -> Response:
    """Answer 200 as long as the process can answer at all."""
    return json_response({"status": "ok"})


async def readyz(call: Call) -> Response:
    """Answer 200 if messages are accepted and delivered now, else 503 with the reason.

    `risks` says what could lose accepted messages, where there is anything.
    """
    problem = await asyncio.to_thread(call.broker.problem)
    if problem is not None:
        return json_response({"status": "unavailable", "error": problem}, 503)
    risks = call.broker.database.risks
    return json_response({"status": "ok", "risks": list(risks)} if risks else {"status": "ok"})


async def metrics(call: Call) -> Response:
    """Answer in the text format of Prometheus."""
    call.query()
    broker = call.broker
    problem = await asyncio.to_thread(broker.problem)
    found = await broker.database.read(depths.look)
    families = broker.metrics.families(found, broker.clock.now(), is_ready=problem is None)
    return Response(render(families).encode(), headers={"Content-Type": CONTENT_TYPE})
