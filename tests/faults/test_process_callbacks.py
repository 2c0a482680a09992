"""An end and the callback that tells of it are one, whatever kills the broker (promise P14)."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from tests.support import repeats
from tests.support.inbox import Inbox
from tests.support.load import Load
from tests.support.processes import BrokerProcess, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SEED = 14
MOST_BETWEEN = 40
PAGE = 1000


def entries_of(broker: BrokerProcess) -> list[dict[str, Any]]:
    """Read the whole log, newest first."""
    found: list[dict[str, Any]] = []
    with broker.api() as api:
        cursor = ""
        while True:
            page = api.http.get(f"/v2/events?count={PAGE}{cursor}", timeout=60).json()
            found += page["events"]
            if "cursor" not in page:
                return found
            cursor = f"&cursor={page['cursor']}"


def is_quiet(broker: BrokerProcess) -> bool:
    """Say whether nothing is left to deliver."""
    entries = entries_of(broker)
    last: dict[str, str] = {}
    for each in entries:
        last.setdefault(each["messageId"], each["state"])
    return all(state in ("DELIVERED", "FAILED") for state in last.values())


def reports(entries: list[dict[str, Any]], url: str) -> list[dict[str, Any]]:
    """Read what has been made for a callback: one report for each message to it."""
    made = [each for each in entries if each["state"] == "CREATED" and each["url"] == url]
    return [json.loads(base64.b64decode(each["body"])) for each in made]


def test_no_kill_parts_an_end_from_its_callback(processes: Processes, tell: Callable[[object], None]) -> None:
    rng, kills = random.Random(SEED), repeats(50)
    broker = processes.broker()
    with Inbox() as well, Inbox(status=500) as ill, Inbox() as told, Inbox() as failed:

        def send(http: httpx.Client, key: str) -> httpx.Response:
            headers = {
                "Authorization": f"Bearer {broker.token}",
                "Upstash-Deduplication-Id": key,
                "Upstash-Retries": "1",
                "Upstash-Retry-Delay": "50",
                "Upstash-Callback": told.url,
                "Upstash-Callback-Retries": "9",
                "Upstash-Failure-Callback": failed.url,
                "Upstash-Failure-Callback-Retries": "9",
            }
            to = ill.url if key.endswith("7") else well.url
            return http.post(f"{broker.url}/v2/publish/{to}", headers=headers, content=key)

        def has_told(count: int) -> bool:
            return len(told.requests) >= count

        with Load(send, "told") as load:
            for _ in range(kills):
                goal = len(told.requests) + rng.randrange(1, MOST_BETWEEN)
                eventually(partial(has_told, goal), f"{goal} callbacks", of=[broker, load])
                broker.kill()
                broker = processes.broker()
        eventually(lambda: is_quiet(broker), "an end of all work", within=120, of=[broker, load])
        entries = entries_of(broker)

    sources = [each for each in entries if each["url"] in (well.url, ill.url)]
    attempts = Counter(each["messageId"] for each in sources if each["state"] in ("DELIVERED", "ERROR"))
    dead = {each["messageId"] for each in sources if each["state"] == "FAILED"}
    of_attempts = Counter(each["sourceMessageId"] for each in reports(entries, told.url))
    of_ends = Counter(each["sourceMessageId"] for each in reports(entries, failed.url))
    tell(f"{kills} kills: {len(attempts)} messages, {attempts.total()} attempts, {len(dead)} dead")
    assert {json.loads(each)["messageId"] for each in load.accepted.values()} == attempts.keys()
    assert of_attempts == attempts  # one callback for each attempt that ended, and none without
    assert of_ends == Counter(dead)
    assert dead
