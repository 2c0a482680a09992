"""The dead letter queue: list, show, delete, replay (contract 2.8)."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from qtasks.broker.api.filters import NAMES, Values, bulk_values, read_filter
from qtasks.broker.api.incoming import refuse_schedule_options
from qtasks.broker.api.paging import page_size, shown
from qtasks.broker.api.routing import Call, json_response
from qtasks.broker.store.dead_letters import DeadLetterFilter
from qtasks.errors import BadRequest
from qtasks.protocol.headers import Options, parse_options
from qtasks.protocol.shapes import DeadLetter

MOST = 100
KNOWN = ("cursor", "count", "dlqIds", "responseStatus", *NAMES)


async def index(call: Call) -> Response:
    """List dead letters, newest first."""
    query = call.query(*KNOWN)
    page, following = await asyncio.to_thread(
        call.broker.dead_letters, _cursor(query), page_size(query, MOST), _filter(query)
    )
    return _page("messages", shown(page, DeadLetter.to_json), following)


async def show(call: Call) -> Response:
    """Show one dead letter."""
    call.query()
    found = await asyncio.to_thread(call.broker.dead_letter, call.params["id"])
    return json_response(found.to_json())


async def delete(call: Call) -> Response:
    """Delete one dead letter; 404 the second time."""
    call.query()
    await asyncio.to_thread(call.broker.delete_dead_letter, call.params["id"])
    return Response(status_code=200)


async def delete_many(call: Call) -> Response:
    """Delete dead letters by ids or filters, a page of them at a time."""
    values = await bulk_values(call, *KNOWN)
    deleted, following = await asyncio.to_thread(
        call.broker.delete_dead_letters, _filter(values), _cursor(values), page_size(values, MOST)
    )
    return _page("deleted", deleted, following)


async def replay(call: Call) -> Response:
    """Run one dead letter again as a new message; `Upstash-*` headers override its settings."""
    call.query()
    call.broker.check_open()
    options = _options(call)
    answer = await asyncio.to_thread(call.broker.replay, call.params["id"], options, _method(call, options))
    return json_response(answer.to_json(), 201)


async def replay_many(call: Call) -> Response:
    """Run dead letters again by ids or filters, a page of them at a time."""
    values = await bulk_values(call, *KNOWN)
    call.broker.check_open()
    options = _options(call)
    answers, following = await asyncio.to_thread(
        call.broker.replay_many,
        _filter(values),
        _cursor(values),
        page_size(values, MOST),
        options,
        _method(call, options),
    )
    return _page("responses", [each.to_json() for each in answers], following, status=201)


def _options(call: Call) -> Options:
    """Read the settings that go before the stored ones."""
    options = parse_options(call.headers)
    refuse_schedule_options(options)
    return options


def _method(call: Call, options: Options) -> str | None:
    """Give the method only if the request names one: otherwise the stored one stays."""
    return options.method if "upstash-method" in call.request.headers else None


def _filter(values: Values) -> DeadLetterFilter:
    """Ids go before all other filters."""
    ids = values.get("dlqids")
    if ids is not None:
        parts = (part.strip() for each in ids for part in each.split(","))
        return DeadLetterFilter(ids=tuple(dict.fromkeys(part for part in parts if part)))
    statuses = [part for each in values.get("responsestatus", ()) for part in each.split(",")]
    if not all(each.isdecimal() and len(each) <= 3 for each in statuses):
        raise BadRequest("responseStatus must be an HTTP status such as 500")
    return DeadLetterFilter(
        messages=read_filter(values), statuses=frozenset(int(each) for each in statuses) or None
    )


def _cursor(values: Values) -> str | None:
    given = values.get("cursor")
    return given[-1] if given else None


def _page(key: str, content: object, cursor: str | None, status: int = 200) -> Response:
    answer: dict[str, object] = {key: content}
    if cursor is not None:
        answer["cursor"] = cursor
    return json_response(answer, status)
