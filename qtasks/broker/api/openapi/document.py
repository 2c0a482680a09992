"""Puts the OpenAPI document together.

Its operations stand in `messaging` and `resources`; tests hold them to the routes, and all of it to what
is truly answered.
"""

from __future__ import annotations

from collections.abc import Iterator

from qtasks.broker.api.openapi import messaging, resources
from qtasks.broker.api.openapi.bodies import SCHEMAS
from qtasks.broker.api.openapi.operation import RESPONSES
from qtasks.broker.api.openapi.parameters import PARAMETERS
from qtasks.broker.api.openapi.schemas import Json
from qtasks.version import VERSION

OPERATIONS = (*messaging.OPERATIONS, *resources.OPERATIONS)

_ABOUT = """\
The HTTP API of a qtasks broker: version 2 of QStash's REST API under `/v2`, and a little beside it.

Literal parts of a path match in any case, and a slash may follow. Another method on a path is answered with
405 and `Allow`, an unknown path with 404. Names in a query match in any case. Operations that need a token
refuse a query parameter that is not described, except where a destination stands in the path: there it
belongs to the destination.

A header `Upstash-Forward-NAME` reaches the destination as `NAME`. Headers that begin with `Upstash-` and are
not described mean nothing.

Members may be added to the objects of an answer; pass over those that you do not know."""

_SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {
        "type": "apiKey",
        "in": "query",
        "name": "qstash_token",
        "description": "For senders that cannot set headers. `Authorization` goes before it.",
    },
}


def document(*, strict: bool = False) -> Json:
    """Make the OpenAPI document of a broker; a strict one has less."""
    paths: Json = {}
    for each in OPERATIONS:
        if not (strict and each.is_extra):
            paths.setdefault(each.template, {})[each.method.lower()] = each.to_json(strict=strict)
    components: Json = {"schemas": SCHEMAS, "parameters": PARAMETERS, "responses": RESPONSES}
    return {
        "openapi": "3.1.0",
        "info": {"title": "qtasks broker", "version": VERSION, "description": _ABOUT},
        "security": [{name: []} for name in _SECURITY],
        "paths": paths,
        "components": {**_used(components, paths), "securitySchemes": _SECURITY},
    }


def _used(components: Json, paths: Json) -> Json:
    """Leave out what no operation refers to, itself or through others."""
    found: dict[str, Json] = {kind: {} for kind in components}
    open_ends = [*_references(paths)]
    while open_ends:
        _, _, kind, name = open_ends.pop().split("/")
        if name not in found[kind]:
            found[kind][name] = components[kind][name]
            open_ends.extend(_references(components[kind][name]))
    return {kind: dict(sorted(named.items())) for kind, named in found.items()}


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(target := part.get("$ref"), str):
            yield target
        for each in part.values():
            yield from _references(each)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)
