"""Showing messages and calling them off (contract 2.4)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from starlette.responses import Response

from qtasks.broker.api.filters import NAMES, Values, alternatives, bulk_values, read_filter
from qtasks.broker.api.paging import page_size
from qtasks.broker.api.routing import Call, json_response
from qtasks.broker.store.filters import MessageFilter
from qtasks.errors import BadRequest

MOST = 500
TASK = "task"


async def show(call: Call) -> Response:
    """Show a message that is pending or has just finished; 404 once it is gone."""
    call.query()
    found = await asyncio.to_thread(call.broker.message, call.params["id"])
    return json_response(found.to_json())


async def cancel(call: Call) -> Response:
    """Call one message off; 404 if it is unknown or has finished."""
    call.query()
    await asyncio.to_thread(call.broker.cancel_one, call.params["id"])
    return json_response({"cancelled": 1})


async def cancel_many(call: Call) -> Response:
    """Call off the messages of a list or a filter; without either, all of them."""
    ours = () if call.broker.config.strict else (TASK,)
    values = await bulk_values(call, "count", *ours, *NAMES)
    if call.raw_path.endswith(b"/") and not values:
        # An id that came out empty would otherwise cancel everything (contract 2.4).
        raise BadRequest(
            "DELETE /v2/messages/ needs a message id or a filter; to cancel all, leave out the slash"
        )
    ids = values.get("messageids")
    if ids is not None:
        parts = [part.strip() for each in ids for part in each.split(",")]
        count = await asyncio.to_thread(call.broker.cancel, parts)
    else:
        limit = page_size(values, MOST) if "count" in values else None
        count = await asyncio.to_thread(call.broker.cancel_matching, _filter(values), limit)
    return json_response({"cancelled": count})


def _filter(values: Values) -> MessageFilter:
    """Read the filters, and ours: the names of tasks, which only what is pending is asked for."""
    wanted, names = read_filter(values), values.get(TASK)
    return wanted if names is None else replace(wanted, tasks=alternatives(names))
