"""The dead letter queue (contract 2.8)."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.paging import page_size
from qtasks.broker.api.routing import Call, json_response


async def index(call: Call) -> Response:
    """List dead letters, newest first."""
    query = call.query("cursor", "count")
    cursor = query.get("cursor", [None])[-1]
    page, following = await asyncio.to_thread(call.broker.dead_letters, cursor, page_size(query, 100))
    answer: dict[str, object] = {"messages": [each.to_json() for each in page]}
    if following is not None:
        answer["cursor"] = following
    return json_response(answer)


async def show(call: Call) -> Response:
    """Show one dead letter."""
    call.query()
    found = await asyncio.to_thread(call.broker.dead_letter, call.params["id"])
    return json_response(found.to_json())
