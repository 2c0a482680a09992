"""Signing keys (contract 2.11), and our own addition: named tokens."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.bodies import read_object, text_member
from qtasks.broker.api.routing import Call, json_response
from qtasks.broker.keys import fingerprint
from qtasks.broker.store.tokens import StoredToken
from qtasks.broker.tokens import Scope
from qtasks.errors import BadRequest


async def show(call: Call) -> Response:
    """Show both signing keys, to whom they are needed for verifying deliveries."""
    call.query()
    return _pair(call.broker.keys.pair)


async def rotate(call: Call) -> Response:
    """Sign with the next key from now on, and make a new next one."""
    call.query()
    return _pair(await asyncio.to_thread(call.broker.rotate_keys))


async def status(call: Call) -> Response:
    """Say which keys there are, by fingerprints, when they were rotated and which of them has signed."""
    call.query()
    ring = call.broker.keys
    current, following = map(fingerprint, ring.pair)
    members: dict[str, object] = {"current": current, "next": following, "canRotate": ring.is_ours}
    if ring.rotated_at is not None:
        members["rotatedAt"] = ring.rotated_at
    members["signed"] = [
        {"key": each.fingerprint, "attempts": each.attempts, "lastAt": each.last_at} for each in ring.uses()
    ]
    return json_response(members)


def _pair(pair: tuple[str, str]) -> Response:
    return json_response({"current": pair[0], "next": pair[1]})


async def tokens(call: Call) -> Response:
    """List the named tokens; nobody can find out their values."""
    call.query()
    found = await asyncio.to_thread(call.broker.tokens.all)
    return json_response([_token(each) for each in found])


async def make_token(call: Call) -> Response:
    """Make a token, whose value only this answer shows."""
    call.query()
    members = await read_object(call, '{"name": "dashboard", "scope": "read-only"}')
    name, scope = text_member(members, "name"), text_member(members, "scope") or Scope.FULL.value
    if scope not in list(Scope):
        raise BadRequest(f"scope must be one of {', '.join(Scope)}, not {scope[:32]!r}")
    stored, value = await asyncio.to_thread(call.broker.tokens.make, name, Scope(scope))
    return json_response(_token(stored) | {"token": value}, 201)


async def revoke_token(call: Call) -> Response:
    """End a token at once."""
    call.query()
    await asyncio.to_thread(call.broker.tokens.revoke, call.params["name"])
    return Response(status_code=200)


def _token(stored: StoredToken) -> dict[str, object]:
    return {"name": stored.name, "scope": stored.scope, "createdAt": stored.created_at}
