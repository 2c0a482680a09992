"""What the API must show of what the oracle knows, and the comparison of the two."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from tests.support.asgi import Answered
from tests.support.mortal import MortalBroker
from tests.support.oracle import Oracle
from tests.support.oracle_values import READABLE_MS, Entry, Key, Message, Schedule, Stage, Wanted

Members = dict[str, Any]


async def compare(broker: MortalBroker, oracle: Oracle) -> None:
    """Hold everything that the API lists against the oracle; raises `AssertionError`."""
    logs = await _read_logs(broker, oracle)
    unseen = [(each.wanted, each.report) for each in oracle.expected]
    assert not unseen, f"the broker did not make {unseen}"
    for id_, message in oracle.messages.items():
        assert logs.pop(id_, []) == message.log, f"the log of {id_}: {message.wanted}"
    assert not logs, f"the log knows others: {logs}"
    await _compare_letters(broker, oracle)
    shown = {each["name"]: each for each in await broker.ask("GET", "/v2/queues")}
    assert {name: _queue_shown(each) for name, each in shown.items()} == _queues(oracle)
    keys = {each["flowControlKey"]: each for each in await broker.ask("GET", "/v2/flowControl")}
    assert keys == {name: _key(oracle, key) for name, key in oracle.keys.items()}
    schedules = {each["scheduleId"]: each for each in await broker.ask("GET", "/v2/schedules")}
    assert schedules.keys() == oracle.schedules.keys()
    for name, schedule in oracle.schedules.items():
        assert _part(schedules[name], _schedule(schedule)) == _schedule(schedule), name
    groups = {each["name"]: each["endpoints"] for each in await broker.ask("GET", "/v2/topics")}
    assert groups == {name: [_endpoint(*each) for each in known] for name, known in oracle.groups.items()}
    everywhere = await broker.ask("GET", "/v2/globalParallelism")
    assert everywhere == {"parallelismMax": oracle.concurrency, "parallelismCount": len(oracle.in_flight)}


async def _read_logs(broker: MortalBroker, oracle: Oracle) -> dict[str, list[Entry]]:
    """Give the log of every message, oldest first, and make known to the oracle who is new."""
    logs: dict[str, list[Entry]] = defaultdict(list)
    entries = [each async for each in pages(broker, "/v2/events", "events")]
    for each in reversed(entries):
        if each["state"] == "CREATED":
            oracle.recognise(each["messageId"], each["url"], base64.b64decode(each.get("body", "")))
        logs[each["messageId"]].append((each["state"], each["time"], each.get("nextDeliveryTime")))
    return logs


async def pages(broker: MortalBroker, path: str, key: str) -> AsyncIterator[Members]:
    """Read a listing to its end, page by page."""
    query = ""
    while True:
        page = await broker.ask("GET", path + query)
        for each in page[key]:
            yield each
        if "cursor" not in page:
            return
        query = f"?cursor={page['cursor']}"


async def _compare_letters(broker: MortalBroker, oracle: Oracle) -> None:
    shown = [each async for each in pages(broker, "/v2/dlq", "messages")]
    known = oracle.listed()
    assert [each["messageId"] for each in shown] == [each.message.id for each in known]
    for one, letter in zip(shown, known, strict=True):
        letter.id = letter.id or one["dlqId"]
        expected = {
            **message_shown(letter.message),
            "dlqId": letter.id,
            "responseStatus": letter.outcome.status,
            "responseBody": letter.outcome.body.decode() or None,
        }
        assert _part(one, expected) == expected
        assert one["dlqId"].startswith(f"{letter.died_at}-")
        told = letter.message.told_letter_id
        assert told in (None, letter.id), f"the failure callback of {one['messageId']} spoke of {told}"


def check_message(oracle: Oracle, message: Message, answer: Answered) -> None:
    """Hold what the API shows of one message against the oracle; it is gone some time after its end."""
    if message.is_done and oracle.now > message.log[-1][1] + READABLE_MS:
        assert answer.status == 404, (
            f"{message.id} is shown {oracle.now - message.log[-1][1]} ms after its end"
        )
        return
    assert answer.status == 200, f"{message.id} is {message.stage.name}, and yet: {answer.body!r}"
    assert _part(answer.json, message_shown(message)) == message_shown(message)


def message_shown(message: Message) -> Members:
    """Say what the API must show of a message."""
    wanted, settings = message.wanted, message.wanted.settings
    limits = settings.limits
    return {
        "messageId": message.id,
        "url": wanted.url,
        "body": wanted.body.decode() or None,
        "maxRetries": settings.max_retries,
        "notBefore": message.not_before,
        "createdAt": message.created_at,
        "labels": list(settings.labels) or None,
        "retryDelayExpression": settings.expression,
        "flowControlKey": limits and limits.key,
        "rate": limits and limits.rate,
        "parallelism": limits and limits.parallelism,
        "period": limits and limits.period_s,
        **_origin(wanted),
    }


def _origin(wanted: Wanted) -> Members:
    return {
        "queueName": wanted.queue,
        "topicName": wanted.group,
        "endpointName": wanted.endpoint,
        "scheduleId": wanted.schedule,
    }


def _part(shown: Members, expected: Members) -> Members:
    """Give the members that are spoken of; None is one that must be absent."""
    return {name: shown.get(name) for name in expected}


def _queues(oracle: Oracle) -> dict[str, tuple[int, bool, int]]:
    members = [each.queue for each in oracle.messages.values() if not each.is_done]
    return {
        name: (queue.parallelism, queue.is_paused, sum(each is queue for each in members))
        for name, queue in oracle.queues.items()
    }


def _queue_shown(shown: Members) -> tuple[int, bool, int]:
    return shown["parallelism"], shown["paused"], shown["lag"]


def _key(oracle: Oracle, key: Key) -> Members:
    stages = [each.stage for each in oracle.messages.values() if each.key is key]
    return {
        "flowControlKey": key.name,
        "waitListSize": stages.count(Stage.READY),
        "parallelismMax": key.parallelism or 0,
        "parallelismCount": stages.count(Stage.ACTIVE),
        "rateMax": key.rate or 0,
        "rateCount": key.started(oracle.now) if key.rate else 0,
        "ratePeriod": key.period_s,
        "ratePeriodStart": key.window_at // 1000,
        "isPinnedParallelism": key.pins_parallelism,
        "isPinnedRate": key.pins_rate,
        "isPaused": key.is_paused,
    }


def _schedule(schedule: Schedule) -> Members:
    states = {each.id: _run_state(each) for each in schedule.last_run}
    return {
        "isPaused": schedule.is_paused,
        "nextScheduleTime": None if schedule.is_paused else schedule.next_at,
        "lastScheduleTime": schedule.last_at,
        "lastScheduleStates": states or None,
        "error": schedule.error,
    }


def _run_state(message: Message) -> str:
    if not message.is_done:
        return "IN_PROGRESS"
    return "SUCCESS" if message.log[-1][0] == "DELIVERED" else "FAIL"


def _endpoint(url: str, name: str | None) -> Members:
    return {"url": url} if name is None else {"url": url, "name": name}
