"""Where the sources of the wire disagree or are silent: our answer to each of the 57 questions, by number.

Rows 1 to 29 are here, 30 to 57 in `test_ambiguities_from_30.py`, with the check that none is missing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from qtasks.broker.store.records import Reply
from tests.support.broker import HOOK
from tests.support.contract import (
    BROKEN,
    CALLBACK,
    CALLER,
    ENDPOINTS,
    FAILURE_CALLBACK,
    MISSING,
    Bench,
    Headers,
    MakeBench,
    Standalone,
    claims_of,
    told,
    unpacked,
)

ONCE = {"Upstash-Deduplication-Id": "once"}
OTHER = "https://app.example/other"


async def test_section_10_row_01_the_answer_to_a_group_is_a_bare_array(bench: Bench) -> None:
    await bench.group()

    answer = await bench.ask("POST", "/v2/publish/orders")

    assert isinstance(answer, list)
    assert [each["url"] for each in answer] == list(ENDPOINTS)


async def test_section_10_row_02_publishing_answers_200_and_a_duplicate_202(bench: Bench) -> None:
    first = await bench.http.post(f"/v2/publish/{HOOK}", headers=ONCE)
    second = await bench.http.post(f"/v2/publish/{HOOK}", headers=ONCE)

    assert (first.status_code, second.status_code) == (200, 202)


async def test_section_10_row_03_only_the_items_of_a_group_tell_their_url(bench: Bench) -> None:
    await bench.group()

    one = await bench.ask("POST", f"/v2/publish/{HOOK}")
    many = await bench.ask("POST", "/v2/publish/orders")

    assert sorted(one) == ["messageId"]
    assert [sorted(each) for each in many] == [["messageId", "url"]] * 2


async def test_section_10_row_04_a_single_cancel_answers_with_its_count(bench: Bench) -> None:
    message_id = await bench.publish()

    answer = await bench.http.delete(f"/v2/messages/{message_id}")

    assert (answer.status_code, answer.json()) == (200, {"cancelled": 1})
    assert answer.headers["content-type"] == "application/json"


async def test_section_10_row_05_canceled_is_written_with_one_l_and_read_with_one_or_two(
    bench: Bench,
) -> None:
    message_id = await bench.publish()
    await bench.ask("DELETE", f"/v2/messages/{message_id}")

    for spelling in ("CANCELED", "CANCELLED"):
        page = await bench.get(f"/v2/events?state={spelling}")
        assert [each["state"] for each in page["events"]] == ["CANCELED"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_section_10_row_06_a_schedule_is_paused_by_post_and_by_patch(bench: Bench, method: str) -> None:
    schedule_id = await bench.schedule()

    await bench.ask(method, f"/v2/schedules/{schedule_id}/pause")

    assert (await bench.get(f"/v2/schedules/{schedule_id}"))["isPaused"] is True


async def test_section_10_row_07_the_log_has_two_routes_with_a_key_and_a_page_size_each(
    bench: Bench,
) -> None:
    for _ in range(11):
        await bench.batch(*[{"destination": HOOK}] * 100)

    for path, key, most in (("/v2/logs", "logs", 100), ("/v2/events", "events", 1000)):
        for query in ("", f"?count={most + 1}"):
            page = await bench.get(f"{path}{query}")
            assert sorted(page) == ["cursor", key]
            assert len(page[key]) == most


async def test_section_10_row_08_disputed_names_are_written_both_ways_and_read_in_any_case(
    bench: Bench,
) -> None:
    bench.rig.deliverer.will(MISSING)
    message_id = await bench.publish(headers={"Upstash-Retry-Delay": "1000"})
    await bench.run()
    _, _, error, _ = await bench.entries(message_id)
    schedule = await bench.get(f"/v2/schedules/{await bench.schedule()}")

    assert error["responseHeaders"] == error["responseHeader"] == {"Content-Type": ["text/plain"]}
    assert error["retryDelayExpression"] == error["retryDelayExpr"] == "1000"
    for each in (error, schedule, await bench.message(message_id)):
        assert each["callerIP"] == each["callerIp"] == CALLER
    for name in ("callerIp", "callerIP", "CALLERIP"):
        assert len((await bench.get(f"/v2/events?{name}={CALLER}"))["events"]) == 4
        assert (await bench.get(f"/v2/events?{name}=192.0.2.1"))["events"] == []


async def test_section_10_row_09_the_default_backoff_is_e_to_the_two_and_a_half_n(
    make_bench: MakeBench,
) -> None:
    bench = await make_bench(strict=True)
    bench.rig.deliverer.will(*[BROKEN] * 6)
    message_id = await bench.publish(headers={"Upstash-Retries": "6"})

    waits_s = []
    for _ in range(6):
        await bench.run()
        retry = (await bench.entries(message_id))[-1]
        waits_s.append((retry["nextDeliveryTime"] - retry["time"]) / 1000)
        bench.rig.clock.advance(retry["nextDeliveryTime"] - bench.rig.clock.now())

    assert waits_s == [12, 148, 1808, 22026, 86400, 86400]


async def test_section_10_row_10_three_retries_are_the_default_of_the_default(make_bench: MakeBench) -> None:
    bench = await make_bench(default_retries=5)
    assert (await bench.message(await bench.publish()))["maxRetries"] == 5


async def test_section_10_row_10_three_retries_are_the_default(bench: Bench) -> None:
    assert (await bench.message(await bench.publish()))["maxRetries"] == 3


async def test_section_10_row_11_the_callback_is_called_after_each_attempt(bench: Bench) -> None:
    bench.rig.deliverer.will(BROKEN)
    message_id = await bench.publish(headers={"Upstash-Callback": CALLBACK})

    await bench.run()
    bench.rig.clock.advance(seconds=15)
    await bench.run()

    calls = [told(each) for each in bench.seen(CALLBACK)]
    assert [(each["status"], each["retried"]) for each in calls] == [(500, 0), (200, 1)]
    assert {each["sourceMessageId"] for each in calls} == {message_id}
    assert {each["maxRetries"] for each in calls} == {3}


@pytest.mark.parametrize(
    ("headers", "retries"),
    [
        ({}, 3),
        ({"Upstash-Retries": "5"}, 5),
        ({"Upstash-Retries": "0"}, 0),
        ({"Upstash-Retries": "5", "Upstash-Callback-Retries": "1"}, 1),
    ],
)
async def test_section_10_row_12_a_callback_has_as_many_retries_as_its_message(
    bench: Bench, headers: Headers, retries: int
) -> None:
    await bench.publish(headers={"Upstash-Callback": CALLBACK, **headers})

    await bench.run()

    [callback] = await bench.messages_to(CALLBACK)
    assert callback["maxRetries"] == retries


async def test_section_10_row_13_a_callback_may_be_delayed(bench: Bench) -> None:
    await bench.publish(headers={"Upstash-Callback": CALLBACK, "Upstash-Callback-Delay": "1h"})

    await bench.run()
    at_once = len(bench.seen(CALLBACK))
    bench.rig.clock.advance(hours=1)
    await bench.run()

    assert (at_once, len(bench.seen(CALLBACK))) == (0, 1)


@pytest.mark.parametrize("family", ["Upstash-Callback", "Upstash-Failure-Callback"])
async def test_section_10_row_13_a_callback_may_not_be_delayed_from_a_queue(
    bench: Bench, family: str
) -> None:
    headers = {family: CALLBACK, f"{family}-Delay": "1h"}

    error = await bench.refusal("POST", f"/v2/enqueue/mail/{HOOK}", 400, headers=headers)

    assert f"{family}-Delay" in error
    assert await bench.get("/v2/queues") == []


async def test_section_10_row_14_instants_in_a_callback_are_numbers_and_headers_lists(bench: Bench) -> None:
    now = bench.rig.clock.now()
    headers = {"Upstash-Callback": CALLBACK, "Content-Type": "text/plain", "Upstash-Forward-X-Tenant": "42"}
    await bench.publish(body="hello", headers=headers)

    await bench.run()

    [call] = [told(each) for each in bench.seen(CALLBACK)]
    assert (call["createdAt"], call["notBefore"]) == (now, now)
    assert call["sourceHeader"] == {"Content-Type": ["text/plain"], "X-Tenant": ["42"]}
    assert unpacked(call["sourceBody"]) == b"hello"


async def test_section_10_row_15_an_id_is_remembered_for_ten_minutes(bench: Bench) -> None:
    first = await bench.publish(headers=ONCE)
    await bench.run()

    bench.rig.clock.advance(minutes=9.99)
    known = await bench.ask("POST", f"/v2/publish/{HOOK}", status=202, headers=ONCE)
    bench.rig.clock.advance(minutes=0.02)
    second = await bench.publish(headers=ONCE)

    assert known["messageId"] == first != second


async def test_section_10_row_15_for_how_long_an_id_is_remembered_can_be_set(make_bench: MakeBench) -> None:
    bench = await make_bench(dedup_window_ms=1000)
    first = await bench.publish(headers=ONCE)

    bench.rig.clock.advance(seconds=1.001)

    assert await bench.publish(headers=ONCE) != first


CONTENT = {
    "Content-Type": "text/plain",
    "Upstash-Forward-X-Tenant": "42",
    "Upstash-Content-Based-Deduplication": "true",
}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upstash-Method": "PUT"},
        {"Upstash-Delay": "1h"},
        {"Upstash-Retries": "0"},
        {"Upstash-Callback": CALLBACK},
        {"Upstash-Label": "night"},
    ],
)
async def test_section_10_row_16_settings_are_no_part_of_the_content(bench: Bench, headers: Headers) -> None:
    first = await bench.publish(body="hello", headers=CONTENT)

    answer = await bench.http.post(f"/v2/publish/{HOOK}", content="hello", headers=CONTENT | dict(headers))

    assert (answer.status_code, answer.json()["messageId"]) == (202, first)


@pytest.mark.parametrize(
    ("destination", "body", "headers"),
    [
        (OTHER, "hello", {}),
        (f"{HOOK}?x=1", "hello", {}),
        (HOOK, "hello!", {}),
        (HOOK, "hello", {"Content-Type": "text/html"}),
        (HOOK, "hello", {"Upstash-Forward-X-Tenant": "43"}),
        (HOOK, "hello", {"Upstash-Forward-X-More": "1"}),
    ],
)
async def test_section_10_row_16_destination_body_and_forwarded_headers_are_the_content(
    bench: Bench, destination: str, body: str, headers: Headers
) -> None:
    first = await bench.publish(body="hello", headers=CONTENT)

    assert await bench.publish(destination, body, CONTENT | dict(headers)) != first


async def test_section_10_row_17_an_explicit_id_goes_before_the_content(bench: Bench) -> None:
    first = await bench.publish(body="hello", headers=CONTENT | ONCE)
    same = await bench.http.post(f"/v2/publish/{HOOK}", content="other", headers=CONTENT | ONCE)

    other_id = await bench.publish(body="hello", headers=CONTENT | {"Upstash-Deduplication-Id": "twice"})

    assert (same.status_code, same.json()["messageId"]) == (202, first)
    assert other_id != first


async def test_section_10_row_17_an_id_counts_across_destinations_and_queues(bench: Bench) -> None:
    first = await bench.publish(headers=ONCE)

    for path in (f"/v2/publish/{OTHER}", f"/v2/enqueue/mail/{HOOK}"):
        assert (await bench.ask("POST", path, status=202, headers=ONCE))["messageId"] == first


async def test_section_10_row_17_the_same_content_in_another_queue_is_another_message(bench: Bench) -> None:
    ids = {
        await bench.publish(body="hello", headers=CONTENT),
        await bench.enqueue("mail", "hello", CONTENT),
        await bench.enqueue("import", "hello", CONTENT),
    }

    assert len(ids) == 3


@pytest.mark.parametrize("headers", [ONCE, CONTENT], ids=["id", "content"])
async def test_section_10_row_18_a_group_is_a_duplicate_when_all_of_it_is(
    bench: Bench, headers: Headers
) -> None:
    await bench.group()
    first = await bench.ask("POST", "/v2/publish/orders", headers=headers)
    second = await bench.ask("POST", "/v2/publish/orders", status=202, headers=headers)
    await bench.group("orders", ["https://c.example"])
    third = await bench.ask("POST", "/v2/publish/orders", status=200, headers=headers)

    assert second == [each | {"deduplicated": True} for each in first]
    assert third[:2] == second
    assert (third[2]["url"], "deduplicated" in third[2]) == ("https://c.example", False)


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({}, 400),
        ({"destination": "app.example/hook"}, 400),
        ({"destination": HOOK, "headers": {"Upstash-Delay": "10x"}}, 400),
        ({"destination": HOOK, "headers": {"Upstash-Delay": "9999d"}}, 412),
        ({"destination": HOOK, "headers": {"Upstash-Retries": "99999"}}, 412),
        ({"destination": HOOK, "queue": "a b"}, 400),
        ({"destination": "nobody"}, 404),
    ],
)
async def test_section_10_row_19_an_invalid_item_refuses_the_whole_batch(
    bench: Bench, bad: dict[str, Any], status: int
) -> None:
    good = {"destination": HOOK, "headers": ONCE}

    error = await bench.refusal("POST", "/v2/batch", status, json=[good, bad])

    assert "1" in error.partition(":")[0]
    assert (await bench.get("/v2/events"))["events"] == []
    # What was refused has not used up the id either.
    await bench.publish(headers=ONCE)


async def test_section_10_row_20_enqueueing_makes_a_missing_queue(bench: Bench) -> None:
    await bench.enqueue("mail")

    queue = await bench.get("/v2/queues/mail")
    assert (queue["parallelism"], queue["paused"]) == (1, False)


@pytest.mark.parametrize(
    ("header", "value"), [("Upstash-Delay", "10s"), ("Upstash-Not-Before", "1700000060")]
)
async def test_section_10_row_21_a_message_in_a_queue_cannot_be_delayed(
    bench: Bench, header: str, value: str
) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        (f"/v2/enqueue/mail/{HOOK}", {"headers": {header: value, **ONCE}}),
        (f"/v2/enqueue/mail/{HOOK}?{header.lower()}={value}", {"headers": ONCE}),
        ("/v2/batch", {"json": [{"destination": HOOK, "queue": "mail", "headers": {header: value}}]}),
    ]

    for path, request in requests:
        assert header in await bench.refusal("POST", path, 400, **request)
    assert await bench.get("/v2/queues") == []
    await bench.enqueue("mail", headers=ONCE)


async def test_section_10_row_22_a_message_in_a_queue_has_no_flow_control(bench: Bench) -> None:
    limits = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "rate=1"}
    requests: list[tuple[str, dict[str, Any]]] = [
        (f"/v2/enqueue/mail/{HOOK}", {"headers": limits}),
        (
            f"/v2/enqueue/mail/{HOOK}?upstash-flow-control-key=tenant&upstash-flow-control-value=rate%3D1",
            {},
        ),
        ("/v2/batch", {"json": [{"destination": HOOK, "queue": "mail", "headers": limits}]}),
    ]

    for path, request in requests:
        assert "Upstash-Flow-Control" in await bench.refusal("POST", path, 400, **request)
    assert await bench.get("/v2/queues") == []
    assert await bench.get("/v2/flowControl") == []


@pytest.mark.parametrize("last", [Reply(200), BROKEN], ids=["delivered", "failed"])
async def test_section_10_row_23_a_queue_waits_for_the_final_outcome_of_callbacks(
    bench: Bench, last: Reply
) -> None:
    headers = {"Upstash-Callback": CALLBACK, "Upstash-Callback-Retries": "1"}
    await bench.enqueue("mail", "first", headers)
    await bench.enqueue("mail", "second", destination=OTHER)
    bench.rig.deliverer.will(Reply(200), BROKEN, last)

    before = [each.url for each in await bench.run()]
    bench.rig.clock.advance(seconds=15)
    after = [each.url for each in await bench.run()]

    assert before == [HOOK, CALLBACK]
    assert after == [CALLBACK, OTHER]


async def test_section_10_row_23_a_queue_goes_on_when_the_callback_is_called_off(bench: Bench) -> None:
    await bench.enqueue("mail", "first", {"Upstash-Callback": CALLBACK})
    await bench.enqueue("mail", "second", destination=OTHER)
    bench.rig.deliverer.will(Reply(200), BROKEN)
    before = [each.url for each in await bench.run()]

    await bench.ask("DELETE", f"/v2/messages?url={CALLBACK}")

    assert before == [HOOK, CALLBACK]
    assert [each.url for each in await bench.run()] == [OTHER]


async def test_section_10_row_23_a_queue_waits_for_failure_callbacks_too(bench: Bench) -> None:
    headers = {"Upstash-Failure-Callback": FAILURE_CALLBACK, "Upstash-Retries": "0"}
    await bench.enqueue("mail", "first", headers | {"Upstash-Failure-Callback-Retries": "1"})
    await bench.enqueue("mail", "second", destination=OTHER)
    bench.rig.deliverer.will(BROKEN, BROKEN)

    before = [each.url for each in await bench.run()]
    bench.rig.clock.advance(seconds=15)
    after = [each.url for each in await bench.run()]

    assert before == [HOOK, FAILURE_CALLBACK]
    assert after == [FAILURE_CALLBACK, OTHER]


async def test_section_10_rows_24_and_25_the_signature_has_no_earliest_time_and_a_padded_hash(
    standalone: Standalone,
) -> None:
    await standalone.publish(f"{standalone.receiver.url}/hook", b"hello")
    await standalone.receiver.reached(1)

    claims = claims_of(standalone.receiver.last.header("Upstash-Signature"))

    assert claims["nbf"] == 0
    assert claims["body"] == "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="


def marker(value: str) -> str:
    """What is shown instead of a value that is not to be seen."""
    return f"REDACTED:{hashlib.sha256(value.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("fields", "hidden"),
    [
        ("header", {"Authorization", "X-Tenant"}),
        ("headers", {"Authorization", "X-Tenant"}),
        ("header[authorization]", {"Authorization"}),
        ("headers[Authorization]", {"Authorization"}),
        ("body, header[X-Tenant]", {"X-Tenant"}),
    ],
)
async def test_section_10_row_26_header_and_headers_are_the_same_to_redaction(
    bench: Bench, fields: str, hidden: set[str]
) -> None:
    sent = {"Authorization": "secret", "X-Tenant": "42"}
    forwarded = {f"Upstash-Forward-{name}": value for name, value in sent.items()}

    message = await bench.message(await bench.publish(headers={"Upstash-Redact-Fields": fields, **forwarded}))

    assert message["header"] == {
        name: [marker(value) if name in hidden else value] for name, value in sent.items()
    }


async def test_section_10_row_27_a_redacted_body_is_in_the_log_as_base64_of_its_marker(bench: Bench) -> None:
    message_id = await bench.publish(body="hello", headers={"Upstash-Redact-Fields": "body"})
    await bench.run()

    entries = await bench.entries(message_id)

    assert len(entries) == 3
    assert {unpacked(each["body"]).decode() for each in entries} == {marker("hello")}


async def test_section_10_row_28_a_retry_by_filter_that_matches_nothing_is_no_error(bench: Bench) -> None:
    await bench.die()
    [letter] = await bench.letters()
    gone = "1700000000000-99"

    none = await bench.ask("POST", "/v2/dlq/retry?label=nobody", status=201)
    await bench.refusal("POST", f"/v2/dlq/retry?dlqIds={gone}", 404)
    some = await bench.ask("POST", f"/v2/dlq/retry?dlqIds={gone}&dlqIds={letter['dlqId']}", status=201)

    assert none["responses"] == []
    assert len(some["responses"]) == 1


async def test_section_10_row_29_there_is_no_cursor_at_the_end(bench: Bench) -> None:
    for _ in range(2):
        await bench.die()

    assert sorted(await bench.get("/v2/dlq?count=1")) == ["cursor", "messages"]
    assert sorted(await bench.get("/v2/dlq?count=2")) == ["messages"]
    assert sorted(await bench.get("/v2/events?count=8")) == ["events"]
    assert (await bench.ask("POST", "/v2/dlq/retry", status=201)).get("cursor", "") == ""
    assert sorted(await bench.ask("DELETE", "/v2/dlq")) == ["deleted"]
