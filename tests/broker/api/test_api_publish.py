"""`/v2/publish/{destination}` and `POST /v2/batch` (contract 2.1, 2.3)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.broker.api.conftest import client_of
from tests.broker.conftest import MakeRig
from tests.support.broker import Rig

HOOK = "https://app.example/hook"
PATH = f"/v2/publish/{HOOK}"


async def message(client: httpx.AsyncClient, message_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v2/messages/{message_id}")).json()
    return found


# --- publish --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "PATCH", "DELETE"])
async def test_a_message_is_published_whatever_the_method_of_the_call(
    client: httpx.AsyncClient, rig: Rig, method: str
) -> None:
    answer = await client.request(method, PATH, content=b"hello")
    await rig.turn()

    assert (answer.status_code, list(answer.json())) == (200, ["messageId"])
    [attempt] = rig.deliverer.attempts
    assert (attempt.url, attempt.method, attempt.body) == (HOOK, "POST", b"hello")


async def test_a_published_message_belongs_to_no_queue(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH)

    assert "queueName" not in await message(client, answer.json()["messageId"])
    assert (await client.get("/v2/queues")).json() == []


async def test_published_messages_wait_for_nobody(client: httpx.AsyncClient, rig: Rig) -> None:
    for _ in range(5):
        await client.post(PATH)

    assert await rig.turn() == 5


@pytest.mark.parametrize(
    ("headers", "waits_ms"),
    [
        ({"Upstash-Delay": "1m30s"}, 90_000),
        ({"Upstash-Delay": "90"}, 90_000),
        ({"Upstash-Not-Before": "1700000060"}, 60_000),
        ({"Upstash-Not-Before": "1700000060", "Upstash-Delay": "1h"}, 60_000),
        ({"Upstash-Not-Before": "1600000000"}, 0),
        ({"Upstash-Delay": "0s"}, 0),
    ],
)
async def test_a_delay_is_kept(
    client: httpx.AsyncClient, rig: Rig, headers: dict[str, str], waits_ms: int
) -> None:
    await client.post(PATH, headers=headers)

    if waits_ms:
        rig.clock.advance(waits_ms - 1)
        assert await rig.turn() == 0
        rig.clock.advance(1)
    assert await rig.turn() == 1


async def test_a_delay_shows_in_the_message(client: httpx.AsyncClient, rig: Rig) -> None:
    answer = await client.post(PATH, headers={"Upstash-Delay": "10d"})

    found = await message(client, answer.json()["messageId"])
    assert found["notBefore"] - found["createdAt"] == 10 * 86_400_000


async def test_a_repeat_answers_202(client: httpx.AsyncClient) -> None:
    headers = {"Upstash-Deduplication-Id": "a", "Upstash-Delay": "1h"}
    first = await client.post(PATH, headers=headers)

    again = await client.post(PATH, headers=headers)

    assert (again.status_code, again.json()["messageId"]) == (202, first.json()["messageId"])


async def test_a_missing_destination_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/publish/")

    assert (answer.status_code, answer.json()["error"]) == (400, "a non-empty destination must be provided")


# --- batch ----------------------------------------------------------------------------------------


async def test_a_batch_is_answered_in_its_order(client: httpx.AsyncClient, rig: Rig) -> None:
    items: list[dict[str, Any]] = [
        {"destination": HOOK, "body": "1", "headers": {"Upstash-Retries": "1"}},
        {"destination": HOOK, "body": "2", "queue": "mail"},
        {"destination": f"{HOOK}?a=b", "queue": "", "body": None},
        {"destination": HOOK, "queue": None, "headers": {"upstash-forward-x": ["a", "b"]}},
    ]

    answer = await client.post("/v2/batch", json=items)

    assert answer.status_code == 200
    found = [await message(client, each["messageId"]) for each in answer.json()]
    assert [each.get("body") for each in found] == ["1", "2", None, None]
    assert [each.get("queueName") for each in found] == [None, "mail", None, None]
    assert found[0]["maxRetries"] == 1
    assert found[2]["url"] == f"{HOOK}?a=b"
    assert found[3]["header"] == {"X": ["a, b"]}


async def test_a_batch_of_one_is_answered_with_a_list(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/batch", json=[{"destination": HOOK}])

    assert [list(each) for each in answer.json()] == [["messageId"]]


async def test_the_call_s_own_settings_are_not_those_of_its_messages(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v2/batch", json=[{"destination": HOOK}], headers={"Upstash-Retries": "9", "Upstash-Forward-X": "1"}
    )

    found = await message(client, answer.json()[0]["messageId"])
    assert (found["maxRetries"], found["header"]) == (3, {})


async def test_a_repeat_within_a_batch_is_marked(client: httpx.AsyncClient) -> None:
    item = {"destination": HOOK, "headers": {"Upstash-Deduplication-Id": "a"}}

    answer = await client.post("/v2/batch", json=[item, item])

    first, second = answer.json()
    assert (answer.status_code, "deduplicated" in first) == (200, False)
    assert second == {"messageId": first["messageId"], "deduplicated": True}


@pytest.mark.parametrize(
    ("item", "status", "text"),
    [
        ({"destination": "app.example"}, 400, "invalid destination url: endpoint has invalid scheme"),
        ({"destination": ""}, 400, "a non-empty destination must be provided"),
        ({}, 400, "a non-empty destination must be provided"),
        ({"destination": 7}, 400, "destination must be a string, not int"),
        ({"destination": HOOK, "queue": "a b"}, 400, "invalid queue name"),
        ({"destination": HOOK, "headers": {"Upstash-Retries": "x"}}, 400, "Upstash-Retries: "),
        ({"destination": HOOK, "headers": {"Upstash-Retries": "5000"}}, 412, "quota maxRetries exceeded"),
        ({"destination": HOOK, "headers": []}, 400, "headers must be an object of strings"),
        ({"destination": HOOK, "headers": {"X": 1}}, 400, "header X must be a string, not int"),
        ({"destination": HOOK, "body": {"a": 1}}, 400, "body must be a string, not dict"),
        ({"destination": HOOK, "body": "x" * 1001}, 412, "quota maxMessageSize exceeded"),
        ("text", 400, "a message must be a JSON object with a destination"),
        ({"destination": "http://169.254.169.254/"}, 400, "invalid destination url: endpoint resolves"),
        (
            {"destination": HOOK, "queue": "mail", "headers": {"Upstash-Delay": "1s"}},
            400,
            "Upstash-Delay: a message in a queue cannot be delayed",
        ),
    ],
)
async def test_one_bad_message_refuses_the_batch_by_its_place(
    make_rig: MakeRig, item: object, status: int, text: str
) -> None:
    rig = make_rig(max_message_bytes=1000)
    async with client_of(rig) as client:
        answer = await client.post("/v2/batch", json=[{"destination": HOOK}, item])

    assert answer.status_code == status
    assert answer.json()["error"].startswith(f"message 1: {text}")
    assert rig.store.log() == []


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'"text"', b"null", b"\xff"])
async def test_what_is_no_list_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v2/batch", content=body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the body ")


async def test_an_empty_batch_is_answered_with_an_empty_list(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/batch", json=[])

    assert (answer.status_code, answer.json()) == (200, [])


async def test_a_batch_beyond_its_limit_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_bytes=1000)
    async with client_of(rig) as client:
        answer = await client.post("/v2/batch", json=[{"destination": HOOK, "body": "x" * 1000}])

    assert (answer.status_code, rig.store.log()) == (412, [])


async def test_a_batch_is_not_accepted_while_the_broker_is_shutting_down(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    rig.broker.is_draining = True

    answer = await client.post("/v2/batch", json=[{"destination": HOOK}])

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
