"""Operations on URL groups, which paths call topics (contract 2.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from qtasks.client.call import JSON, Call, read_list, read_nothing, read_one, segment
from qtasks.protocol.resources import Endpoint, UrlGroup


def url_groups() -> Call[list[UrlGroup]]:
    """List the URL groups."""
    return Call("GET", "/v2/topics", read_list(UrlGroup.from_json))


def url_group(name: str) -> Call[UrlGroup]:
    """Ask for a URL group."""
    return Call("GET", f"/v2/topics/{segment(name)}", read_one(UrlGroup.from_json))


def delete_url_group(name: str) -> Call[None]:
    """Delete a URL group; there being none is no error."""
    return Call("DELETE", f"/v2/topics/{segment(name)}", read_nothing)


def set_group_headers(name: str, headers: Mapping[str, Sequence[str]]) -> Call[None]:
    """Set the headers that every message to a URL group has by default."""
    members = {"headers": {key: list(values) for key, values in headers.items()}}
    return Call("PATCH", f"/v2/topics/{segment(name)}", read_nothing, JSON, orjson.dumps(members))


def add_endpoints(name: str, endpoints: Sequence[Endpoint]) -> Call[None]:
    """Add endpoints, or give named ones a new URL; a missing URL group is made."""
    members = {"endpoints": [each.to_json() for each in endpoints]}
    return Call("POST", f"/v2/topics/{segment(name)}/endpoints", read_nothing, JSON, orjson.dumps(members))


def remove_endpoints(name: str, *, urls: Sequence[str] = (), names: Sequence[str] = ()) -> Call[None]:
    """Remove endpoints by their URLs or names; without its last one the URL group is gone."""
    endpoints = [{"url": each} for each in urls] + [{"name": each} for each in names]
    body = orjson.dumps({"endpoints": endpoints})
    return Call("DELETE", f"/v2/topics/{segment(name)}/endpoints", read_nothing, JSON, body)
