"""Finding, deleting and replaying dead letters over the API (contract 1.3, 2.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from qtasks.broker.store.records import Reply
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.broker.api.conftest import client_of
from tests.support.broker import HOOK, WIDE, Rig

BROKEN = Reply(500, error="unexpected status 500")
GONE = Reply(404, error="unexpected status 404")
FAR_TOO_OLD = "1000-1"


async def die(rig: Rig, *outgoing: Outgoing, reply: Reply = BROKEN) -> list[str]:
    """Let messages die at their first attempt, one millisecond after the other; give their DLQ ids."""
    for each in outgoing:
        rig.deliverer.will(reply)
        rig.broker.accept([each])
        await rig.turn()
        rig.clock.advance(1)
    page, _ = rig.broker.dead_letters(None, len(outgoing) or 1)
    return [each.dlq_id for each in page][::-1]


def doomed(
    queue: str | None = "wide", destination: str = "https://app.example/hook", **options: Any
) -> Outgoing:
    """Make a message that may be tried once."""
    spec = None if queue is None else WIDE
    known: dict[str, Any] = {"queue": spec, "retries": 0} | options
    return Outgoing(HOOK, b"hello", Options(**known), queue, "203.0.113.1")


async def listed(client: httpx.AsyncClient, query: str = "") -> list[str]:
    """Give the ids of the dead letters that a query finds."""
    answer = await client.get(f"/v2/dlq{query}")
    assert answer.status_code == 200, answer.text
    return [each["dlqId"] for each in answer.json()["messages"]]


async def delete(client: httpx.AsyncClient, query: str = "", body: Any = None) -> Any:
    answer = await client.request("DELETE", f"/v2/dlq{query}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def replay(client: httpx.AsyncClient, path: str, body: Any = None, **headers: str) -> Any:
    """Replay a dead letter, or those of a query; give the answer's content."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.post(f"/v2/dlq/retry{path}", json=body, headers=sent)
    assert answer.status_code == 201, answer.text
    return answer.json()


# --- the list -------------------------------------------------------------------------------------

FILTERS = [
    ("messageId", None),
    ("url", "https://one.example:8443/x?z=1,2"),
    ("queueName", "a"),
    ("label", "red"),
    ("callerIp", "203.0.113.9"),
    ("callerIP", "203.0.113.9"),
    ("responseStatus", "404"),
    ("dlqIds", None),
]


async def two_kinds(rig: Rig) -> tuple[str, str]:
    """Let a message die that the filters are about, and one that they are not about."""
    options = Options(queue=WIDE, retries=0, labels=("blue", "red"))
    wanted = Outgoing("https://one.example:8443/x?z=1,2", b"", options, "a", "203.0.113.9")
    [first] = await die(rig, wanted, reply=GONE)
    [second] = await die(rig, doomed("b", labels=("green",)))
    return first, second


def value_of(rig: Rig, name: str, value: str | None, dlq_id: str) -> str:
    """Give the value that a filter has for a dead letter."""
    if value is not None:
        return value
    return dlq_id if name == "dlqIds" else rig.broker.dead_letter(dlq_id).message.message_id


@pytest.mark.parametrize(("name", "value"), FILTERS)
async def test_dead_letters_are_found_by_a_filter(
    client: httpx.AsyncClient, rig: Rig, name: str, value: str | None
) -> None:
    wanted, _ = await two_kinds(rig)

    query = urlencode({name: value_of(rig, name, value, wanted)})

    assert await listed(client, f"?{query}") == [wanted]


@pytest.mark.parametrize(("name", "value"), FILTERS)
@pytest.mark.parametrize("form", ["query", "body", "list in body"])
async def test_dead_letters_are_deleted_by_a_filter(
    client: httpx.AsyncClient, rig: Rig, name: str, value: str | None, form: str
) -> None:
    wanted, other = await two_kinds(rig)
    text = value_of(rig, name, value, wanted)

    if form == "query":
        answer = await delete(client, f"?{urlencode({name: text})}")
    else:
        answer = await delete(client, body={name: text if form == "body" else [text]})

    assert (answer, await listed(client)) == ({"deleted": 1}, [other])


@pytest.mark.parametrize(("name", "value"), FILTERS)
async def test_dead_letters_are_replayed_by_a_filter(
    client: httpx.AsyncClient, rig: Rig, name: str, value: str | None
) -> None:
    wanted, other = await two_kinds(rig)

    answer = await replay(client, f"?{urlencode({name: value_of(rig, name, value, wanted)})}")

    assert (len(answer["responses"]), await listed(client)) == (1, [other])


async def test_filters_must_all_match_and_their_values_are_alternatives(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    wanted, other = await two_kinds(rig)

    assert await listed(client, "?queueName=a&responseStatus=500") == []
    assert await listed(client, "?queueName=a&queueName=b") == [other, wanted]
    assert await listed(client, "?responseStatus=404,500&label=red,green") == [other, wanted]


async def test_dates_are_about_the_death_and_inclusive(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = await die(rig, *(doomed() for _ in range(4)))
    first, last = (each.partition("-")[0] for each in ids[1:3])

    assert await listed(client, f"?fromDate={first}&toDate={last}") == [ids[2], ids[1]]


async def test_dead_letters_are_listed_newest_first(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = await die(rig, *(doomed() for _ in range(3)))

    assert await listed(client) == ids[::-1]


@pytest.mark.parametrize(("total", "count"), [(4, 2), (5, 2), (2, 2), (1, 2), (0, 2)])
async def test_there_is_no_cursor_at_the_end(
    client: httpx.AsyncClient, rig: Rig, total: int, count: int
) -> None:
    ids = await die(rig, *(doomed() for _ in range(total))) if total else []

    sizes, path = [], f"/v2/dlq?count={count}"
    while path:
        page = (await client.get(path)).json()
        sizes.append(len(page["messages"]))
        path = f"/v2/dlq?count={count}&cursor={page['cursor']}" if "cursor" in page else ""

    assert (sum(sizes), len(sizes)) == (len(ids), max(1, -(-total // count)))


async def test_a_filter_that_matches_little_is_followed_to_its_end(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    [wanted] = await die(rig, doomed(labels=("rare",)))
    await die(rig, *(doomed() for _ in range(60)))

    found, path = [], "/v2/dlq?label=rare&count=1"
    while path:
        page = (await client.get(path)).json()
        found += page["messages"]
        path = f"/v2/dlq?label=rare&count=1&cursor={page['cursor']}" if "cursor" in page else ""

    assert [each["dlqId"] for each in found] == [wanted]


# --- deleting -------------------------------------------------------------------------------------


async def test_a_dead_letter_is_deleted_once(client: httpx.AsyncClient, rig: Rig) -> None:
    first, second = await die(rig, doomed(), doomed())

    statuses = [(await client.delete(f"/v2/dlq/{first}")).status_code for _ in range(2)]

    assert (statuses, await listed(client)) == ([200, 404], [second])
    assert (await client.get(f"/v2/dlq/{first}")).status_code == 404


async def test_the_log_outlives_a_dead_letter(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())
    message_id = rig.broker.dead_letter(dlq_id).message.message_id

    await client.delete(f"/v2/dlq/{dlq_id}")

    assert rig.states(message_id).endswith("FAILED")


@pytest.mark.parametrize("form", ["repeated", "comma", "body"])
async def test_dead_letters_are_deleted_by_their_ids_and_unknown_ones_skipped(
    client: httpx.AsyncClient, rig: Rig, form: str
) -> None:
    a, b, c = await die(rig, doomed(), doomed(), doomed())

    if form == "repeated":
        answer = await delete(client, f"?dlqIds={a}&dlqIds={b}&dlqIds={FAR_TOO_OLD}")
    elif form == "comma":
        answer = await delete(client, f"?dlqIds={a},{b},{FAR_TOO_OLD},nonsense")
    else:
        answer = await delete(client, body={"dlqIds": [a, b, FAR_TOO_OLD]})

    assert (answer, await listed(client)) == ({"deleted": 2}, [c])


async def test_ids_go_before_other_filters(client: httpx.AsyncClient, rig: Rig) -> None:
    wanted, other = await two_kinds(rig)

    assert await delete(client, f"?dlqIds={wanted}&queueName=b") == {"deleted": 1}
    assert await listed(client) == [other]


async def test_an_id_counts_once_however_often_it_is_named(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())

    assert await delete(client, f"?dlqIds={dlq_id},{dlq_id},0{dlq_id}") == {"deleted": 1}


async def test_an_empty_list_of_ids_means_none(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = await die(rig, doomed())

    assert await delete(client, body={"dlqIds": []}) == {"deleted": 0}
    assert await replay(client, "", {"dlqIds": []}) == {"responses": []}
    assert await listed(client) == ids


async def test_all_are_deleted_a_page_at_a_time_when_nothing_is_said(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    await die(rig, *(doomed() for _ in range(130)))

    first = await delete(client)
    second = await delete(client, f"?cursor={first['cursor']}")

    assert (first["deleted"], second) == (100, {"deleted": 30})
    assert await listed(client) == []


async def test_count_bounds_what_one_deletion_does(client: httpx.AsyncClient, rig: Rig) -> None:
    await die(rig, *(doomed() for _ in range(5)))

    answers = [await delete(client, "?count=2") for _ in range(3)]

    assert [each["deleted"] for each in answers] == [2, 2, 1]
    assert ["cursor" in each for each in answers] == [True, True, False]


# --- replaying ------------------------------------------------------------------------------------


async def test_a_replay_is_a_new_message_with_the_original_content(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    outgoing = doomed(
        method="PUT",
        content_type="text/weird",
        forward=(("X-One", "1"), ("Authorization", "Bearer secret")),
        labels=("red",),
        timeout_ms=7000,
    )
    [dlq_id] = await die(rig, outgoing)
    [first] = rig.deliverer.attempts

    answer = await replay(client, f"/{dlq_id}")
    await rig.turn()

    second = rig.deliverer.attempts[-1]
    assert answer == {"messageId": second.id}
    assert second.id != first.id
    assert (second.method, second.url, second.body) == (first.method, first.url, first.body)
    assert (second.headers, second.timeout_ms) == (first.headers, first.timeout_ms)
    assert (second.queue, second.attempt, second.caller_ip) == ("wide", 1, first.caller_ip)
    assert rig.states(second.id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_replayed_dead_letter_is_gone(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())

    await replay(client, f"/{dlq_id}")

    again = await client.post(f"/v2/dlq/retry/{dlq_id}")
    assert (await listed(client), again.status_code) == ([], 404)
    assert await delete(client, f"?dlqIds={dlq_id}") == {"deleted": 0}
    assert (await rig.turn(), await rig.turn()) == (1, 0)


@pytest.mark.parametrize("dlq_id", [FAR_TOO_OLD, "x", "1-1-1"])
async def test_an_unknown_dead_letter_is_not_replayed(client: httpx.AsyncClient, dlq_id: str) -> None:
    answers = [await client.post(f"/v2/dlq/retry{each}") for each in (f"/{dlq_id}", f"?dlqIds={dlq_id}")]

    assert [(each.status_code, each.json().keys()) for each in answers] == [(404, {"error"})] * 2


async def test_a_replay_is_tried_as_often_as_the_original(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(*[BROKEN] * 4)
    first = rig.enqueue(queue="wide", spec=WIDE, retries=1, retry_delay="1000")
    await rig.turn()
    rig.clock.advance(1000)
    await rig.turn()
    [dlq_id] = await listed(client)

    second = (await replay(client, f"/{dlq_id}"))["messageId"]
    await rig.turn()
    rig.clock.advance(1000)
    await rig.turn()

    assert [each.attempt for each in rig.deliverer.attempts] == [1, 2, 1, 2]
    [letter] = (await client.get("/v2/dlq")).json()["messages"]
    assert (letter["messageId"], letter["dlqId"] != dlq_id) == (second, True)
    assert rig.states(first).endswith("FAILED")


async def test_a_replay_of_a_published_message_belongs_to_no_queue(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    [dlq_id] = await die(rig, doomed(None))

    message_id = (await replay(client, f"/{dlq_id}"))["messageId"]

    assert "queueName" not in (await client.get(f"/v2/messages/{message_id}")).json()
    assert (await client.get("/v2/queues")).json() == []
    assert await rig.turn() == 1


async def test_a_replay_waits_in_its_ordered_queue_for_its_turn(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    rig.enqueue(b"first", retries=0)
    await rig.turn()
    rig.enqueue(b"second")
    [dlq_id] = await listed(client)

    await replay(client, f"/{dlq_id}")
    for _ in range(3):
        await rig.turn()

    assert rig.deliverer.bodies == [b"first", b"second", b"first"]


async def test_a_replay_is_not_taken_for_a_duplicate(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed(dedup_id="once", content_dedup=True))

    await replay(client, f"/{dlq_id}")

    assert await rig.turn() == 1


async def test_replaying_a_task_makes_its_result_unknown_again(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    first = rig.call("tsk_1", retries=0)
    await rig.turn()
    [dlq_id] = await listed(client)
    states = [await state(client)]

    second = (await replay(client, f"/{dlq_id}"))["messageId"]
    states.append(await state(client))
    rig.deliverer.will(Reply(200, body=b"42"))
    await rig.turn()
    states.append(await state(client))

    assert states == ["FAILED", "QUEUED", "SUCCEEDED"]
    assert [each.task_id for each in rig.deliverer.attempts] == ["tsk_1", "tsk_1"]
    assert first != second
    assert (await client.get("/qtasks/v1/results/tsk_1")).json()["result"] == 42


async def state(client: httpx.AsyncClient) -> str:
    answer: str = (await client.get("/qtasks/v1/results/tsk_1")).json()["state"]
    return answer


# --- replaying with other settings ----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/{}", "?dlqIds={}"])
async def test_the_retries_of_a_replay_may_be_others(client: httpx.AsyncClient, rig: Rig, path: str) -> None:
    [dlq_id] = await die(rig, doomed())
    rig.deliverer.will(BROKEN)

    await replay(client, path.format(dlq_id), Upstash_Retries="2", Upstash_Retry_Delay="1000")
    for _ in range(2):
        await rig.turn()
        rig.clock.advance(1000)

    assert [each.attempt for each in rig.deliverer.attempts] == [1, 1, 2]


async def test_a_replay_without_retries_dies_at_once(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.deliverer.will(BROKEN, BROKEN, BROKEN)
    rig.enqueue(queue="wide", spec=WIDE, retries=1, retry_delay="0")
    await rig.turn()
    rig.clock.advance(seconds=1)
    await rig.turn()
    [dlq_id] = await listed(client)

    await replay(client, f"/{dlq_id}", Upstash_Retries="0")
    await rig.turn()

    assert (len(await listed(client)), len(rig.deliverer.attempts)) == (1, 3)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_the_method_of_a_replay_may_be_another(
    client: httpx.AsyncClient, rig: Rig, method: str
) -> None:
    [dlq_id] = await die(rig, doomed(method="PUT"))

    await replay(client, f"/{dlq_id}", Upstash_Method=method)
    await rig.turn()

    assert [each.method for each in rig.deliverer.attempts] == ["PUT", method]


async def test_a_replay_of_what_was_published_may_be_delayed(client: httpx.AsyncClient, rig: Rig) -> None:
    first, second = await die(rig, doomed(None), doomed(None))
    soon = rig.clock.now() // 1000 + 61

    await replay(client, f"/{first}", Upstash_Delay="1m")
    await replay(client, f"/{second}", Upstash_Not_Before=str(soon))
    at_once = await rig.turn()
    rig.clock.advance(minutes=2)

    assert (at_once, await rig.turn()) == (0, 2)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Upstash-Retries", "x", 400),
        ("Upstash-Retries", "-1", 400),
        ("Upstash-Retries", "100000", 412),
        ("Upstash-Timeout", "soon", 400),
        ("Upstash-Delay", "1m", 400),
        ("Upstash-Not-Before", "4102444800", 400),
        ("Upstash-Retry-Delay", "import os", 400),
    ],
)
@pytest.mark.parametrize("path", ["/{}", "?dlqIds={}"])
async def test_a_replay_with_settings_that_cannot_be_is_refused_and_the_dead_letter_stays(
    client: httpx.AsyncClient, rig: Rig, name: str, value: str, status: int, path: str
) -> None:
    [dlq_id] = await die(rig, doomed())

    answer = await client.post(f"/v2/dlq/retry{path.format(dlq_id)}", headers={name: value})

    assert (answer.status_code, answer.json().keys()) == (status, {"error"})
    assert (await listed(client), await rig.turn()) == ([dlq_id], 0)


# --- replaying several ----------------------------------------------------------------------------


async def test_several_are_replayed_by_their_ids_in_their_order(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = await die(rig, *(doomed() for _ in range(3)))

    answer = await replay(client, f"?dlqIds={ids[2]}&dlqIds={FAR_TOO_OLD}&dlqIds={ids[0]}")

    assert await delivered_in_order(rig, answer["responses"]) == 2
    assert await listed(client) == [ids[1]]


async def delivered_in_order(rig: Rig, responses: Sequence[dict[str, str]]) -> int:
    """Check that what was answered is delivered now, in that order; give the number."""
    before = len(rig.deliverer.attempts)
    while await rig.turn():
        pass
    delivered = [each.id for each in rig.deliverer.attempts[before:]]
    assert delivered == [each["messageId"] for each in responses]
    return len(delivered)


async def test_one_is_answered_as_a_list_too(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())

    answer = await replay(client, f"?dlqIds={dlq_id}")

    assert [each.keys() for each in answer["responses"]] == [{"messageId"}]


async def test_an_id_is_replayed_once_however_often_it_is_named(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())

    answer = await replay(client, f"?dlqIds={dlq_id},{dlq_id},0{dlq_id}")

    assert (len(answer["responses"]), await rig.turn()) == (1, 1)


async def test_a_filter_without_a_match_replays_nothing(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = await die(rig, doomed())

    assert await replay(client, "?queueName=nothing") == {"responses": []}
    assert await listed(client) == ids


async def test_all_are_replayed_page_by_page_when_nothing_is_said(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    await die(rig, *(doomed() for _ in range(130)))

    first = await replay(client, "")
    second = await replay(client, f"?cursor={first['cursor']}")

    assert (len(first["responses"]), len(second["responses"]), second.get("cursor")) == (100, 30, None)
    assert await listed(client) == []
    assert await delivered_in_order(rig, first["responses"] + second["responses"]) == 130


async def test_a_broker_that_shuts_down_replays_nothing(client: httpx.AsyncClient, rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())
    rig.broker.is_draining = True

    answers = [await client.post(f"/v2/dlq/retry{each}") for each in ("", f"/{dlq_id}")]

    assert [each.status_code for each in answers] == [503, 503]
    assert await listed(client) == [dlq_id]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v2/dlq"), ("POST", "/v2/dlq/retry")])
@pytest.mark.parametrize(
    "query",
    [
        "?dlqId=1-1",
        "?queuName=a",
        "?dlqIds=",
        "?queueName=",
        "?responseStatus=",
        "?responseStatus=5xx",
        "?responseStatus=500,",
        "?count=0",
        "?count=x",
        "?cursor=x",
        "?fromDate=yesterday",
    ],
)
async def test_a_query_that_might_widen_an_operation_is_refused(
    client: httpx.AsyncClient, rig: Rig, method: str, path: str, query: str
) -> None:
    ids = await die(rig, doomed())

    answer = await client.request(method, path + query)

    assert (answer.status_code, answer.json().keys()) == (400, {"error"})
    assert await listed(client) == ids


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v2/dlq"), ("POST", "/v2/dlq/retry")])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'{"dlqId": "1-1"}',
        b'{"dlqIds": null}',
        b'{"dlqIds": [1.5]}',
        b'{"queueName": []}',
        b'{"queueName": ""}',
        b'{"responseStatus": []}',
        b'{"responseStatus": null}',
        b'{"responseStatus": "5xx"}',
        b'{"count": []}',
        b'{"cursor": "x"}',
        b'{"cursor": []}',
    ],
)
async def test_a_body_that_might_widen_an_operation_is_refused(
    client: httpx.AsyncClient, rig: Rig, method: str, path: str, body: bytes
) -> None:
    ids = await die(rig, doomed())

    answer = await client.request(method, path, content=body)

    assert (answer.status_code, answer.json().keys()) == (400, {"error"})
    assert await listed(client) == ids


async def test_dead_letters_need_the_token(rig: Rig) -> None:
    [dlq_id] = await die(rig, doomed())

    async with client_of(rig, Authorization="Bearer wrong") as stranger:
        answers = [
            await stranger.delete("/v2/dlq"),
            await stranger.delete(f"/v2/dlq/{dlq_id}"),
            await stranger.post("/v2/dlq/retry"),
            await stranger.post(f"/v2/dlq/retry/{dlq_id}"),
        ]

    assert {each.status_code for each in answers} == {401}
    assert len(rig.broker.dead_letters(None, 10)[0]) == 1
