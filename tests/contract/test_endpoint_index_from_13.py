"""Each operation of the wire's index, by its row: schedules, URL groups, dead letters, limits, keys, log.

Rows 1 to 12, what all rows refuse, and the check that no row is missing are in `test_endpoint_index.py`.
"""

from __future__ import annotations

import re

import pytest

from tests.support.broker import HOOK, Held
from tests.support.contract import (
    BROKEN,
    CALLBACK,
    CALLER,
    FAILURE_CALLBACK,
    LIMITS,
    MISSING,
    Bench,
    MakeBench,
)

# --- schedules ------------------------------------------------------------------------------------


async def test_row_13_post_schedules_makes_a_schedule(bench: Bench) -> None:
    headers = {"Upstash-Cron": "* * * * *"}
    answer = await bench.ask("POST", f"/v2/schedules/{HOOK}", content=b"hello", headers=headers)

    made = await bench.tick()
    [attempt] = await bench.run()

    assert list(answer) == ["scheduleId"]
    assert re.fullmatch(r"scd_\w{10,60}", answer["scheduleId"])
    assert (made, attempt.url, attempt.body) == (1, HOOK, b"hello")
    assert (await bench.message(attempt.id))["scheduleId"] == answer["scheduleId"]


async def test_row_13_post_schedules_may_name_a_queue_and_a_url_group(bench: Bench) -> None:
    await bench.group()
    schedule_id = await bench.schedule("orders", headers={"Upstash-Queue-Name": "mail"})

    made = await bench.tick()

    assert made == 2
    assert (await bench.get(f"/v2/schedules/{schedule_id}"))["queueName"] == "mail"
    assert [each.url for each in await bench.run()] == ["https://a.example", "https://b.example"]
    assert (await bench.get("/v2/queues/mail"))["parallelism"] == 1


@pytest.mark.parametrize(
    ("headers", "made"),
    [
        ({}, 1),
        ({"Qtasks-Catch-Up": "latest"}, 1),
        ({"Qtasks-Catch-Up": "all"}, 5),
        ({"Qtasks-Catch-Up": "none"}, 0),
    ],
)
async def test_row_13_post_schedules_may_say_what_becomes_of_missed_times(
    bench: Bench, headers: dict[str, str], made: int
) -> None:
    await bench.schedule(headers=headers, cron="0 * * * *")

    bench.rig.clock.advance(hours=5)

    assert await bench.rig.node.scheduler.step() == made
    bench.rig.clock.advance(hours=1)
    assert await bench.rig.node.scheduler.step() == (1 if made else 0)


async def test_row_13_post_schedules_of_a_strict_broker_makes_up_for_no_more_than_a_minute(
    make_bench: MakeBench,
) -> None:
    bench = await make_bench(strict=True)
    await bench.schedule(cron="0 * * * *")

    bench.rig.clock.advance(hours=5)
    late = await bench.rig.node.scheduler.step()
    bench.rig.clock.advance(3_600_000 - bench.rig.clock.now() % 3_600_000 + 59_999)

    assert late == 0
    assert await bench.rig.node.scheduler.step() == 1


async def test_row_13_post_schedules_may_have_an_interval_instead_of_a_cron_expression(bench: Bench) -> None:
    asked = {"Qtasks-Every": "90s", "Qtasks-Overlap": "skip"}
    answer = await bench.ask("POST", f"/v2/schedules/{HOOK}", headers=asked)
    bench.rig.clock.advance(90_000)

    made = [await bench.rig.node.scheduler.step()]
    bench.rig.clock.advance(90_000)
    made.append(await bench.rig.node.scheduler.step())

    shown = await bench.get(f"/v2/schedules/{answer['scheduleId']}")
    assert (made, shown["cron"]) == ([1, 0], "@every 90s")
    assert shown["error"] == "skipped: the messages of the fire before have not finished"
    assert list(shown["lastScheduleStates"].values()) == ["IN_PROGRESS"]


async def test_row_13_post_schedules_of_a_strict_broker_knows_cron_expressions_alone(
    make_bench: MakeBench,
) -> None:
    bench = await make_bench(strict=True)

    refusal = await bench.refusal("POST", f"/v2/schedules/{HOOK}", 400, headers={"Qtasks-Every": "90s"})

    assert refusal == "Upstash-Cron: a schedule needs a cron expression, such as 0 9 * * *"


async def test_row_13_post_schedules_knows_no_duplicates(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "once", "Upstash-Content-Based-Deduplication": "true"}
    await bench.schedule(body="hello", headers=headers)

    assert [await bench.tick(), await bench.tick()] == [1, 1]


@pytest.mark.parametrize(
    ("now_s", "next_s"),
    [
        # 2024-03-31: the clocks of Berlin go from 2:00 to 3:00, which is 1:00 UTC.
        (1_711_843_200, 1_711_846_800),
        # 2024-10-27: they go back from 3:00 to 2:00, at 1:00 UTC; the first 2:30 is the one.
        (1_729_985_400, 1_729_989_000),
        (1_729_989_000, 1_730_079_000),
    ],
)
async def test_row_13_post_schedules_knows_what_clocks_do_in_spring_and_autumn(
    bench: Bench, now_s: int, next_s: int
) -> None:
    bench.rig.clock.advance(now_s * 1000 - bench.rig.clock.now())

    schedule_id = await bench.schedule(cron="CRON_TZ=Europe/Berlin 30 2 * * *")

    assert (await bench.get(f"/v2/schedules/{schedule_id}"))["nextScheduleTime"] == next_s * 1000


async def test_row_13_post_schedules_over_the_quota_is_answered_412(make_bench: MakeBench) -> None:
    bench = await make_bench(max_schedules=1)
    first = {"Upstash-Schedule-Id": "nightly"}
    await bench.schedule(headers=first)

    error = await bench.refusal("POST", f"/v2/schedules/{HOOK}", 412, headers={"Upstash-Cron": "* * * * *"})
    await bench.schedule(headers=first)

    assert error.startswith("quota ")
    assert len(await bench.get("/v2/schedules")) == 1


async def test_row_14_get_schedules_lists_them(bench: Bench) -> None:
    assert await bench.get("/v2/schedules") == []

    made = {await bench.schedule(), await bench.schedule()}

    assert {each["scheduleId"] for each in await bench.get("/v2/schedules")} == made


async def test_row_15_get_schedule_shows_it(bench: Bench) -> None:
    now = bench.rig.clock.now()
    headers = {
        "Content-Type": "application/json",
        "Upstash-Forward-X-Tenant": "42",
        "Upstash-Schedule-Id": "nightly",
        "Upstash-Method": "PUT",
        "Upstash-Retries": "5",
        "Upstash-Delay": "10s",
        "Upstash-Timeout": "1m",
        "Upstash-Label": "a,b",
        "Upstash-Retry-Delay": "1000",
    }

    await bench.schedule(body="{}", headers=headers, cron="CRON_TZ=Europe/Berlin 0 4 * * *")

    assert await bench.get("/v2/schedules/nightly") == {
        "scheduleId": "nightly",
        "cron": "CRON_TZ=Europe/Berlin 0 4 * * *",
        "destination": HOOK,
        "createdAt": now,
        "method": "PUT",
        "header": {"Content-Type": ["application/json"], "X-Tenant": ["42"]},
        "body": "{}",
        "retries": 5,
        "delay": 10,
        "timeout": 60,
        "isPaused": False,
        "callerIp": CALLER,
        "callerIP": CALLER,
        "label": "a",
        "labels": ["a", "b"],
        "retryDelayExpression": "1000",
        "nextScheduleTime": 1_700_017_200_000,
    }


async def test_row_15_get_schedule_tells_of_the_last_run(bench: Bench) -> None:
    bench.rig.deliverer.will(MISSING)
    wanted = await bench.schedule(headers={"Upstash-Retries": "0"})
    path = f"/v2/schedules/{wanted}"
    before = await bench.get(path)
    await bench.tick()
    fired_at = bench.rig.clock.now()
    after = await bench.get(path)
    [attempt] = await bench.run()
    failed = await bench.get(path)
    await bench.tick()
    [second] = await bench.run()
    delivered = await bench.get(path)

    assert {"lastScheduleTime", "lastScheduleStates", "error"}.isdisjoint(before)
    assert (after["lastScheduleTime"], after["nextScheduleTime"]) == (fired_at, fired_at + 60_000)
    assert after["lastScheduleStates"] == {attempt.id: "IN_PROGRESS"}
    assert failed["lastScheduleStates"] == {attempt.id: "FAIL"}
    assert delivered["lastScheduleStates"] == {second.id: "SUCCESS"}


async def test_row_15_get_schedule_tells_of_each_message_of_the_last_run(bench: Bench) -> None:
    await bench.group()
    wanted = await bench.schedule("orders", headers={"Upstash-Retries": "0"})
    await bench.tick()
    bench.rig.deliverer.will(MISSING)

    failed, delivered = await bench.run()

    schedule = await bench.get(f"/v2/schedules/{wanted}")
    assert schedule["lastScheduleStates"] == {failed.id: "FAIL", delivered.id: "SUCCESS"}


async def test_row_15_get_schedule_says_why_the_last_run_made_nothing(bench: Bench) -> None:
    await bench.group("orders")
    wanted = await bench.schedule("orders")
    await bench.ask("DELETE", "/v2/topics/orders")

    assert await bench.tick() == 0
    assert "orders" in (await bench.get(f"/v2/schedules/{wanted}"))["error"]


async def test_row_16_delete_schedule_stops_what_is_still_to_come(bench: Bench) -> None:
    wanted = await bench.schedule()
    await bench.tick()

    for _ in range(2):
        await bench.ask("DELETE", f"/v2/schedules/{wanted}")

    assert await bench.tick() == 0
    assert len(await bench.run()) == 1
    assert await bench.get("/v2/schedules") == []


async def test_row_17_post_schedule_pause_lets_its_times_pass(bench: Bench) -> None:
    wanted = await bench.schedule()

    for _ in range(2):
        assert await bench.ask("POST", f"/v2/schedules/{wanted}/pause") is None

    assert (await bench.get(f"/v2/schedules/{wanted}"))["isPaused"] is True
    assert await bench.tick() == 0


async def test_row_18_post_schedule_resume_does_not_catch_up(bench: Bench) -> None:
    wanted = await bench.schedule()
    await bench.ask("POST", f"/v2/schedules/{wanted}/pause")
    await bench.tick()
    bench.rig.clock.advance(seconds=30)

    for _ in range(2):
        assert await bench.ask("POST", f"/v2/schedules/{wanted}/resume") is None

    assert await bench.rig.node.scheduler.step() == 0
    assert (await bench.get(f"/v2/schedules/{wanted}"))["isPaused"] is False
    assert await bench.tick() == 1


# --- URL groups -----------------------------------------------------------------------------------


async def test_row_19_get_topics_lists_the_url_groups(bench: Bench) -> None:
    assert await bench.get("/v2/topics") == []

    await bench.group("orders")
    await bench.group("invoices")

    assert sorted(each["name"] for each in await bench.get("/v2/topics")) == ["invoices", "orders"]


async def test_row_20_get_topic_shows_its_endpoints_in_the_order_they_came_in(bench: Bench) -> None:
    now = bench.rig.clock.now()

    await bench.group("orders", ["https://b.example", {"name": "billing", "url": "https://a.example"}])

    assert await bench.get("/v2/topics/orders") == {
        "name": "orders",
        "createdAt": now,
        "updatedAt": now,
        "endpoints": [{"url": "https://b.example"}, {"name": "billing", "url": "https://a.example"}],
    }


async def test_row_21_delete_topic_is_no_error_if_there_is_none(bench: Bench) -> None:
    await bench.group("orders")

    for _ in range(2):
        await bench.ask("DELETE", "/v2/topics/orders")

    assert await bench.get("/v2/topics") == []


async def test_row_21_delete_topic_leaves_the_messages_that_it_has_made(bench: Bench) -> None:
    await bench.group("orders")
    await bench.ask("POST", "/v2/publish/orders")

    await bench.ask("DELETE", "/v2/topics/orders")

    assert len(await bench.run()) == 2


async def test_row_22_post_topic_endpoints_adds_and_changes_them(bench: Bench) -> None:
    await bench.group("orders", [{"name": "billing", "url": "https://a.example"}, "https://b.example"])
    bench.rig.clock.advance(1000)

    await bench.group("orders", ["https://b.example", {"name": "billing", "url": "https://c.example"}])

    group = await bench.get("/v2/topics/orders")
    assert group["endpoints"] == [
        {"name": "billing", "url": "https://c.example"},
        {"url": "https://b.example"},
    ]
    assert group["updatedAt"] == group["createdAt"] + 1000


@pytest.mark.parametrize(
    "body",
    [
        b"[",
        b"{}",
        b'{"endpoints": [{"name": "a"}]}',
        b'{"endpoints": [{"url": "app.example"}]}',
        b'{"endpoints": [{"url": "ftp://app.example"}]}',
    ],
)
async def test_row_22_post_topic_endpoints_refuses_what_is_no_endpoint(bench: Bench, body: bytes) -> None:
    await bench.refusal("POST", "/v2/topics/orders/endpoints", 400, content=body)

    assert await bench.get("/v2/topics") == []


async def test_row_22_post_topic_endpoints_over_a_quota_is_answered_412(make_bench: MakeBench) -> None:
    bench = await make_bench(max_url_groups=1, max_endpoints=2)
    await bench.group("orders")

    for name in ("orders", "invoices"):
        body = {"endpoints": [{"url": "https://c.example"}]}
        error = await bench.refusal("POST", f"/v2/topics/{name}/endpoints", 412, json=body)
        assert error.startswith("quota ")

    [group] = await bench.get("/v2/topics")
    assert (group["name"], len(group["endpoints"])) == ("orders", 2)


async def test_row_23_delete_topic_endpoints_removes_them_and_with_the_last_the_group(bench: Bench) -> None:
    named = [{"name": "billing", "url": "https://a.example"}, {"name": "mail", "url": "https://b.example"}]
    await bench.group("orders", [*named, "https://c.example"])
    path = "/v2/topics/orders/endpoints"

    left = []
    for gone in ({"name": "billing"}, {"name": "mail", "url": "https://a.example"}, {"url": named[1]["url"]}):
        await bench.ask("DELETE", path, json={"endpoints": [gone]})
        left.append([each["url"] for each in (await bench.get("/v2/topics/orders"))["endpoints"]])
    await bench.ask("DELETE", path, json={"endpoints": [{"url": "https://c.example"}]})

    # Of an endpoint that is described by both its members, both must match.
    assert left == [["https://b.example", "https://c.example"]] * 2 + [["https://c.example"]]
    assert await bench.get("/v2/topics") == []
    error = await bench.refusal("DELETE", path, 404, json={"endpoints": [{"name": "billing"}]})
    assert error == "topic orders not found"


# --- the dead letter queue ------------------------------------------------------------------------


async def test_row_24_get_dlq_lists_dead_letters_by_filters_and_pages(bench: Bench) -> None:
    old = await bench.die({"Upstash-Label": "import"})
    bench.rig.clock.advance(1000)
    new = await bench.die(reply=MISSING)

    first = await bench.get("/v2/dlq?count=1")
    second = await bench.get(f"/v2/dlq?count=1&cursor={first['cursor']}")

    assert [each["messageId"] for each in first["messages"]] == [new]
    assert [each["messageId"] for each in second["messages"]] == [old]
    assert list(second) == ["messages"]
    wanted = {
        "label=import": [old],
        "responseStatus=404": [new],
        f"messageId={old}": [old],
        "fromDate=1700000001000": [new],
        f"url={HOOK}&label=import": [old],
        "queueName=mail": [],
        "scheduleId=nightly": [],
        "topicName=orders": [],
        "flowControlKey=tenant": [],
        f"callerIp={CALLER}": [new, old],
    }
    for query, ids in wanted.items():
        assert [each["messageId"] for each in await bench.letters(f"?{query}")] == ids, query


async def test_row_25_delete_dlq_deletes_by_ids_and_by_filters(bench: Bench) -> None:
    for label in ("a", "b", "b", "c"):
        await bench.die({"Upstash-Label": label})
    ids = [each["dlqId"] for each in await bench.letters()]

    assert await bench.ask("DELETE", f"/v2/dlq?dlqIds={ids[3]}&dlqIds=1700000000000-99") == {"deleted": 1}
    assert await bench.ask("DELETE", "/v2/dlq?label=b") == {"deleted": 2}
    assert await bench.ask("DELETE", "/v2/dlq") == {"deleted": 1}
    assert await bench.letters() == []


async def test_row_26_get_dlq_entry_shows_the_message_and_its_last_answer(bench: Bench) -> None:
    message_id = await bench.die(reply=MISSING)
    message = await bench.message(message_id)
    [listed] = await bench.letters()

    letter = await bench.get(f"/v2/dlq/{listed['dlqId']}")

    assert letter == listed
    assert message.items() <= letter.items()
    assert re.fullmatch(r"\d{13}-\d+", letter["dlqId"])
    assert (letter["responseStatus"], letter["responseBody"]) == (404, "404 Not Found")
    assert letter["responseHeader"] == {"Content-Type": ["text/plain"]}


async def test_row_27_delete_dlq_entry_deletes_it_once(bench: Bench) -> None:
    await bench.die()
    [letter] = await bench.letters()

    await bench.ask("DELETE", f"/v2/dlq/{letter['dlqId']}")

    await bench.refusal("DELETE", f"/v2/dlq/{letter['dlqId']}", 404)
    assert await bench.letters() == []


async def test_row_28_post_dlq_retry_of_one_makes_a_new_message_of_it(bench: Bench) -> None:
    dead = await bench.die({"Upstash-Method": "PUT", "Upstash-Forward-X-Tenant": "42"})
    [letter] = await bench.letters()

    answer = await bench.ask(
        "POST", f"/v2/dlq/retry/{letter['dlqId']}", status=201, headers={"Upstash-Retries": "7"}
    )
    [attempt] = await bench.run()

    assert answer == {"messageId": attempt.id}
    assert attempt.id != dead
    assert (attempt.method, attempt.url, attempt.body) == ("PUT", HOOK, b"hello")
    assert ("X-Tenant", "42") in attempt.headers
    assert (attempt.attempt, attempt.max_retries) == (1, 7)
    assert await bench.letters() == []


async def test_row_28_post_dlq_retry_of_one_keeps_all_that_the_message_was_told(bench: Bench) -> None:
    await bench.group("orders", [{"name": "billing", "url": "https://a.example"}])
    headers = LIMITS | {
        "Upstash-Label": "a,b",
        "Upstash-Callback": CALLBACK,
        "Upstash-Callback-Forward-X-Tenant": "42",
        "Upstash-Failure-Callback": FAILURE_CALLBACK,
        "Upstash-Retries": "0",
        "Upstash-Retry-Delay": "1000",
        "Upstash-Timeout": "90s",
        "Upstash-Method": "PATCH",
        "Content-Type": "text/plain",
    }
    bench.rig.deliverer.will(BROKEN)
    [first] = await bench.ask("POST", "/v2/publish/orders", headers=headers, content=b"hello")
    await bench.run()
    before = await bench.message(first["messageId"])
    [letter] = await bench.letters("?topicName=orders")
    bench.rig.clock.advance(1000)

    answer = await bench.ask("POST", f"/v2/dlq/retry/{letter['dlqId']}", status=201)

    own = {"messageId", "createdAt", "notBefore"}
    again = await bench.message(answer["messageId"])
    assert {name: again[name] for name in again if name not in own} == {
        name: before[name] for name in before if name not in own
    }
    assert before["callbackHeader"] == {"X-Tenant": ["42"]}
    assert before["endpointName"] == "billing"


async def test_row_29_post_dlq_retry_of_many_answers_with_a_list(bench: Bench) -> None:
    for _ in range(2):
        await bench.die()
    ids = sorted(each["dlqId"] for each in await bench.letters())

    answer = await bench.ask("POST", f"/v2/dlq/retry?dlqIds={ids[0]}&dlqIds={ids[1]}", status=201)

    assert [list(each) for each in answer["responses"]] == [["messageId"]] * 2
    assert answer.get("cursor", "") == ""
    assert [each.id for each in await bench.run()] == [each["messageId"] for each in answer["responses"]]


# --- flow control ---------------------------------------------------------------------------------


async def test_row_30_get_flow_control_lists_the_keys(bench: Bench) -> None:
    assert await bench.get("/v2/flowControl") == []

    await bench.publish(headers=LIMITS)
    await bench.publish(headers=LIMITS | {"Upstash-Flow-Control-Key": "another"})

    keys = [each["flowControlKey"] for each in await bench.get("/v2/flowControl")]
    assert sorted(keys) == ["another", "tenant"]
    assert await bench.get("/v2/queues") == []


async def test_row_31_get_flow_control_key_shows_its_limits_and_their_use(bench: Bench) -> None:
    for _ in range(3):
        await bench.publish(headers=LIMITS)
    started_s = bench.rig.clock.now() // 1000

    attempts = await bench.run()

    flow = await bench.flow("tenant")
    assert len(attempts) == 2
    assert flow == {
        "flowControlKey": "tenant",
        "waitListSize": 1,
        "parallelismMax": 0,
        "parallelismCount": 0,
        "rateMax": 2,
        "rateCount": 2,
        "ratePeriod": 60,
        "ratePeriodStart": flow["ratePeriodStart"],
        "isPinnedParallelism": False,
        "isPinnedRate": False,
        "isPaused": False,
    }
    assert started_s - 60 < flow["ratePeriodStart"] <= started_s
    bench.rig.clock.advance((flow["ratePeriodStart"] + 60) * 1000 - bench.rig.clock.now() - 1)
    assert await bench.run() == []
    bench.rig.clock.advance(1)
    assert len(await bench.run()) == 1


@pytest.mark.parametrize(
    ("value", "at_once", "a_minute_later"),
    [
        # What waits for its retry holds no slot, and comes through the key again when it is due.
        ("parallelism=1", ["first", "second"], ["first"]),
        ("rate=1, period=1h", ["first"], []),
    ],
)
async def test_row_31_get_flow_control_key_spends_nothing_on_waiting_and_again_on_a_retry(
    bench: Bench, value: str, at_once: list[str], a_minute_later: list[str]
) -> None:
    headers = LIMITS | {"Upstash-Flow-Control-Value": value}
    bench.rig.deliverer.will(BROKEN)
    for body in ("first", "second"):
        await bench.publish(body=body, headers=headers)

    now = [each.body.decode() for each in await bench.run()]
    bench.rig.clock.advance(minutes=1)
    later = [each.body.decode() for each in await bench.run()]

    assert (now, later) == (at_once, a_minute_later)


async def test_row_31_get_flow_control_key_takes_a_key_as_clients_write_it(bench: Bench) -> None:
    key = "tenant/42 @example.com"
    await bench.publish(headers=LIMITS | {"Upstash-Flow-Control-Key": key})

    for verb in ("pause", "pin?rate=5&period=1h30m", "resetRate", "unpin?rate=true", "resume", "pause"):
        await bench.ask("POST", f"/v2/flowControl/{key}/{verb}")

    flow = await bench.flow(key)
    assert (flow["flowControlKey"], flow["rateMax"], flow["ratePeriod"]) == (key, 5, 5400)
    assert (flow["isPaused"], len(await bench.get("/v2/flowControl"))) == (True, 1)


async def test_row_31_get_flow_control_key_counts_what_is_in_flight(bench: Bench) -> None:
    limits = LIMITS | {"Upstash-Flow-Control-Value": "parallelism=1"}
    for _ in range(2):
        await bench.publish(headers=limits)
    held = Held()
    bench.rig.deliverer.will(held)

    claimed = await bench.rig.node.dispatcher.step()
    await bench.rig.deliverer.reached(1)
    flow = await bench.flow("tenant")
    held.release()
    await bench.run()

    assert len(claimed.claims) == 1
    assert (flow["parallelismMax"], flow["parallelismCount"], flow["waitListSize"]) == (1, 1, 1)
    after = await bench.flow("tenant")
    assert (after["parallelismCount"], after["waitListSize"]) == (0, 0)


async def test_row_32_post_flow_control_pause_starts_nothing_of_the_key(bench: Bench) -> None:
    await bench.publish(headers=LIMITS)
    free = await bench.publish()

    for _ in range(2):
        await bench.ask("POST", "/v2/flowControl/tenant/pause")

    assert (await bench.flow("tenant"))["isPaused"] is True
    assert [each.id for each in await bench.run()] == [free]


async def test_row_33_post_flow_control_resume_goes_on(bench: Bench) -> None:
    message_id = await bench.publish(headers=LIMITS)
    await bench.ask("POST", "/v2/flowControl/tenant/pause")
    await bench.run()

    for _ in range(2):
        await bench.ask("POST", "/v2/flowControl/tenant/resume")

    assert (await bench.flow("tenant"))["isPaused"] is False
    assert [each.id for each in await bench.run()] == [message_id]


async def test_row_34_post_flow_control_pin_goes_before_later_headers(bench: Bench) -> None:
    await bench.publish(headers=LIMITS)
    await bench.run()

    await bench.ask("POST", "/v2/flowControl/tenant/pin?parallelism=3&rate=5&period=120")
    pinned = await bench.flow("tenant")
    await bench.publish(headers=LIMITS)

    flow = await bench.flow("tenant")
    assert (flow["parallelismMax"], flow["rateMax"], flow["ratePeriod"]) == (3, 5, 120)
    assert (flow["isPinnedParallelism"], flow["isPinnedRate"]) == (True, True)
    # Pinning a rate begins its count anew.
    assert pinned["rateCount"] == 0


async def test_row_35_post_flow_control_unpin_keeps_the_values_until_a_message_brings_others(
    bench: Bench,
) -> None:
    await bench.ask("POST", "/v2/flowControl/tenant/pin?parallelism=3&rate=5")

    await bench.ask("POST", "/v2/flowControl/tenant/unpin?rate=true")
    half = await bench.flow("tenant")
    await bench.ask("POST", "/v2/flowControl/tenant/unpin?parallelism=true&rate=true")
    kept = await bench.flow("tenant")
    await bench.publish(headers=LIMITS)
    taken = await bench.flow("tenant")

    assert (half["isPinnedParallelism"], half["isPinnedRate"]) == (True, False)
    assert (kept["isPinnedParallelism"], kept["isPinnedRate"]) == (False, False)
    assert (kept["parallelismMax"], kept["rateMax"]) == (3, 5)
    assert (taken["parallelismMax"], taken["rateMax"], taken["ratePeriod"]) == (0, 2, 60)


async def test_row_36_post_flow_control_reset_rate_begins_a_new_window(bench: Bench) -> None:
    for _ in range(3):
        await bench.publish(headers=LIMITS)
    await bench.run()
    bench.rig.clock.advance(seconds=5)

    await bench.ask("POST", "/v2/flowControl/tenant/resetRate")

    flow = await bench.flow("tenant")
    assert (flow["rateCount"], flow["waitListSize"]) == (0, 1)
    assert len(await bench.run()) == 1
    assert (await bench.flow("tenant"))["ratePeriodStart"] >= bench.rig.clock.now() // 1000 - 1


async def test_row_37_get_global_parallelism_shows_what_the_broker_has_in_flight(
    make_bench: MakeBench,
) -> None:
    bench = await make_bench(concurrency=7)
    held = Held()
    bench.rig.deliverer.will(held)
    await bench.publish()
    await bench.rig.node.dispatcher.step()
    await bench.rig.deliverer.reached(1)

    busy = await bench.get("/v2/globalParallelism")
    held.release()
    await bench.run()

    assert busy == {"parallelismMax": 7, "parallelismCount": 1}
    assert await bench.get("/v2/globalParallelism") == {"parallelismMax": 7, "parallelismCount": 0}


# --- keys and log ---------------------------------------------------------------------------------


async def test_row_38_get_keys_shows_the_two_signing_keys(bench: Bench) -> None:
    keys = await bench.get("/v2/keys")

    assert sorted(keys) == ["current", "next"]
    assert all(re.fullmatch(r"sig_\w+", each) for each in keys.values())
    assert keys["current"] != keys["next"]


async def test_row_39_post_keys_rotate_moves_the_next_key_up(bench: Bench) -> None:
    before = await bench.get("/v2/keys")

    answer = await bench.ask("POST", "/v2/keys/rotate")

    assert answer == await bench.get("/v2/keys")
    assert answer["current"] == before["next"]
    assert answer["next"] not in before.values()


async def test_row_40_get_logs_takes_what_the_log_of_workflows_knows(bench: Bench) -> None:
    await bench.publish(body="hello")

    for query in ("trimBody=-1", "groupBy=workflowRunId"):
        assert len((await bench.get(f"/v2/logs?{query}"))["logs"]) == 1


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("messageId={id}", 3),
        ("messageIds={id}&messageIds=msg_gone", 3),
        ("state=DELIVERED", 1),
        ("state=IN_PROGRESS", 1),
        ("url=https://a.example", 3),
        ("host=a.example", 3),
        ("path=/hook", 0),
        ("topicName=orders", 3),
        ("queueName=mail", 0),
        ("scheduleId=nightly", 0),
        ("label=night", 3),
        ("flowControlKey=tenant", 3),
        ("fromDate=1700000000000&toDate=1700000000000", 3),
        ("fromDate=1700000000001", 0),
        ("toDate=1699999999999", 0),
    ],
)
async def test_row_40_get_logs_is_filtered(bench: Bench, query: str, count: int) -> None:
    await bench.group("orders", ["https://a.example"])
    headers = LIMITS | {"Upstash-Label": "import,night"}
    [answer] = await bench.ask("POST", "/v2/publish/orders", headers=headers)
    await bench.run()

    for route, key in (("logs", "logs"), ("events", "events")):
        page = await bench.get(f"/v2/{route}?{query.format(id=answer['messageId'])}")
        assert len(page[key]) == count


async def test_row_40_get_logs_shows_what_befell_messages_newest_first(bench: Bench) -> None:
    bench.rig.deliverer.will(MISSING)
    message_id = await bench.publish(body="hello", headers={"Upstash-Timeout": "15m"})
    await bench.run()

    page = await bench.get(f"/v2/logs?messageId={message_id}")

    assert list(page) == ["logs"]
    assert [each["state"] for each in page["logs"]] == ["RETRY", "ERROR", "ACTIVE", "CREATED"]
    retry, error, _, created = page["logs"]
    for each in page["logs"]:
        assert (each["messageId"], each["url"], each["method"]) == (message_id, HOOK, "POST")
        assert (each["body"], each["timeout"], each["maxRetries"]) == ("aGVsbG8=", 900_000, 3)
    assert (error["responseStatus"], error["responseBody"]) == (404, "NDA0IE5vdCBGb3VuZA==")
    assert error["error"]
    assert retry["nextDeliveryTime"] > retry["time"]
    assert created["time"] == bench.rig.clock.now()
