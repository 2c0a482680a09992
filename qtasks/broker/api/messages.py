"""Operations on single messages (contract 2.4)."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response


async def show(call: Call) -> Response:
    """Show a message that is pending or has just finished; 404 once it is gone."""
    call.query()
    found = await asyncio.to_thread(call.broker.message, call.params["id"])
    return json_response(found.to_json())
