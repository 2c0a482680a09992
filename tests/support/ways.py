"""The ways in which a setting of contract 3 reaches a message, and what can be seen of it afterwards.

Tests of the header table send one setting in each of its ways and compare what comes of it. Whatever a
setting means is theirs to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from qtasks.broker.store.records import Claim, Reply
from tests.support.broker import HOOK
from tests.support.contract import Bench

GROUP = "orders"
QUEUE = "mail"
EVERY_MINUTE = "* * * * *"


class Way(StrEnum):
    """How a setting is given."""

    HEADER = "header of a publish"
    QUERY = "query of a publish"
    DEFAULT = "default of a group"
    BATCH = "batch item"
    ENQUEUE = "header of an enqueue"
    ENQUEUE_QUERY = "query of an enqueue"
    ENQUEUE_DEFAULT = "default of a group that is enqueued to"
    BATCH_QUEUE = "batch item with a queue"
    SCHEDULE = "header of a schedule"
    SCHEDULE_QUERY = "query of a schedule"
    CRON = "header of a publish with a cron"


PUBLISHED = (Way.HEADER, Way.QUERY, Way.DEFAULT, Way.BATCH)
ENQUEUED = (Way.ENQUEUE, Way.ENQUEUE_QUERY, Way.ENQUEUE_DEFAULT, Way.BATCH_QUEUE)
SCHEDULED = (Way.SCHEDULE, Way.SCHEDULE_QUERY, Way.CRON)
EVERY_WAY = (*PUBLISHED, *ENQUEUED, *SCHEDULED)

ONE_OF_EACH = (Way.HEADER, Way.BATCH, Way.ENQUEUE, Way.SCHEDULE)
"""For what was seen to be read in every way already."""

in_every_way = pytest.mark.parametrize("way", EVERY_WAY)
in_each_kind_of_way = pytest.mark.parametrize("way", ONE_OF_EACH)
without_a_queue = pytest.mark.parametrize("way", [*PUBLISHED, *SCHEDULED])
not_by_a_schedule = pytest.mark.parametrize("way", [*PUBLISHED, *ENQUEUED])
by_a_schedule = pytest.mark.parametrize("way", SCHEDULED)

_BY_QUERY = {Way.QUERY, Way.ENQUEUE_QUERY, Way.SCHEDULE_QUERY}
_BY_DEFAULT = {Way.DEFAULT, Way.ENQUEUE_DEFAULT}


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen of one message: as it was stored, its log when all was done, and its attempts.

    `schedule` is how its schedule was shown before it fired, if it has one.
    """

    message_id: str
    message: dict[str, Any]
    log: list[dict[str, Any]]
    attempts: list[Claim]
    schedule: dict[str, Any] | None = None

    def logged(self, member: str) -> list[Any]:
        """Give the different values that the entries of the log have for one member."""
        found: list[Any] = []
        for entry in self.log:
            if entry.get(member) not in found:
                found.append(entry.get(member))
        return found

    def is_scheduled_with(self, **members: object) -> bool:
        """Say whether the schedule shows these members; what has no schedule shows nothing else."""
        if self.schedule is None:
            return True
        assert {name: self.schedule.get(name) for name in members} == members
        return True

    @property
    def delivered(self) -> dict[str, str]:
        """The headers of its first attempt that are the message's own."""
        return dict(self.attempts[0].headers)


def in_query(settings: Mapping[str, str]) -> str:
    """Write settings as the query of a request, names in lower case."""
    return "&".join(f"{name.lower()}={quote(value, safe='')}" for name, value in settings.items())


async def attempt(
    bench: Bench,
    way: Way,
    settings: Mapping[str, str],
    *,
    destination: str = HOOK,
    body: bytes = b"hello",
) -> httpx.Response:
    """Send one message with settings that are given in one way; give the answer, a refusal perhaps.

    Defaults of a group may be refused when they are set, or when the group is published to.
    """
    if way in _BY_DEFAULT:
        await bench.group(GROUP, [destination])
        answer = await bench.http.patch(f"/v2/topics/{GROUP}", json={"headers": dict(settings)})
        if answer.is_error:
            return answer
        destination, settings = GROUP, {}
    if way in (Way.BATCH, Way.BATCH_QUEUE):
        item: dict[str, object] = {"destination": destination, "headers": settings, "body": body.decode()}
        return await bench.http.post(
            "/v2/batch", json=[item | ({"queue": QUEUE} if way is Way.BATCH_QUEUE else {})]
        )
    headers = dict(settings)
    if way in SCHEDULED:
        headers = {"Upstash-Cron": EVERY_MINUTE, **settings}
    if way in _BY_QUERY:
        headers, destination = {}, f"{destination}?{in_query(headers)}"
    verb = "schedules" if way in (Way.SCHEDULE, Way.SCHEDULE_QUERY) else "publish"
    verb = f"enqueue/{QUEUE}" if way in ENQUEUED else verb
    return await bench.http.post(f"/v2/{verb}/{destination}", content=body, headers=headers)


async def trace(
    bench: Bench,
    way: Way,
    settings: Mapping[str, str],
    *,
    destination: str = HOOK,
    body: bytes = b"hello",
    replies: Sequence[Reply] = (),
) -> Trace:
    """Send one message as `attempt` does, let its schedule fire, deliver what is due, and look at it all."""
    answer = await attempt(bench, way, settings, destination=destination, body=body)
    assert answer.is_success, f"{way}: {answer.status_code} {answer.text}"
    schedule: dict[str, Any] | None = None
    if way in SCHEDULED:
        schedule = await bench.get(f"/v2/schedules/{answer.json()['scheduleId']}")
        message_id = await fired(bench, answer.json()["scheduleId"])
    else:
        accepted = answer.json()
        while isinstance(accepted, list):
            [accepted] = accepted
        message_id = accepted["messageId"]
    message = await bench.message(message_id)
    bench.rig.deliverer.will(*replies)
    attempts = [each for each in await bench.run() if each.id == message_id]
    return Trace(message_id, message, await bench.entries(message_id), attempts, schedule)


async def fired(bench: Bench, schedule_id: str) -> str:
    """Let a schedule of every minute fire once more; give the id of the one message that this made."""
    before = await _made(bench, schedule_id)
    await bench.tick()
    [message_id] = [each for each in await _made(bench, schedule_id) if each not in before]
    return message_id


async def _made(bench: Bench, schedule_id: str) -> list[str]:
    page = await bench.get(f"/v2/events?state=CREATED&scheduleId={schedule_id}")
    return [each["messageId"] for each in page["events"]]


def redacted(text: str) -> str:
    """Say what is shown instead of a value that its sender wants hidden."""
    return f"REDACTED:{sha256(text.encode()).hexdigest()}"


async def is_untouched(bench: Bench) -> bool:
    """Say whether no message and no schedule has been stored."""
    logged, schedules = await bench.get("/v2/logs"), await bench.get("/v2/schedules")
    return bool(logged == {"logs": []} and schedules == [])
