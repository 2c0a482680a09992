"""The log of what befell messages: `GET /v2/logs` and, for the SDKs, `/v2/events` (contract 2.9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from starlette.responses import Response

from qtasks.broker.api.filters import NAMES, read_filter
from qtasks.broker.api.paging import page_size, shown
from qtasks.broker.api.routing import Call, json_response
from qtasks.broker.store.logs import LogFilter, parse_place
from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.shapes import IN_PROGRESS_STATES, LogEntry, State

# `groupBy` belongs to the log of workflows, and clients may send it; it changes nothing here.
KNOWN = ("cursor", "count", "state", "trimBody", "groupBy", *NAMES)


async def logs(call: Call) -> Response:
    """List entries, newest first, 100 to a page at most."""
    return await _page(call, "logs", 100)


async def events(call: Call) -> Response:
    """List entries, newest first, 1000 to a page at most."""
    return await _page(call, "events", 1000)


async def _page(call: Call, key: str, most: int) -> Response:
    query = call.query(*KNOWN)
    cursor = query.get("cursor", [None])[-1]
    place = None if cursor is None else parse_place(cursor)
    if cursor is not None and place is None:
        raise BadRequest(f"cursor {cursor[:64]!r} is not one that this API gave")
    entries, following = await asyncio.to_thread(
        call.broker.log, _filter(query), place, page_size(query, most)
    )
    trim = _trim(query)
    page: dict[str, object] = {key: shown(entries, lambda entry: trim(entry).to_json())}
    if following is not None:
        page["cursor"] = following
    return json_response(page)


def _trim(query: Mapping[str, Sequence[str]]) -> Callable[[LogEntry], LogEntry]:
    """Give what shortens the bodies of entries to `trimBody` bytes, -1 for none of them."""
    text = query.get("trimbody", [""])[-1]
    if not text:
        return lambda entry: entry
    if text != "-1" and (not text.isdecimal() or len(text) > 9):
        raise BadRequest(f"trimBody must be a number of bytes, or -1 for no bodies, not {text[:32]!r}")
    most = max(0, int(text))
    return lambda entry: replace(entry, body=entry.body[:most], response_body=entry.response_body[:most])


def _filter(query: Mapping[str, Sequence[str]]) -> LogFilter:
    states: set[State] = set()
    for value in query.get("state", ()):
        for name in value.split(","):
            try:
                state = State.parse(name.strip())
            except InvalidValue as error:
                raise BadRequest(f"state: {error}") from error
            states |= IN_PROGRESS_STATES if state is State.IN_PROGRESS else {state}
    return LogFilter(messages=read_filter(query), states=frozenset(states) or None)
