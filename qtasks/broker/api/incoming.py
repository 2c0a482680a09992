"""Reads what a request asks to be sent: its destination, options and body (contract 3, 6).

A URL group stands for a message to each of its endpoints; its default headers go last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from qtasks.broker.api.routing import Call
from qtasks.broker.store.url_groups import StoredGroup
from qtasks.errors import BadRequest
from qtasks.protocol.alike import parse_alike
from qtasks.protocol.destinations import API_NAMES, Destination
from qtasks.protocol.headers import Options
from qtasks.protocol.received import Pairs, Received
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.values import dataclass

_OF_SCHEDULES = {
    "Upstash-Cron": "cron",
    "Upstash-Schedule-Id": "schedule_id",
    "Upstash-Queue-Name": "schedule_queue",
    "Qtasks-Every": "every",
    "Qtasks-Catch-Up": "catch_up",
    "Qtasks-Overlap": "overlap",
    "Qtasks-Expires-After": "expires_after_ms",
}
_ASKED_OF_SCHEDULES = attrgetter(*_OF_SCHEDULES.values())
_NOTHING_ASKED = (None,) * len(_OF_SCHEDULES)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: one message, or one for each endpoint of a group."""

    messages: Sequence[Outgoing]
    is_group: bool

    def answer(self, answers: Sequence[Enqueued]) -> object:
        """Make the JSON of the answers to these messages: of a group it is a list (contract 2.1)."""
        if not self.is_group:
            return answers[0].to_json()
        urls = [each.destination for each in self.messages]
        return [replace(each, url=url).to_json() for each, url in zip(answers, urls, strict=True)]


async def find_group(call: Call, destination: Destination) -> StoredGroup | None:
    """Give the URL group that a destination names; None for a URL or an API name.

    Raises `NotFound` or `BadRequest` for a group that is none.
    """
    name = destination.group
    if name is None or name in API_NAMES:
        return None
    return await asyncio.to_thread(call.broker.url_groups.destination, name)


async def read_asked(
    call: Call,
    destination: Destination,
    headers: Pairs | Received,
    body: bytes,
    *,
    config: Pairs = (),
    queue: str | None = None,
    token_in_header: bool = False,
) -> Asked:
    """Put together what is asked for; raises `BadRequest` or `NotFound`."""
    group = None if destination.group is None else await find_group(call, destination)
    defaults = group.headers if group else ()
    options = parse_alike(headers, config, defaults=defaults, token_in_header=token_in_header)
    asked = Outgoing(destination.url or destination.group or "", body, options, queue, call.caller_ip)
    if group is None:
        return Asked([asked], is_group=False)
    name = group.view.name
    endpoints = group.view.endpoints
    return Asked(
        [
            replace(asked, destination=each.url, group_name=name, endpoint_name=each.name)
            for each in endpoints
        ],
        is_group=True,
    )


def refuse_schedule_options(options: Options) -> None:
    """Refuse what only a schedule can have, on what is to be sent now (contract 3.0)."""
    asked = _ASKED_OF_SCHEDULES(options)
    if asked == _NOTHING_ASKED:
        return
    for header, value in zip(_OF_SCHEDULES, asked, strict=True):
        if value is not None:
            raise BadRequest(f"{header}: only a schedule can have it; make one with POST /v2/schedules/…")
