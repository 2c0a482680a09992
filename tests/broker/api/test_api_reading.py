"""Queues, messages, log, dead letters and results, as the API shows them (contract 2.4, 2.6, 2.8, 2.9)."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest

from qtasks.broker.store.records import Reply
from tests.support.broker import SOON_S, WIDE, Held, Rig

BROKEN = Reply(500, (("Content-Type", "text/plain"),), b"oops", "unexpected status 500")
TOO_LARGE = "9" * 25


async def get(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def all_pages(client: httpx.AsyncClient, path: str, key: str) -> list[dict[str, Any]]:
    """Follow the cursors to the end."""
    found: list[dict[str, Any]] = []
    page = await get(client, path)
    for _ in range(1000):
        found += page[key]
        if "cursor" not in page:
            return found
        assert page["cursor"]
        page = await get(client, f"{path}{'&' if '?' in path else '?'}cursor={page['cursor']}")
    raise AssertionError("the pages never end")


# --- messages -------------------------------------------------------------------------------------


async def test_a_message_can_be_read_while_it_waits(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id = rig.enqueue(b"hello")

    assert (await get(client, f"/v2/messages/{message_id}"))["messageId"] == message_id


async def test_a_delivered_message_can_be_read_for_a_minute(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id = rig.enqueue()
    await rig.turn()

    rig.clock.advance(seconds=60)

    assert (await client.get(f"/v2/messages/{message_id}")).status_code == 200


async def test_a_message_is_gone_when_its_minute_is_over(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id = rig.enqueue()
    await rig.turn()

    rig.clock.advance(seconds=60.001)
    answer = await client.get(f"/v2/messages/{message_id}")

    assert (answer.status_code, answer.json()) == (404, {"error": f"message {message_id} not found"})


async def test_a_message_that_waits_can_be_read_however_old_it_is(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    message_id = rig.enqueue()

    rig.clock.advance(hours=1000)

    assert (await client.get(f"/v2/messages/{message_id}")).status_code == 200


# --- queues ---------------------------------------------------------------------------------------


async def test_there_are_no_queues_at_first(client: httpx.AsyncClient) -> None:
    assert await get(client, "/v2/queues") == []


async def test_a_queue_is_made_and_shown_with_all_its_members(client: httpx.AsyncClient, rig: Rig) -> None:
    answer = await client.post("/v2/queues", json={"queueName": "mail", "parallelism": 3, "paused": False})

    now = rig.clock.now()
    queue = {"name": "mail", "createdAt": now, "updatedAt": now, "parallelism": 3, "paused": False, "lag": 0}
    assert (answer.status_code, answer.content) == (200, b"")
    assert await get(client, "/v2/queues/mail") == queue | {"ordered": True}
    assert await get(client, "/v2/queues") == [queue | {"ordered": True}]


async def test_a_queue_is_changed(client: httpx.AsyncClient, rig: Rig) -> None:
    await client.post("/v2/queues", json={"queueName": "mail", "parallelism": 3})
    rig.clock.advance(seconds=5)

    await client.post("/v2/queues/", json={"queueName": "mail", "parallelism": 7, "paused": True})

    queue = await get(client, "/v2/queues/mail")
    assert (queue["parallelism"], queue["paused"]) == (7, True)
    assert queue["updatedAt"] - queue["createdAt"] == 5000


async def test_a_change_that_does_not_speak_of_the_pause_leaves_it(client: httpx.AsyncClient) -> None:
    await client.post("/v2/queues", json={"queueName": "mail", "paused": True})

    await client.post("/v2/queues", json={"queueName": "mail", "parallelism": 2})

    assert (await get(client, "/v2/queues/mail"))["paused"] is True


async def test_queues_are_listed_by_name(client: httpx.AsyncClient, rig: Rig) -> None:
    for name in ("b", "C", "a"):
        rig.enqueue(queue=name)

    assert [each["name"] for each in await get(client, "/v2/queues")] == ["C", "a", "b"]


async def test_lag_falls_as_messages_end(client: httpx.AsyncClient, rig: Rig) -> None:
    for _ in range(3):
        rig.enqueue()
    lags = []

    for _ in range(4):
        lags.append((await get(client, "/v2/queues/mail"))["lag"])
        await rig.turn()

    assert lags == [3, 2, 1, 0]


async def test_a_paused_queue_delivers_nothing_until_it_is_resumed(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    rig.enqueue()

    paused = await client.post("/v2/queues/mail/pause")
    claimed_while_paused = await rig.turn()
    resumed = await client.post("/v2/queues/mail/resume")

    assert (paused.status_code, claimed_while_paused, resumed.status_code) == (200, 0, 200)
    assert await rig.turn() == 1


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_missing_queue_cannot_be_paused(client: httpx.AsyncClient, verb: str) -> None:
    answer = await client.post(f"/v2/queues/mail/{verb}")

    assert (answer.status_code, answer.json()) == (404, {"error": "queue mail not found"})


async def test_a_missing_queue_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v2/queues/mail")

    assert (answer.status_code, answer.json()) == (404, {"error": "queue mail not found"})


@pytest.mark.parametrize("path", ["/v2/queues/a%20b", "/v2/queues/a%20b/pause", "/v2/queues/%C3%A4/resume"])
async def test_a_name_that_no_queue_can_have_is_refused(client: httpx.AsyncClient, path: str) -> None:
    method = "GET" if path.endswith("b") else "POST"

    answer = await client.request(method, path)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid queue name ")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is not JSON: "),
        (b"{", "the body is not JSON: "),
        (b"[]", 'the body must be a JSON object such as {"queueName": "mail", "parallelism": 2}'),
        (b"{}", "queueName must be the name of a queue"),
        (b'{"queueName": 7}', "queueName must be the name of a queue"),
        (b'{"queueName": "a b"}', 'invalid queue name "a b"'),
        (b'{"queueName": "a", "parallelism": 0}', "parallelism must be an integer of at least 1"),
        (b'{"queueName": "a", "parallelism": "2"}', "parallelism must be an integer of at least 1"),
        (b'{"queueName": "a", "parallelism": true}', "parallelism must be an integer of at least 1"),
        (b'{"queueName": "a", "parallelism": 2.5}', "parallelism must be an integer of at least 1"),
        (b'{"queueName": "a", "paused": "yes"}', "paused must be true or false"),
        (b'{"queueName": "a", "paralelism": 2}', "unknown member 'paralelism'"),
    ],
)
async def test_a_queue_that_cannot_be_is_refused(client: httpx.AsyncClient, body: bytes, text: str) -> None:
    answer = await client.post("/v2/queues", content=body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)
    assert await get(client, "/v2/queues") == []


async def test_a_queue_of_endless_words_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/queues", content=b"x" * 1_100_000)

    assert (answer.status_code, answer.json()["error"].split(",")[0]) == (
        412,
        "quota maxRequestSize exceeded",
    )


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "key"), [("/v2/logs", "logs"), ("/v2/events", "events")])
async def test_the_log_is_shown_newest_first(
    client: httpx.AsyncClient, rig: Rig, path: str, key: str
) -> None:
    rig.deliverer.will(BROKEN)
    rig.enqueue(b"hello", labels=("import", "night"), retry_delay="1000")
    await rig.turn()

    page = await get(client, path)

    assert list(page) == [key]
    assert [each["state"] for each in page[key]] == ["RETRY", "ERROR", "ACTIVE", "CREATED"]
    for each in page[key]:
        assert (each["label"], each["labels"]) == ("import", ["import", "night"])
        assert each["retryDelayExpression"] == each["retryDelayExpr"] == "1000"
        assert base64.b64decode(each["body"]) == b"hello"


async def test_an_error_is_shown_with_its_answer(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    rig.enqueue()
    await rig.turn()

    retry, error = (await get(client, "/v2/logs"))["logs"][:2]

    assert (error["error"], error["responseStatus"]) == ("unexpected status 500", 500)
    assert base64.b64decode(error["responseBody"]) == b"oops"
    assert error["responseHeaders"] == error["responseHeader"] == {"Content-Type": ["text/plain"]}
    assert retry["nextDeliveryTime"] - retry["time"] >= 12_000


@pytest.mark.parametrize(("path", "key", "most"), [("/v2/logs", "logs", 100), ("/v2/events", "events", 1000)])
async def test_a_page_holds_so_many_entries_and_no_more(
    client: httpx.AsyncClient, rig: Rig, path: str, key: str, most: int
) -> None:
    for _ in range(1100):
        rig.enqueue(queue="wide", spec=WIDE)

    assert len((await get(client, path))[key]) == most
    assert len((await get(client, f"{path}?count=100000"))[key]) == most
    assert len((await get(client, f"{path}?count=7"))[key]) == 7


@pytest.mark.parametrize("frozen", [True, False], ids=["in one millisecond", "over time"])
async def test_the_pages_together_show_everything_once(
    client: httpx.AsyncClient, rig: Rig, frozen: bool
) -> None:
    ids = []
    for _ in range(260):
        ids.append(rig.enqueue(queue="wide", spec=WIDE))
        rig.clock.advance(0 if frozen else 3)
    while await rig.turn():
        rig.clock.advance(0 if frozen else 3)

    entries = await all_pages(client, "/v2/logs", "logs")

    shown = {(each["messageId"], each["state"]) for each in entries}
    assert len(entries) == len(shown) == 3 * 260
    assert shown == {(each, state) for each in ids for state in ("CREATED", "ACTIVE", "DELIVERED")}
    times = [each["time"] for each in entries]
    assert times == sorted(times, reverse=True)


async def test_the_pages_of_a_filter_show_every_match_once(client: httpx.AsyncClient, rig: Rig) -> None:
    for number in range(260):
        rig.enqueue(queue=f"q{number % 2}", spec=WIDE)
    while await rig.turn():
        pass

    entries = await all_pages(client, "/v2/logs?state=DELIVERED&queueName=q1&count=50", "logs")

    assert len({each["messageId"] for each in entries}) == len(entries) == 130
    assert {(each["state"], each["queueName"]) for each in entries} == {("DELIVERED", "q1")}


async def test_the_log_of_one_message_is_found(client: httpx.AsyncClient, rig: Rig) -> None:
    wanted, _ = rig.enqueue(), rig.enqueue()

    entries = (await get(client, f"/v2/logs?messageId={wanted}"))["logs"]

    assert [each["messageId"] for each in entries] == [wanted]


@pytest.mark.parametrize(
    ("query", "states"),
    [
        ("state=CREATED", {"CREATED"}),
        ("state=created", {"CREATED"}),
        ("state=CREATED&state=FAILED", {"CREATED", "FAILED"}),
        ("state=CREATED,FAILED", {"CREATED", "FAILED"}),
        ("STATE=RETRY", {"RETRY"}),
        ("state=IN_PROGRESS", {"ACTIVE", "ERROR", "RETRY"}),
        ("state=CANCELED", set()),
        ("state=CANCELLED", set()),
        ("state=", {"CREATED", "ACTIVE", "ERROR", "RETRY", "FAILED"}),
    ],
)
async def test_the_log_is_filtered_by_state(
    client: httpx.AsyncClient, rig: Rig, query: str, states: set[str]
) -> None:
    rig.deliverer.will(BROKEN, BROKEN)
    rig.enqueue(queue="wide", spec=WIDE)
    rig.enqueue(queue="wide", spec=WIDE, retries=0)
    await rig.turn()

    entries = (await get(client, f"/v2/logs?{query}"))["logs"]

    assert {each["state"] for each in entries} == states


@pytest.mark.parametrize("query", ["queueName=a&queueName=b", "queueName=a,b", "QUEUENAME=a&queuename=b"])
async def test_a_filter_may_have_several_values(client: httpx.AsyncClient, rig: Rig, query: str) -> None:
    for name in ("a", "b", "c"):
        rig.enqueue(queue=name)

    entries = (await get(client, f"/v2/logs?{query}"))["logs"]

    assert {each["queueName"] for each in entries} == {"a", "b"}


async def test_several_messages_may_be_asked_for(client: httpx.AsyncClient, rig: Rig) -> None:
    first, second, _ = (rig.enqueue() for _ in range(3))

    entries = (await get(client, f"/v2/logs?messageId={first}&messageId={second}"))["logs"]

    assert {each["messageId"] for each in entries} == {first, second}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("state=LOST", 'state: unknown state "LOST"'),
        ("count=0", "count must be an integer of at least 1, not '0'"),
        ("count=-1", "count must be an integer of at least 1, not '-1'"),
        ("count=many", "count must be an integer of at least 1, not 'many'"),
        ("cursor=x", "cursor 'x' is not one that this API gave"),
        ("cursor=1-2-3-4", "cursor '1-2-3-4' is not one that this API gave"),
        (f"cursor={TOO_LARGE}", f"cursor '{TOO_LARGE}' is not one that this API gave"),
        (f"cursor=1-{TOO_LARGE}", f"cursor '1-{TOO_LARGE}' is not one that this API gave"),
        (f"cursor=1-1-{TOO_LARGE}", f"cursor '1-1-{TOO_LARGE}' is not one that this API gave"),
    ],
)
async def test_a_question_to_the_log_that_cannot_be_is_refused(
    client: httpx.AsyncClient, query: str, text: str
) -> None:
    answer = await client.get(f"/v2/logs?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)


async def test_a_bare_instant_is_a_cursor_to_what_is_older(client: httpx.AsyncClient, rig: Rig) -> None:
    old = rig.enqueue()
    rig.clock.advance(1000)
    rig.enqueue()

    entries = (await get(client, f"/v2/logs?cursor={rig.clock.now()}"))["logs"]

    assert [each["messageId"] for each in entries] == [old]


# --- dead letters ---------------------------------------------------------------------------------


async def fail(rig: Rig, count: int, reply: Reply = BROKEN) -> list[str]:
    """Let so many messages die, one after the other."""
    rig.deliverer.will(*[reply] * count)
    ids = [rig.enqueue(b"hello", queue="wide", spec=WIDE, retries=0) for _ in range(count)]
    while await rig.turn():
        rig.clock.advance(1)
    return ids


async def test_there_are_no_dead_letters_at_first(client: httpx.AsyncClient) -> None:
    assert await get(client, "/v2/dlq") == {"messages": []}


async def test_a_dead_letter_is_the_message_and_its_last_answer(client: httpx.AsyncClient, rig: Rig) -> None:
    [message_id] = await fail(rig, 1, Reply(404, (("Content-Type", "text/plain"),), b"404 Not Found"))

    [letter] = (await get(client, "/v2/dlq"))["messages"]

    assert (letter["messageId"], letter["body"], letter["queueName"]) == (message_id, "hello", "wide")
    assert (letter["responseStatus"], letter["responseBody"]) == (404, "404 Not Found")
    assert letter["responseHeader"] == {"Content-Type": ["text/plain"]}
    assert await get(client, f"/v2/dlq/{letter['dlqId']}") == letter


async def test_a_dead_letter_without_an_answer_has_status_0_and_a_reason(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    await fail(rig, 1, Reply(0, error="Connection refused"))

    [letter] = (await get(client, "/v2/dlq"))["messages"]

    assert (letter["responseStatus"], letter["error"]) == (0, "Connection refused")
    assert "responseBody" not in letter


async def test_an_answer_that_is_no_text_is_shown_as_base64(client: httpx.AsyncClient, rig: Rig) -> None:
    await fail(rig, 1, Reply(500, body=b"\xff\x00"))

    [letter] = (await get(client, "/v2/dlq"))["messages"]

    assert ("responseBody" in letter, letter["responseBodyBase64"]) == (False, "/wA=")


async def test_the_pages_of_dead_letters_show_each_once_newest_first(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    ids = await fail(rig, 260)

    first = await get(client, "/v2/dlq")
    letters = await all_pages(client, "/v2/dlq", "messages")

    assert (len(first["messages"]), "cursor" in first) == (100, True)
    assert sorted(each["messageId"] for each in letters) == sorted(ids)
    places = [tuple(map(int, each["dlqId"].split("-"))) for each in letters]
    assert places == sorted(places, reverse=True)


async def test_dead_letters_are_paged_by_any_size(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = await fail(rig, 10)

    letters = await all_pages(client, "/v2/dlq?count=3", "messages")

    assert sorted(each["messageId"] for each in letters) == sorted(ids)


@pytest.mark.parametrize("dlq_id", ["1-1", "x", "1", "-", "1-1-1", f"{TOO_LARGE}-1", f"1-{TOO_LARGE}"])
async def test_a_dead_letter_that_is_none_is_not_found(client: httpx.AsyncClient, dlq_id: str) -> None:
    answer = await client.get(f"/v2/dlq/{dlq_id}")

    assert (answer.status_code, answer.json()) == (404, {"error": f"dlq message {dlq_id} not found"})


@pytest.mark.parametrize("cursor", ["x", "1", "1-x", f"{TOO_LARGE}-1", f"1-{TOO_LARGE}"])
async def test_a_cursor_to_dead_letters_that_is_none_is_refused(
    client: httpx.AsyncClient, cursor: str
) -> None:
    answer = await client.get(f"/v2/dlq?cursor={cursor}")

    assert answer.status_code == 400
    assert answer.json()["error"] == f"cursor {cursor!r} is not one that this API gave"


# --- results --------------------------------------------------------------------------------------


async def test_a_task_that_nobody_knows_is_unknown(client: httpx.AsyncClient) -> None:
    result = await get(client, "/qtasks/v1/results/tsk_1")

    assert (result["taskId"], result["state"]) == ("tsk_1", "UNKNOWN")


async def test_an_unknown_task_is_not_waited_for(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(SOON_S):
        assert (await get(client, "/qtasks/v1/results/tsk_1?wait=60s"))["state"] == "UNKNOWN"


async def test_a_result_is_given_as_it_was_returned(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(Reply(200, body=b'{"n": [1, 2.5, null, "\xc3\xa4"]}'))
    rig.call("tsk_1")
    await rig.turn()

    result = await get(client, "/qtasks/v1/results/tsk_1")

    assert (result["state"], result["result"], result["attempts"]) == (
        "SUCCEEDED",
        {"n": [1, 2.5, None, "ä"]},
        1,
    )


@pytest.mark.parametrize("body", [b"null", b"0", b'""', b"[]", b"false"])
async def test_a_result_of_nothing_is_a_result(client: httpx.AsyncClient, rig: Rig, body: bytes) -> None:
    rig.deliverer.will(Reply(200, body=body))
    rig.call("tsk_1")
    await rig.turn()

    answer = await client.get("/qtasks/v1/results/tsk_1")

    assert b'"result":' + body in answer.content


@pytest.mark.parametrize("body", [b"", b"hello", b"<html>", b"\xff", b'{"n":', b'1,"state":"FAILED"'])
async def test_an_answer_that_is_no_json_does_not_spoil_what_is_told_of_the_task(
    client: httpx.AsyncClient, rig: Rig, body: bytes
) -> None:
    rig.deliverer.will(Reply(200, body=body))
    rig.call("tsk_1")
    await rig.turn()

    result = await get(client, "/qtasks/v1/results/tsk_1")

    assert result["state"] == "SUCCEEDED"


async def test_a_failure_is_given_with_its_error(client: httpx.AsyncClient, rig: Rig) -> None:
    document = b'{"error":{"type":"ValueError","message":"no","traceback":"Traceback ..."}}'
    rig.deliverer.will(Reply(500, body=document))
    rig.call("tsk_1", retries=0)
    await rig.turn()

    result = await get(client, "/qtasks/v1/results/tsk_1")

    assert result["state"] == "FAILED"
    assert result["error"] == {"type": "ValueError", "message": "no", "traceback": "Traceback ..."}
    assert "result" not in result


async def test_a_long_poll_ends_when_the_task_does(client: httpx.AsyncClient, rig: Rig) -> None:
    held = Held(Reply(200, body=b"7"))
    rig.deliverer.will(held)
    rig.call("tsk_1")
    await rig.node.start()
    await rig.deliverer.reached(1)

    polling = asyncio.ensure_future(get(client, "/qtasks/v1/results/tsk_1?wait=60s"))
    # The question has read the store before this read returns, so it waits by now.
    await rig.database.read(lambda session: None)
    held.release()
    async with asyncio.timeout(SOON_S):
        result = await polling

    assert (result["state"], result["result"]) == ("SUCCEEDED", 7)
    await rig.node.stop()


async def test_a_long_poll_ends_by_itself(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.call("tsk_1")

    async with asyncio.timeout(SOON_S):
        assert (await get(client, "/qtasks/v1/results/tsk_1?wait=0.02s"))["state"] == "QUEUED"


async def test_a_retry_does_not_end_a_long_poll(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(Reply(503, (("Retry-After", "0"),)), Reply(200, body=b"7"))
    rig.call("tsk_1")
    polling = asyncio.ensure_future(get(client, "/qtasks/v1/results/tsk_1?wait=60s"))
    await rig.database.read(lambda session: None)

    await rig.turn()
    await rig.turn()

    async with asyncio.timeout(SOON_S):
        assert (await polling)["result"] == 7


@pytest.mark.parametrize("wait", ["soon", "-1", "1x"])
async def test_a_wait_that_is_no_duration_is_refused(client: httpx.AsyncClient, wait: str) -> None:
    answer = await client.get(f"/qtasks/v1/results/tsk_1?wait={wait}")

    assert (answer.status_code, answer.json()) == (400, {"error": f'wait: invalid duration "{wait}"'})
