"""Each operation of the wire's index, by its row: what it answers, and what it answers when it refuses.

Here are all refusals, messages and queues (rows 1 to 12), and the extra routes that clients and pages use;
rows 13 to 40 are in `test_endpoint_index_from_13.py`. Finer points are in the tests of the rooms.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.contract import test_endpoint_index_from_13
from tests.support.broker import HOOK, Held
from tests.support.contract import CALLER, LIMITS, Bench, MakeBench, bench_of, uncited
from tests.support.homes import TOKEN

LONGER_THAN_ANY_KEY = "k" * 5000

# What the index lists for a row, with nothing but the error's text in the answer.
REFUSALS: list[tuple[int, int, str, str, dict[str, Any], str]] = [
    (1, 400, "POST", "/v2/publish/", {}, "a non-empty destination must be provided"),
    (
        1,
        400,
        "POST",
        "/v2/publish/app.example/hook",
        {},
        "invalid destination url: endpoint has invalid scheme, add http:// or https://",
    ),
    (1, 400, "POST", f"/v2/publish/{HOOK}", {"headers": {"Upstash-Delay": "10x"}}, "Upstash-Delay: "),
    (1, 404, "POST", "/v2/publish/orders", {}, "topic orders not found"),
    (
        1,
        400,
        "POST",
        "/v2/publish/https://10.0.0.1/hook",
        {},
        "invalid destination url: endpoint resolves to a private address: 10.0.0.1",
    ),
    (
        1,
        400,
        "POST",
        f"/v2/publish/{HOOK}",
        {"headers": {"Upstash-Deduplication-Id": "a:b"}},
        "DeduplicationId cannot contain ':'",
    ),
    (
        1,
        400,
        "POST",
        f"/v2/publish/{HOOK}",
        {"headers": {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "period=1m"}},
        "Upstash-Flow-Control-Value should be either rate=X or parallelism=Y, "
        "or both as comma-separated values",
    ),
    (
        1,
        400,
        "POST",
        f"/v2/publish/{HOOK}",
        {"headers": {"Upstash-Callback": "app.example/callback"}},
        "invalid callback url",
    ),
    (2, 400, "POST", f"/v2/enqueue/a%20b/{HOOK}", {}, "invalid queue name "),
    (2, 404, "POST", "/v2/enqueue/mail/orders", {}, "topic orders not found"),
    (3, 400, "POST", "/v2/batch", {"content": b"["}, "the body "),
    (4, 404, "GET", "/v2/messages/msg_gone", {}, "message msg_gone not found"),
    (5, 404, "DELETE", "/v2/messages/msg_gone", {}, "message msg_gone not found"),
    (7, 400, "POST", "/v2/queues", {"json": {"queueName": "a b"}}, "invalid queue name "),
    (9, 400, "GET", "/v2/queues/a%20b", {}, "invalid queue name "),
    (9, 404, "GET", "/v2/queues/mail", {}, "queue mail not found"),
    (11, 400, "POST", "/v2/queues/a%20b/pause", {}, "invalid queue name "),
    (12, 400, "POST", "/v2/queues/a%20b/resume", {}, "invalid queue name "),
    (13, 400, "POST", f"/v2/schedules/{HOOK}", {}, "Upstash-Cron"),
    (13, 400, "POST", f"/v2/schedules/{HOOK}", {"headers": {"Upstash-Cron": "61 * * * *"}}, "Upstash-Cron: "),
    (
        13,
        400,
        "POST",
        f"/v2/schedules/{HOOK}",
        {"headers": {"Upstash-Cron": "* * * * *", "Upstash-Schedule-Id": "a b"}},
        "Upstash-Schedule-Id: ",
    ),
    (15, 404, "GET", "/v2/schedules/scd_gone", {}, "schedule scd_gone not found"),
    (20, 404, "GET", "/v2/topics/orders", {}, "topic orders not found"),
    (26, 404, "GET", "/v2/dlq/1700000000000-1", {}, "dlq message 1700000000000-1 not found"),
    (27, 404, "DELETE", "/v2/dlq/1700000000000-1", {}, "dlq message 1700000000000-1 not found"),
    (28, 404, "POST", "/v2/dlq/retry/1700000000000-1", {}, "dlq message 1700000000000-1 not found"),
    (29, 404, "POST", "/v2/dlq/retry?dlqIds=1700000000000-1", {}, ""),
    (31, 404, "GET", "/v2/flowControl/tenant", {}, ""),
    (32, 400, "POST", f"/v2/flowControl/{LONGER_THAN_ANY_KEY}/pause", {}, ""),
    (33, 400, "POST", f"/v2/flowControl/{LONGER_THAN_ANY_KEY}/resume", {}, ""),
    (34, 400, "POST", "/v2/flowControl/tenant/pin", {}, ""),
    (34, 400, "POST", "/v2/flowControl/tenant/pin?parallelism=0", {}, "parallelism"),
    (34, 400, "POST", "/v2/flowControl/tenant/pin?rate=many", {}, "rate"),
    (34, 400, "POST", "/v2/flowControl/tenant/pin?rate=1&period=8d", {}, "period"),
    (35, 400, "POST", "/v2/flowControl/tenant/unpin?rate=perhaps", {}, "rate"),
    (36, 400, "POST", "/v2/flowControl/tenant/resetRate?rate=true", {}, ""),
]


@pytest.mark.parametrize(
    ("method", "path", "request_", "status", "text"),
    [
        pytest.param(method, path, request, status, text, id=f"row {row}: {status}")
        for row, status, method, path, request, text in REFUSALS
    ],
)
async def test_what_a_row_lists_as_an_error_is_answered_so(
    bench: Bench, method: str, path: str, request_: dict[str, Any], status: int, text: str
) -> None:
    error = await bench.refusal(method, path, status, **request_)

    assert error.startswith(text)
    assert error


async def test_without_the_right_token_every_row_answers_401(bench: Bench) -> None:
    rows = [("POST", f"/v2/publish/{HOOK}"), ("POST", "/v2/batch"), ("GET", "/v2/keys"), ("GET", "/v2/logs")]

    for token in (None, "another"):
        async with bench_of(bench.rig, token) as stranger:
            for method, path in rows:
                error = await stranger.refusal(method, path, 401)
                assert error == "unable to authenticate: invalid token"


async def test_with_a_token_in_the_query_or_a_bearer_in_any_case_every_row_is_open(bench: Bench) -> None:
    async with bench_of(bench.rig, None) as anybody:
        await anybody.get(f"/v2/queues?qstash_token={TOKEN}")
        await anybody.ask("GET", "/v2/queues", headers={"Authorization": f"bearer {TOKEN}"})
        # The header goes before the query.
        path = f"/v2/queues?qstash_token={TOKEN}"
        await anybody.refusal("GET", path, 401, headers={"Authorization": "Bearer another"})


# --- messages -------------------------------------------------------------------------------------


async def test_row_01_post_publish_accepts_a_message(bench: Bench) -> None:
    answer = await bench.ask("POST", f"/v2/publish/{HOOK}", content=b"hello")
    attempts = await bench.run()

    assert list(answer) == ["messageId"]
    assert re.fullmatch(r"msg_\w{10,60}", answer["messageId"])
    assert [(each.id, each.body) for each in attempts] == [(answer["messageId"], b"hello")]


async def test_row_01_post_publish_answers_202_to_a_duplicate_and_stores_nothing(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "once"}
    first = await bench.publish(headers=headers)

    answer = await bench.ask("POST", f"/v2/publish/{HOOK}", status=202, headers=headers)

    assert answer == {"messageId": first, "deduplicated": True}
    assert len((await bench.get("/v2/events"))["events"]) == 1


async def test_row_01_post_publish_to_a_url_group_makes_a_message_for_each_endpoint(bench: Bench) -> None:
    await bench.group("orders", [{"name": "billing", "url": "https://a.example"}, "https://b.example"])

    answer = await bench.ask("POST", "/v2/publish/orders", content=b"hello")
    attempts = await bench.run()

    assert [each["url"] for each in answer] == ["https://a.example", "https://b.example"]
    assert sorted((each.id, each.url) for each in attempts) == sorted(
        (each["messageId"], each["url"]) for each in answer
    )
    first, second = [await bench.message(each["messageId"]) for each in answer]
    assert (first["topicName"], first["endpointName"]) == ("orders", "billing")
    assert second["topicName"] == "orders"
    assert "endpointName" not in second


async def test_row_02_post_enqueue_puts_a_message_into_a_queue(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "once"}
    first = await bench.enqueue("mail", headers=headers)

    again = await bench.ask("POST", f"/v2/enqueue/mail/{HOOK}", status=202, headers=headers)

    assert (await bench.message(first))["queueName"] == "mail"
    assert again == {"messageId": first, "deduplicated": True}


async def test_row_02_post_enqueue_of_a_url_group_keeps_the_order_of_its_endpoints(bench: Bench) -> None:
    await bench.group("orders", ["https://b.example", "https://a.example"])

    answer = await bench.ask("POST", "/v2/enqueue/mail/orders")
    attempts = await bench.run()

    assert [each["url"] for each in answer] == ["https://b.example", "https://a.example"]
    assert [each.url for each in attempts] == ["https://b.example", "https://a.example"]


async def test_row_03_post_batch_answers_with_one_element_for_each_item(bench: Bench) -> None:
    await bench.group()

    answer = await bench.batch(
        {"destination": HOOK, "body": "hello", "headers": {"upstash-retries": "1"}},
        {"destination": "orders", "body": None, "queue": ""},
        {"destination": HOOK, "queue": "mail", "more": "is ignored"},
    )

    assert list(answer[0]) == ["messageId"]
    assert [each["url"] for each in answer[1]] == ["https://a.example", "https://b.example"]
    first = await bench.message(answer[0]["messageId"])
    assert (first["body"], first["maxRetries"]) == ("hello", 1)
    assert (await bench.message(answer[2]["messageId"]))["queueName"] == "mail"


async def test_row_03_post_batch_takes_lists_of_strings_and_ignores_settings_of_the_call_itself(
    bench: Bench,
) -> None:
    item = {"destination": HOOK, "headers": {"upstash-forward-x-tenant": ["42", "43"]}}

    answer = await bench.ask(
        "POST",
        "/v2/batch",
        json=[item],
        headers={"Upstash-Retries": "9", "Upstash-Delay": "nonsense", "Upstash-Forward-X-More": "1"},
    )

    message = await bench.message(answer[0]["messageId"])
    # The content type of the call is not that of its items either.
    assert (message["header"], message["maxRetries"]) == ({"X-Tenant": ["42, 43"]}, 3)


async def test_row_04_get_message_shows_it(bench: Bench) -> None:
    headers = {"Content-Type": "text/plain", "Upstash-Forward-test-header": "42", "Upstash-Label": "a,b"}
    now = bench.rig.clock.now()

    message_id = await bench.publish(f"{HOOK}?x=1", "hello", headers)

    assert await bench.message(message_id) == {
        "messageId": message_id,
        "url": f"{HOOK}?x=1",
        "method": "POST",
        "header": {"Content-Type": ["text/plain"], "Test-Header": ["42"]},
        "body": "hello",
        "maxRetries": 3,
        "notBefore": now,
        "createdAt": now,
        "callerIP": CALLER,
        "callerIp": CALLER,
        "label": "a",
        "labels": ["a", "b"],
        "timeout": 7_200_000,
    }


async def test_row_04_get_message_shows_a_body_that_is_no_text_as_base64(bench: Bench) -> None:
    message = await bench.message(await bench.publish(body=b"\xff\xfe"))

    assert message["bodyBase64"] == "//4="
    assert "body" not in message


async def test_row_05_delete_message_calls_it_off(bench: Bench) -> None:
    message_id = await bench.publish(headers={"Upstash-Delay": "1h"})

    assert await bench.ask("DELETE", f"/v2/messages/{message_id}") == {"cancelled": 1}
    assert await bench.states(message_id) == "CREATED CANCEL_REQUESTED CANCELED"


async def test_row_05_delete_message_of_a_finished_one_answers_404(bench: Bench) -> None:
    message_id = await bench.publish()
    await bench.run()

    error = await bench.refusal("DELETE", f"/v2/messages/{message_id}", 404)

    assert error == f"message {message_id} not found"


@pytest.mark.parametrize(
    ("query", "cancelled"),
    [
        ("topicName=orders", 2),
        ("queueName=mail", 1),
        (f"url={HOOK}", 3),
        ("host=a.example", 1),
        ("path=/hook", 3),
        ("label=night", 1),
        ("flowControlKey=tenant", 1),
        ("fromDate=1700000001000", 1),
        ("toDate=1700000000999", 4),
        (f"callerIp={CALLER}", 5),
        (f"callerIP={CALLER}", 5),
        ("callerIp=192.0.2.1", 0),
        ("label=night&flowControlKey=tenant", 0),
        ("host=a.example&host=b.example", 2),
        ("host=a.example,b.example", 2),
        (f"url={HOOK}&count=2", 2),
    ],
)
async def test_row_06_delete_messages_calls_off_what_its_filters_say(
    bench: Bench, query: str, cancelled: int
) -> None:
    await bench.group()
    later = {"Upstash-Delay": "1h"}
    await bench.ask("POST", "/v2/publish/orders", headers=later)
    await bench.publish(headers=later | {"Upstash-Label": "import,night"})
    await bench.enqueue("mail")
    bench.rig.clock.advance(1000)
    limits = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "rate=1"}
    await bench.publish(headers=later | limits)

    assert await bench.ask("DELETE", f"/v2/messages?{query}") == {"cancelled": cancelled}


async def test_row_06_delete_messages_knows_those_of_a_schedule(bench: Bench) -> None:
    wanted = await bench.schedule()
    await bench.schedule()
    await bench.tick()

    assert await bench.ask("DELETE", f"/v2/messages?scheduleId={wanted}") == {"cancelled": 1}


# --- queues ---------------------------------------------------------------------------------------


async def test_row_07_post_queues_makes_or_changes_a_queue(bench: Bench) -> None:
    assert await bench.ask("POST", "/v2/queues", json={"queueName": "mail"}) is None
    first = await bench.get("/v2/queues/mail")
    bench.rig.clock.advance(1000)
    changed = {"queueName": "mail", "parallelism": 5, "paused": True}
    assert await bench.ask("POST", "/v2/queues", json=changed) is None
    second = await bench.get("/v2/queues/mail")

    assert (first["parallelism"], first["paused"]) == (1, False)
    assert (second["parallelism"], second["paused"]) == (5, True)
    assert (second["createdAt"], second["updatedAt"]) == (first["createdAt"], first["updatedAt"] + 1000)


@pytest.mark.parametrize(
    "over", [{"queueName": "import"}, {"queueName": "mail", "parallelism": 3}], ids=["queues", "parallelism"]
)
async def test_row_07_post_queues_over_a_quota_is_answered_412(
    make_bench: MakeBench, over: dict[str, object]
) -> None:
    bench = await make_bench(max_queues=1, max_parallelism=2)
    await bench.ask("POST", "/v2/queues", json={"queueName": "mail", "parallelism": 1})

    error = await bench.refusal("POST", "/v2/queues", 412, json=over)
    await bench.ask("POST", "/v2/queues", json={"queueName": "mail", "parallelism": 2})

    assert error.startswith("quota ")
    assert [(each["name"], each["parallelism"]) for each in await bench.get("/v2/queues")] == [("mail", 2)]


async def test_row_08_get_queues_lists_them(bench: Bench) -> None:
    assert await bench.get("/v2/queues") == []

    await bench.enqueue("mail")
    await bench.enqueue("import")

    assert sorted(each["name"] for each in await bench.get("/v2/queues")) == ["import", "mail"]


async def test_row_09_get_queue_always_shows_all_members(bench: Bench) -> None:
    await bench.enqueue("mail")

    queue = await bench.get("/v2/queues/mail")

    now = bench.rig.clock.now()
    wanted = {"name": "mail", "createdAt": now, "updatedAt": now, "parallelism": 1, "paused": False, "lag": 1}
    assert wanted.items() <= queue.items()


async def test_row_10_delete_queue_drops_it_with_what_waits_in_it(bench: Bench) -> None:
    message_id = await bench.enqueue("mail")

    for _ in range(2):
        await bench.ask("DELETE", "/v2/queues/mail")

    assert await bench.get("/v2/queues") == []
    assert (await bench.states(message_id)).endswith("CANCELED")


async def test_row_11_post_queue_pause_starts_nothing_more(bench: Bench) -> None:
    await bench.enqueue("mail")

    for _ in range(2):
        assert await bench.ask("POST", "/v2/queues/mail/pause") is None

    assert (await bench.get("/v2/queues/mail"))["paused"] is True
    assert await bench.run() == []


async def test_row_11_post_queue_pause_lets_what_is_in_flight_end(bench: Bench) -> None:
    held = Held()
    bench.rig.deliverer.will(held)
    first = await bench.enqueue("mail")
    second = await bench.enqueue("mail")
    await bench.rig.node.dispatcher.step()
    await bench.rig.deliverer.reached(1)

    await bench.ask("POST", "/v2/queues/mail/pause")
    held.release()
    await bench.run()

    assert await bench.states(first) == "CREATED ACTIVE DELIVERED"
    assert await bench.states(second) == "CREATED"


async def test_row_12_post_queue_resume_goes_on_with_the_oldest(bench: Bench) -> None:
    await bench.enqueue("mail", "first")
    await bench.ask("POST", "/v2/queues/mail/pause")
    await bench.enqueue("mail", "second")

    for _ in range(2):
        assert await bench.ask("POST", "/v2/queues/mail/resume") is None

    assert [each.body for each in await bench.run()] == [b"first", b"second"]


# --- the routes beside the index ------------------------------------------------------------------


async def test_extra_route_01_get_events_is_the_log_under_another_key(bench: Bench) -> None:
    await bench.publish()
    await bench.run()

    events, logs = await bench.get("/v2/events"), await bench.get("/v2/logs")

    assert list(events) == ["events"]
    assert events["events"] == logs["logs"]
    assert len(events["events"]) == 3


@pytest.mark.parametrize("method", ["PATCH", "POST", "PUT"])
async def test_extra_route_02_schedules_are_paused_and_resumed_with_any_of_three_methods(
    bench: Bench, method: str
) -> None:
    path = f"/v2/schedules/{await bench.schedule()}"

    await bench.ask(method, f"{path}/pause")
    paused = await bench.get(path)
    await bench.ask(method, f"{path}/resume")
    resumed = await bench.get(path)

    assert (paused["isPaused"], resumed["isPaused"]) == (True, False)


async def test_extra_route_03_patch_topic_sets_the_default_headers_of_a_group(bench: Bench) -> None:
    await bench.group()
    defaults = {"Upstash-Header-Forward": ["true"], "Upstash-Retries": "5"}
    # The pages send it without a JSON content type.
    body = httpx.Request("PATCH", "http://broker", json={"headers": defaults}).content

    await bench.ask("PATCH", "/v2/topics/orders", content=body)
    answer = await bench.ask("POST", "/v2/publish/orders", headers={"X-Plain": "seen"})

    for each in answer:
        message = await bench.message(each["messageId"])
        assert (message["maxRetries"], message["header"]["X-Plain"]) == (5, ["seen"])
    error = await bench.refusal("PATCH", "/v2/topics/gone", 404, json={"headers": defaults})
    assert error == "topic gone not found"


async def test_extra_route_04_get_flow_control_can_be_searched(bench: Bench) -> None:
    for key in ("tenant-1", "tenant-2", "mail"):
        await bench.publish(headers=LIMITS | {"Upstash-Flow-Control-Key": key})

    found = await bench.get("/v2/flowControl?search=nant")

    assert sorted(each["flowControlKey"] for each in found) == ["tenant-1", "tenant-2"]


async def test_extra_route_05_post_flow_control_reset_is_the_older_name_of_reset_rate(bench: Bench) -> None:
    await bench.publish(headers=LIMITS)
    await bench.run()
    before = await bench.flow("tenant")

    await bench.ask("POST", "/v2/flowControl/tenant/reset")

    assert (before["rateCount"], (await bench.flow("tenant"))["rateCount"]) == (1, 0)


async def test_extra_route_06_publish_with_a_cron_makes_a_schedule(bench: Bench) -> None:
    answer = await bench.ask("POST", f"/v2/publish/{HOOK}", headers={"Upstash-Cron": "* * * * *"})

    assert list(answer) == ["scheduleId"]
    assert await bench.run() == []
    assert await bench.tick() == 1


async def test_extra_route_07_words_in_paths_are_known_in_any_case(bench: Bench) -> None:
    schedule_id = await bench.schedule()

    assert (await bench.get(f"/v2/Schedules/{schedule_id}"))["scheduleId"] == schedule_id


async def test_extra_route_08_post_rotate_rotates_the_keys_as_well(bench: Bench) -> None:
    before = await bench.get("/v2/keys")

    assert (await bench.ask("POST", "/v2/rotate"))["current"] == before["next"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/llm/v1/chat/completions"),
        ("POST", f"/v2/trigger/{HOOK}"),
        ("POST", "/v2/batch/trigger"),
        ("DELETE", "/v2/workflows/runs/wfr_1"),
        ("GET", "/v2/workflows/logs"),
        ("GET", "/v2/workflows/dlq"),
        ("POST", "/v2/notify/event"),
        ("GET", "/v2/waiters/event"),
    ],
)
async def test_extra_route_09_what_is_not_offered_is_not_found(bench: Bench, method: str, path: str) -> None:
    await bench.refusal(method, path, 404)


async def test_extra_route_10_get_keys_rotate_is_refused_because_reading_changes_nothing(
    bench: Bench,
) -> None:
    before = await bench.get("/v2/keys")

    await bench.refusal("GET", "/v2/keys/rotate", 405)

    assert await bench.get("/v2/keys") == before


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_extra_route_11_health_is_told_outside_v2_and_without_a_token(bench: Bench, path: str) -> None:
    async with bench_of(bench.rig, None) as stranger:
        await stranger.ask("GET", path)
        await stranger.refusal("GET", f"/v2{path}", 404)


async def test_extra_route_11_the_description_of_the_api_is_there(bench: Bench) -> None:
    description = await bench.get("/openapi.json")

    assert description["openapi"].startswith("3.")
    assert "/v2/logs" in description["paths"]


# What the index lists and no request of a test can bring about.
UNTESTED = {
    (36, 500): "an internal error cannot be asked for",
}
LISTED = {
    *((1, 400), (2, 400), (2, 404), (3, 400), (4, 404), (5, 404), (7, 400), (7, 412), (9, 400), (9, 404)),
    *((11, 400), (12, 400), (13, 400), (13, 412), (15, 404), (20, 404), (26, 404), (27, 404), (28, 404)),
    *((29, 404), (31, 404), (32, 400), (33, 400), (34, 400), (35, 400), (36, 400), (36, 500)),
}
QUOTA_TEST = re.compile(r"test_row_(\d\d)_.*_is_answered_(412)")


def test_every_row_is_cited() -> None:
    names = [*globals(), *vars(test_endpoint_index_from_13)]
    quotas = {(int(found[1]), int(found[2])) for found in map(QUOTA_TEST.fullmatch, names) if found}
    refusals = {(row, status) for row, status, *_ in REFUSALS}

    assert uncited(names, r"test_row_(\d\d)_", 40, {}) == []
    assert uncited(names, r"test_extra_route_(\d\d)_", 11, {}) == []
    assert LISTED - refusals - quotas - set(UNTESTED) == set()
