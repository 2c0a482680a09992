"""URL groups, which paths and JSON call topics (contract 2.5)."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.bodies import header_pairs, read_object, text_member
from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest
from qtasks.protocol.resources import Endpoint

EXAMPLE = '{"endpoints": [{"url": "https://app.example/hook", "name": "billing"}]}'


async def index(call: Call) -> Response:
    """List all groups."""
    call.query()
    found = await asyncio.to_thread(call.broker.url_groups.all)
    return json_response([each.to_json() for each in found])


async def show(call: Call) -> Response:
    """Show one group."""
    call.query()
    found = await asyncio.to_thread(call.broker.url_groups.one, call.params["name"])
    return json_response(found.view.to_json())


async def delete(call: Call) -> Response:
    """Delete a group; there being none is no error."""
    call.query()
    await asyncio.to_thread(call.broker.url_groups.delete, call.params["name"])
    return Response(status_code=200)


async def add_endpoints(call: Call) -> Response:
    """Add endpoints, or give named ones a new URL; the group is made if it is missing."""
    pairs = await _endpoints(call)
    if any(url is None for url, _ in pairs):
        raise BadRequest(f"every endpoint needs a url: {EXAMPLE}")
    endpoints = [Endpoint(url or "", name) for url, name in pairs]
    await asyncio.to_thread(call.broker.url_groups.add, call.params["name"], endpoints)
    return Response(status_code=200)


async def remove_endpoints(call: Call) -> Response:
    """Remove endpoints by name or URL; without its last one the group is gone."""
    pairs = await _endpoints(call)
    await asyncio.to_thread(call.broker.url_groups.remove, call.params["name"], pairs)
    return Response(status_code=200)


async def set_headers(call: Call) -> Response:
    """Set the headers that every message to the group has by default."""
    call.query()
    members = await read_object(call, '{"headers": {"Upstash-Retries": "3"}}')
    pairs = header_pairs(members.get("headers"))
    await asyncio.to_thread(call.broker.url_groups.set_headers, call.params["name"], pairs)
    return Response(status_code=200)


async def _endpoints(call: Call) -> list[tuple[str | None, str | None]]:
    """Read (url, name) of the endpoints in the body; of each at least one is given."""
    call.query()
    members = await read_object(call, EXAMPLE)
    endpoints = members.get("endpoints")
    if not isinstance(endpoints, list) or not endpoints:
        raise BadRequest(f"the body must list endpoints: {EXAMPLE}")
    pairs: list[tuple[str | None, str | None]] = []
    for each in endpoints:
        if not isinstance(each, dict):
            raise BadRequest(f"an endpoint must be an object: {EXAMPLE}")
        pair = (text_member(each, "url") or None, text_member(each, "name") or None)
        if pair == (None, None):
            raise BadRequest(f"an endpoint needs a url or a name: {EXAMPLE}")
        pairs.append(pair)
    return pairs
