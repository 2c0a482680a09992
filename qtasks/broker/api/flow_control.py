"""Flow-control keys and global parallelism (contract 2.10).

Clients do not encode keys, so all that stands between the path's beginning and its last word is the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from qtasks.broker.api.routing import Call, json_response
from qtasks.errors import BadRequest, InvalidValue, NotFound
from qtasks.protocol import header_values as values
from qtasks.protocol.flow import parse_period

MOST = 1_000_000_000


async def index(call: Call) -> Response:
    """List the keys, those that contain `search` if it is given."""
    search = call.query("search").get("search", [""])[-1]
    found = await asyncio.to_thread(call.broker.flow_keys.all, search)
    return json_response([each.to_json() for each in found])


async def show(call: Call) -> Response:
    """Show one key."""
    call.query()
    found = await asyncio.to_thread(call.broker.flow_keys.one, call.params["key"])
    return json_response(found.to_json())


async def steer(call: Call) -> Response:
    """Pause, resume, pin, unpin or reset a key: the last segment of the path says which."""
    key, _, verb = call.params["key"].rpartition("/")
    act = VERBS.get(verb.lower())
    if not key or act is None:
        raise NotFound(f"no such operation on a flow control key: {verb[:32]!r}; known: {', '.join(VERBS)}")
    await act(call, key)
    return Response(status_code=200)


async def _pause(call: Call, key: str) -> None:
    call.query()
    await asyncio.to_thread(call.broker.flow_keys.set_paused, key, True)


async def _resume(call: Call, key: str) -> None:
    call.query()
    await asyncio.to_thread(call.broker.flow_keys.set_paused, key, False)


async def _pin(call: Call, key: str) -> None:
    query = {name: found[-1] for name, found in call.query("parallelism", "rate", "period").items()}
    parallelism, rate = (_limit(name, query.get(name)) for name in ("parallelism", "rate"))
    if parallelism is None and rate is None:
        raise BadRequest("pin needs parallelism or rate, such as ?parallelism=2 or ?rate=10&period=60")
    try:
        period_ms = parse_period(query.get("period", "1"))
    except InvalidValue as error:
        raise BadRequest(f"period: {error}") from error
    flow_keys = call.broker.flow_keys
    await asyncio.to_thread(
        lambda: flow_keys.pin(key, parallelism=parallelism, rate=rate, period_ms=period_ms)
    )


async def _unpin(call: Call, key: str) -> None:
    query = call.query("parallelism", "rate")
    parallelism, rate = (_flag(name, query.get(name, ["false"])[-1]) for name in ("parallelism", "rate"))
    flow_keys = call.broker.flow_keys
    await asyncio.to_thread(lambda: flow_keys.unpin(key, parallelism=parallelism, rate=rate))


async def _reset_rate(call: Call, key: str) -> None:
    call.query()
    await asyncio.to_thread(call.broker.flow_keys.reset_rate, key)


async def global_parallelism(call: Call) -> Response:
    """Say how many deliveries may be in flight in all, and how many are."""
    call.query()
    most, active = await asyncio.to_thread(call.broker.global_parallelism)
    return json_response({"parallelismMax": most, "parallelismCount": active})


def _limit(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text[:10]) <= MOST or len(text) > 10:
        raise BadRequest(f"{name} must be an integer of at least 1, not {text[:32]!r}")
    return int(text)


def _flag(name: str, text: str) -> bool:
    try:
        return values.read_flag(text)
    except InvalidValue as error:
        raise BadRequest(f"{name}: {error}") from error


VERBS: dict[str, Callable[[Call, str], Awaitable[None]]] = {
    "pause": _pause,
    "resume": _resume,
    "pin": _pin,
    "unpin": _unpin,
    "resetrate": _reset_rate,
    "reset": _reset_rate,
}
