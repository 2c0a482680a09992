"""Calling messages off over the API (contract 1.9, 2.0, 2.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from qtasks.broker.store.records import Reply
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.broker.api.conftest import client_of
from tests.support.broker import WIDE, Held, Rig

BROKEN = Reply(500, error="unexpected status 500")
CALLED_OFF = "CREATED, CANCEL_REQUESTED, CANCELED"


async def cancel(client: httpx.AsyncClient, query: str = "", body: Any = None) -> int:
    """Call off what a query or a body says; give the number that is answered."""
    answer = await client.request("DELETE", f"/v2/messages{query}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"cancelled"}
    count: int = answer.json()["cancelled"]
    return count


def lag(rig: Rig) -> int:
    """Say how many messages are in queues and not finished."""
    return sum(each.lag for each in rig.broker.queues())


async def in_flight(rig: Rig, **options: Any) -> tuple[str, Held]:
    """Let a message be delivered to a destination that takes its time."""
    held = Held(BROKEN)
    rig.deliverer.will(held)
    message_id = rig.enqueue(**options)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    return message_id, held


# --- one message ----------------------------------------------------------------------------------


async def test_a_message_that_waits_is_called_off_at_once(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id = rig.enqueue()

    answer = await client.delete(f"/v2/messages/{message_id}")

    assert (answer.status_code, answer.json()) == (200, {"cancelled": 1})
    assert (await rig.turn(), lag(rig)) == (0, 0)
    assert rig.states(message_id) == CALLED_OFF


@pytest.mark.parametrize("message_id", ["msg_nothing", "x", "%00", "a,b"])
async def test_an_unknown_message_is_not_found(client: httpx.AsyncClient, rig: Rig, message_id: str) -> None:
    rig.enqueue()

    answer = await client.delete(f"/v2/messages/{message_id}")

    assert (answer.status_code, answer.json().keys(), lag(rig)) == (404, {"error"}, 1)


async def test_a_list_of_ids_in_the_path_names_no_message(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = [rig.enqueue(), rig.enqueue()]

    answer = await client.delete(f"/v2/messages/{ids[0]},{ids[1]}")

    assert (answer.status_code, lag(rig)) == (404, 2)


@pytest.mark.parametrize("reply", [Reply(200), BROKEN], ids=["delivered", "dead"])
async def test_a_message_that_has_ended_is_not_found(
    client: httpx.AsyncClient, rig: Rig, reply: Reply
) -> None:
    rig.deliverer.will(reply)
    message_id = rig.enqueue(retries=0)
    await rig.turn()
    before = rig.states(message_id)

    answer = await client.delete(f"/v2/messages/{message_id}")

    assert (answer.status_code, answer.json()) == (404, {"error": f"message {message_id} not found"})
    assert rig.states(message_id) == before


async def test_a_message_that_was_called_off_is_not_found_the_second_time(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    message_id = rig.enqueue()
    await client.delete(f"/v2/messages/{message_id}")

    assert (await client.delete(f"/v2/messages/{message_id}")).status_code == 404


async def test_a_single_cancellation_takes_no_filter(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id = rig.enqueue()

    answer = await client.delete(f"/v2/messages/{message_id}?queueName=mail")

    assert (answer.status_code, lag(rig)) == (400, 1)


async def test_an_ordered_queue_goes_on_behind_a_retry_that_was_called_off(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    rig.deliverer.will(BROKEN)
    first = rig.enqueue(b"first")
    rig.enqueue(b"second")
    await rig.turn()

    await client.delete(f"/v2/messages/{first}")
    await rig.turn()

    assert rig.deliverer.bodies == [b"first", b"second"]
    assert rig.states(first).endswith("CANCEL_REQUESTED, CANCELED")


async def test_the_state_of_a_task_that_was_called_off_is_cancelled(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    await client.delete(f"/v2/messages/{rig.call('tsk_1')}")

    assert (await client.get("/qtasks/v1/results/tsk_1")).json()["state"] == "CANCELLED"


@pytest.mark.parametrize("form", ["one", "ids", "all", "queue"])
async def test_whoever_waits_for_a_task_learns_at_once_that_it_was_called_off(
    client: httpx.AsyncClient, rig: Rig, form: str
) -> None:
    message_id = rig.call("tsk_1")

    with rig.broker.waiters.expect(["tsk_1"]) as ended:
        if form == "one":
            await client.delete(f"/v2/messages/{message_id}")
        elif form == "ids":
            await cancel(client, f"?messageIds={message_id}")
        elif form == "all":
            await cancel(client)
        else:
            await client.delete("/v2/queues/tasks")

        assert ended.done()


async def test_a_delivery_in_flight_that_succeeds_is_delivered(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id, held = await in_flight(rig)
    held.reply = Reply(200)

    answer = await client.delete(f"/v2/messages/{message_id}")
    held.release()
    await rig.node.dispatcher.idle()

    assert answer.json() == {"cancelled": 1}
    assert rig.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, DELIVERED"


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_delivery_in_flight_that_fails_is_neither_repeated_nor_a_dead_letter(
    client: httpx.AsyncClient, rig: Rig, retries: int
) -> None:
    message_id, held = await in_flight(rig, retries=retries)

    await client.delete(f"/v2/messages/{message_id}")
    held.release()
    await rig.node.dispatcher.idle()

    rig.clock.advance(hours=1)
    assert await rig.turn() == 0
    assert (await client.get("/v2/dlq")).json() == {"messages": []}
    assert rig.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, ERROR, CANCELED"


async def test_a_delivery_in_flight_is_counted_once(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id, held = await in_flight(rig)

    first = await cancel(client, f"?messageIds={message_id}")
    others = [await cancel(client, f"?messageIds={message_id}"), await cancel(client)]
    held.release()
    await rig.node.dispatcher.idle()

    assert (first, others) == (1, [0, 0])


async def test_a_message_called_off_in_flight_is_not_run_in_the_next_life(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    message_id, held = await in_flight(rig)
    await client.delete(f"/v2/messages/{message_id}")

    after = rig.new_node()
    await after.recover()
    claimed = await after.dispatcher.step()
    held.release()
    await rig.node.dispatcher.idle()

    assert (list(claimed.claims), lag(rig)) == ([], 0)
    assert rig.states(message_id).endswith("CANCELED")


async def test_the_log_shows_all_that_was_called_off_page_by_page(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    ids = [rig.enqueue(queue="wide", spec=WIDE) for _ in range(7)]
    rig.clock.advance(5)
    await cancel(client)

    found: list[dict[str, Any]] = []
    path = "/v2/logs?count=2"
    while path:
        page = (await client.get(path)).json()
        found += page["logs"]
        path = f"/v2/logs?count=2&cursor={page['cursor']}" if "cursor" in page else ""

    for each in ids:
        states = [entry["state"] for entry in found if entry["messageId"] == each]
        assert states == ["CANCELED", "CANCEL_REQUESTED", "CREATED"]


# --- several by their ids -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["repeated", "comma", "body", "one in body", "other case"])
async def test_messages_are_called_off_by_their_ids(client: httpx.AsyncClient, rig: Rig, form: str) -> None:
    a, b, c = (rig.enqueue() for _ in range(3))

    if form == "repeated":
        count = await cancel(client, f"?messageIds={a}&messageIds={b}&messageIds=msg_nothing")
    elif form == "comma":
        count = await cancel(client, f"?messageIds={a},{b},msg_nothing")
    elif form == "body":
        count = await cancel(client, body={"messageIds": [a, b, "msg_nothing"]})
    elif form == "one in body":
        count = await cancel(client, body={"messageIds": a}) + await cancel(client, body={"messageIds": [b]})
    else:
        count = await cancel(client, f"?MESSAGEIDS={a}&messageids={b}")

    assert count == 2
    assert [rig.states(each) for each in (a, b, c)] == [CALLED_OFF, CALLED_OFF, "CREATED"]


async def test_ids_go_before_other_filters(client: httpx.AsyncClient, rig: Rig) -> None:
    wanted, _ = rig.enqueue(queue="a"), rig.enqueue(queue="b")

    assert await cancel(client, body={"messageIds": [wanted], "queueName": "b"}) == 1

    assert rig.states(wanted) == CALLED_OFF


async def test_an_empty_list_of_ids_calls_off_nothing(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.enqueue()

    assert (await cancel(client, body={"messageIds": []}), lag(rig)) == (0, 1)


async def test_two_of_three_are_called_off_and_then_the_last(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = [rig.enqueue(queue="wide", spec=WIDE) for _ in range(3)]

    assert await cancel(client, f"?messageIds={ids[0]}&messageIds={ids[1]}") == 2
    assert await cancel(client, "?count=100") == 1
    assert await cancel(client) == 0


# --- several by filters ---------------------------------------------------------------------------

FILTERS = [
    ("queueName", "a"),
    ("url", "https://one.example:8443/x/y?z=1,2"),
    ("host", "one.example:8443"),
    ("path", "/x/y"),
    ("label", "red"),
    ("callerIp", "203.0.113.1"),
    ("callerIP", "203.0.113.1"),
]


def accept(rig: Rig, queue: str, destination: str, caller_ip: str, *labels: str) -> str:
    outgoing = Outgoing(destination, b"", Options(labels=labels), queue, caller_ip)
    [answer] = rig.broker.accept([outgoing])
    return answer.message_id


def two_kinds(rig: Rig) -> tuple[str, str]:
    """Enqueue a message that the filters are about, and one that they are not about."""
    wanted = accept(rig, "a", "https://one.example:8443/x/y?z=1,2", "203.0.113.1", "blue", "red")
    return wanted, accept(rig, "b", "https://two.example/x", "203.0.113.2", "green")


@pytest.mark.parametrize(("name", "value"), FILTERS)
@pytest.mark.parametrize("form", ["query", "body", "list in body"])
async def test_messages_are_called_off_by_a_filter(
    client: httpx.AsyncClient, rig: Rig, name: str, value: str, form: str
) -> None:
    wanted, other = two_kinds(rig)

    if form == "query":
        count = await cancel(client, f"?{urlencode({name: value})}")
    else:
        count = await cancel(client, body={name: value if form == "body" else [value, "another"]})

    assert (count, rig.states(wanted), rig.states(other)) == (1, CALLED_OFF, "CREATED")


async def test_a_filter_that_nothing_matches_calls_off_nothing(client: httpx.AsyncClient, rig: Rig) -> None:
    two_kinds(rig)

    for name, _ in FILTERS:
        assert await cancel(client, f"?{name}=something") == 0
    assert lag(rig) == 2


async def test_filters_must_all_match(client: httpx.AsyncClient, rig: Rig) -> None:
    two_kinds(rig)

    assert await cancel(client, "?queueName=a&label=green") == 0
    assert await cancel(client, "?queueName=a", {"label": "red"}) == 1


async def test_the_values_of_a_filter_are_alternatives(client: httpx.AsyncClient, rig: Rig) -> None:
    two_kinds(rig)
    rig.enqueue(queue="c")

    assert await cancel(client, "?queueName=a,b") == 2


async def test_dates_are_about_the_creation_and_inclusive(client: httpx.AsyncClient, rig: Rig) -> None:
    ids = []
    for _ in range(4):
        ids.append(rig.enqueue(queue="wide", spec=WIDE))
        rig.clock.advance(1000)
    second = rig.clock.now() - 3000

    assert await cancel(client, f"?fromDate={second}&toDate={second + 1000}") == 2

    assert [rig.states(each) for each in ids] == ["CREATED", CALLED_OFF, CALLED_OFF, "CREATED"]


async def test_dates_may_stand_in_the_body(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.enqueue()
    now = rig.clock.now()

    assert await cancel(client, body={"toDate": now - 1}) == 0
    assert await cancel(client, body={"fromDate": now, "toDate": now}) == 1


async def test_count_bounds_what_one_call_does(client: httpx.AsyncClient, rig: Rig) -> None:
    for _ in range(7):
        rig.enqueue()

    counts = [await cancel(client, "?count=3") for _ in range(4)]

    assert counts == [3, 3, 1, 0]


async def test_count_bounds_what_matches_and_not_what_is_looked_at(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    for queue in "abababab":
        rig.enqueue(queue=queue)

    assert await cancel(client, "?queueName=b&count=2") == 2
    assert await cancel(client, body={"queueName": "b", "count": 100}) == 2


async def test_at_most_500_are_called_off_by_a_call_with_a_count(client: httpx.AsyncClient, rig: Rig) -> None:
    for _ in range(501):
        rig.enqueue(queue="wide", spec=WIDE)

    assert [await cancel(client, "?count=500"), await cancel(client, "?count=500")] == [500, 1]


async def test_all_are_called_off_when_nothing_is_said(client: httpx.AsyncClient, rig: Rig) -> None:
    outgoing = Outgoing("https://app.example/hook", b"", Options(queue=WIDE), "wide")
    rig.broker.accept([outgoing] * 1200)
    waiting, held = await in_flight(rig, queue="other")

    assert await cancel(client) == 1201
    held.release()
    await rig.node.dispatcher.idle()

    assert (lag(rig), await rig.turn()) == (0, 0)
    assert rig.states(waiting).endswith("CANCELED")


async def test_an_empty_object_calls_all_off(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.enqueue()

    assert await cancel(client, body={}) == 1


async def test_published_messages_are_called_off_too(client: httpx.AsyncClient, rig: Rig) -> None:
    headers = {"Upstash-Delay": "10m"}
    answer = await client.post("/v2/publish/https://app.example/hook", headers=headers)

    assert await cancel(client) == 1
    assert rig.states(answer.json()["messageId"]) == CALLED_OFF


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "/",
        "?queuName=a",
        "?foo=1",
        "?state=ACTIVE",
        "?queueName=",
        "?messageIds=",
        "?label=red&host=",
        "?count=0",
        "?count=-1",
        "?count=x",
        "?count=1.5",
        "?fromDate=yesterday",
        "?toDate=-1",
        "?fromDate=1e3",
    ],
)
async def test_a_query_that_might_widen_a_cancellation_is_refused(
    client: httpx.AsyncClient, rig: Rig, query: str
) -> None:
    rig.enqueue()

    answer = await client.delete(f"/v2/messages{query}")

    assert (answer.status_code, answer.json().keys(), lag(rig)) == (400, {"error"}, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"mail"',
        b"null",
        b"1",
        b"messageIds=1",
        b"\xff",
        b'{"queuName": "mail"}',
        b'{"queueName": []}',
        b'{"queueName": ""}',
        b'{"queueName": [""]}',
        b'{"label": null}',
        b'{"messageIds": null}',
        b'{"messageIds": [null]}',
        b'{"messageIds": {"a": 1}}',
        b'{"messageIds": [["a"]]}',
        b'{"queueName": true}',
        b'{"fromDate": []}',
        b'{"fromDate": 1.5}',
        b'{"fromDate": -1}',
        b'{"count": 0}',
        b'{"count": []}',
        b'{"count": "many"}',
    ],
)
async def test_a_body_that_might_widen_a_cancellation_is_refused(
    client: httpx.AsyncClient, rig: Rig, body: bytes
) -> None:
    rig.enqueue()

    answer = await client.request("DELETE", "/v2/messages", content=body)

    assert (answer.status_code, answer.json().keys(), lag(rig)) == (400, {"error"}, 1)


@pytest.mark.parametrize("body", [{"messageIds": ["msg_1"]}, {"queueName": "other"}])
async def test_a_slash_at_the_end_does_no_harm_where_something_is_named(
    client: httpx.AsyncClient, rig: Rig, body: Any
) -> None:
    rig.enqueue()

    assert (await cancel(client, "/", body), lag(rig)) == (0, 1)


async def test_what_is_called_off_needs_the_token(rig: Rig) -> None:
    message_id = rig.enqueue()

    async with client_of(rig, Authorization="Bearer wrong") as stranger:
        answers = [await stranger.delete(f"/v2/messages{each}") for each in ("", f"/{message_id}")]

    assert [each.status_code for each in answers] == [401, 401]
    assert lag(rig) == 1


# --- by the task that is called: ours ---------------------------------------------------------------


async def test_tasks_are_called_off_by_their_name(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.broker.set_queue("tasks", 1, True)
    for number, name in enumerate(("mail", "video", "post", "mail")):
        rig.call(f"tsk_{number}", f'{{"task":"{name}"}}'.encode(), labels=("red",) if number < 3 else ())

    counts = [
        await cancel(client, "?task=nothing"),
        await cancel(client, "?task=mail,post&label=red"),
        await cancel(client, body={"task": ["mail", "video"]}),
    ]

    assert counts == [0, 2, 2]


async def test_only_what_is_pending_can_be_asked_for_by_task(client: httpx.AsyncClient) -> None:
    for path in ("/v2/logs?task=mail", "/v2/dlq?task=mail"):
        answer = await client.get(path)
        assert (answer.status_code, "unknown query parameter" in answer.text) == (400, True)


async def test_hosted_qstash_knows_no_tasks(tmp_path: Path) -> None:
    rig = Rig(tmp_path, strict=True)
    async with client_of(rig) as client:
        answer = await client.delete("/v2/messages?task=mail")
    rig.database.close()

    assert (answer.status_code, "unknown query parameter" in answer.text) == (400, True)
