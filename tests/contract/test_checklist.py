"""The thirty things that a broker gets wrong which is written from the pages alone, by number.

Most are told elsewhere too; here they are as their clients meet them. From 16 on they are in
`test_checklist_from_16.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qtasks.broker.store.records import Reply
from tests.contract import test_checklist_from_16
from tests.support.asgi import call
from tests.support.broker import HOOK, Held, Rig
from tests.support.contract import (
    BROKEN,
    CALLBACK,
    CALLER,
    FAILURE_CALLBACK,
    Bench,
    Standalone,
    bench_of,
    claims_of,
    standalone_at,
    uncited,
)
from tests.support.homes import TOKEN
from tests.support.wire import WireServer

ONCE = {"Upstash-Deduplication-Id": "once"}


async def test_appendix_b_01_the_query_goes_on_to_the_destination_without_what_is_ours(
    standalone: Standalone,
) -> None:
    url = f"{standalone.receiver.url}/hook"
    ours = f"upstash-retries=7&Upstash-Forward-X-Tenant=42&qstash_token={TOKEN}"

    message_id = await standalone.publish(f"{url}?b=c%2Fd&{ours}&e&upstash=kept&f=%C3%A9+g")
    await standalone.receiver.reached(1)

    arrived = standalone.receiver.last
    assert arrived.target == "/hook?b=c%2Fd&e&upstash=kept&f=%C3%A9+g"
    assert arrived.header("X-Tenant") == "42"
    assert (
        claims_of(arrived.header("Upstash-Signature"))["sub"] == f"{standalone.receiver.url}{arrived.target}"
    )
    assert (await standalone.http.get(f"/v2/messages/{message_id}")).json()["maxRetries"] == 7


async def test_appendix_b_02_slashes_and_escapes_in_a_destination_survive(standalone: Standalone) -> None:
    host = standalone.receiver.url
    paths = ["/a//b/c%2Fd", "/%7euser/;x=1", "//", "/caf%C3%A9"]

    for path in paths:
        await standalone.publish(f"{host}{path}")
    await standalone.receiver.reached(len(paths))

    assert sorted(each.target for each in standalone.receiver.requests) == sorted(paths)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        (b"https:/app.example/hook", HOOK),
        (b"https%3A%2F%2Fapp.example%2Fhook%3Fx%3D1", f"{HOOK}?x=1"),
        (b"HTTPS://app.example/hook", "HTTPS://app.example/hook"),
        (b"https://app.example/a/../hook//", "https://app.example/a/../hook//"),
    ],
)
async def test_appendix_b_02_a_slash_that_a_proxy_took_away_is_put_back_and_nothing_else_changed(
    bench: Bench, written: bytes, url: str
) -> None:
    token = (b"authorization", f"Bearer {TOKEN}".encode())

    answer = await call(bench.api, "POST", b"/v2/publish/" + written, headers=[token])

    assert (await bench.message(answer.json["messageId"]))["url"] == url


async def test_appendix_b_03_groups_and_batches_answer_with_arrays_in_arrays(bench: Bench) -> None:
    await bench.group("one", ["https://a.example"])

    published = await bench.ask("POST", "/v2/publish/one")
    [url] = await bench.batch({"destination": HOOK})
    [nested] = await bench.batch({"destination": "one", "queue": None})

    assert [sorted(each) for each in published] == [["messageId", "url"]]
    assert sorted(url) == ["messageId"]
    assert [sorted(each) for each in nested] == [["messageId", "url"]]


async def test_appendix_b_04_a_duplicate_is_202_alone_and_told_by_item_in_a_batch(bench: Bench) -> None:
    first = await bench.publish(headers=ONCE)

    alone = await bench.ask("POST", f"/v2/publish/{HOOK}", status=202, headers=ONCE)
    in_batch = await bench.batch({"destination": HOOK, "headers": ONCE}, {"destination": HOOK})

    assert alone == in_batch[0] == {"messageId": first, "deduplicated": True}
    assert "deduplicated" not in in_batch[1]


async def test_appendix_b_05_a_message_can_be_read_for_a_while_after_its_delivery(bench: Bench) -> None:
    message_id = await bench.publish(body="hello")
    before = await bench.message(message_id)
    await bench.run()

    bench.rig.clock.advance(seconds=59)
    after = await bench.message(message_id)
    bench.rig.clock.advance(hours=24)

    assert after == before
    error = await bench.refusal("GET", f"/v2/messages/{message_id}", 404)
    assert error == f"message {message_id} not found"


async def test_appendix_b_06_four_hundred_events_come_in_one_page(bench: Bench) -> None:
    bench.rig.deliverer.will(*[Reply(404)] * 100)
    await bench.batch(*[{"destination": HOOK, "headers": {"Upstash-Retries": "0"}}] * 100)
    await bench.run()

    page = await bench.get("/v2/events")

    assert sorted(page) == ["events"]
    assert len(page["events"]) == 400
    assert {each["state"] for each in page["events"]} == {"CREATED", "ACTIVE", "ERROR", "FAILED"}


async def test_appendix_b_07_entries_are_exactly_those_that_clients_count(bench: Bench) -> None:
    headers = {"Upstash-Label": "a,b", "Upstash-Retry-Delay": "1000 * (1 + retried)", "Upstash-Retries": "1"}
    bench.rig.deliverer.will(BROKEN, BROKEN, BROKEN)
    failed = await bench.publish(headers=headers)
    await bench.run()
    bench.rig.clock.advance(seconds=2)
    await bench.run()
    delivered = await bench.publish(headers=headers)
    await bench.run()
    bench.rig.clock.advance(seconds=2)
    await bench.run()

    assert await bench.states(failed) == "CREATED ACTIVE ERROR RETRY ACTIVE ERROR FAILED"
    assert await bench.states(delivered) == "CREATED ACTIVE ERROR RETRY ACTIVE DELIVERED"
    for each in (await bench.get("/v2/events?label=b"))["events"]:
        assert (each["label"], each["labels"]) == ("a", ["a", "b"])
        assert each["retryDelayExpression"] == "1000 * (1 + retried)"
    assert len((await bench.get("/v2/events?label=b"))["events"]) == 13
    assert len((await bench.get("/v2/events?state=DELIVERED"))["events"]) == 1


async def test_appendix_b_08_canceled_has_one_l_wherever_it_is_written(bench: Bench) -> None:
    waiting = await bench.publish(headers={"Upstash-Delay": "1h"})
    queued = await bench.enqueue()
    await bench.ask("DELETE", "/v2/messages")

    for message_id in (waiting, queued):
        assert await bench.states(message_id) == "CREATED CANCEL_REQUESTED CANCELED"
    assert "CANCELLED" not in (await bench.http.get("/v2/logs")).text


async def test_appendix_b_09_what_is_in_flight_can_be_called_off_and_counts_once(bench: Bench) -> None:
    held = Held(BROKEN)
    bench.rig.deliverer.will(held)
    active = await bench.publish()
    await bench.rig.node.dispatcher.step()
    await bench.rig.deliverer.reached(1)
    waiting = await bench.publish()

    one = await bench.ask("DELETE", f"/v2/messages/{active}")
    rest = await bench.ask("DELETE", "/v2/messages")
    none = await bench.ask("DELETE", "/v2/messages")
    held.release()
    await bench.run()

    assert (one, rest, none) == ({"cancelled": 1}, {"cancelled": 1}, {"cancelled": 0})
    assert await bench.states(waiting) == "CREATED CANCEL_REQUESTED CANCELED"
    assert (await bench.states(active)).startswith("CREATED ACTIVE CANCEL_REQUESTED ERROR")
    assert (await bench.states(active)).endswith("CANCELED")
    assert await bench.letters() == []


async def test_appendix_b_09_what_succeeds_after_its_cancel_is_delivered(bench: Bench) -> None:
    held = Held()
    bench.rig.deliverer.will(held)
    headers = {"Upstash-Callback": CALLBACK, "Upstash-Failure-Callback": FAILURE_CALLBACK}
    active = await bench.publish(headers=headers)
    await bench.rig.node.dispatcher.step()
    await bench.rig.deliverer.reached(1)

    await bench.ask("DELETE", f"/v2/messages/{active}")
    held.release()
    await bench.run()

    assert await bench.states(active) == "CREATED ACTIVE CANCEL_REQUESTED DELIVERED"
    assert (len(bench.seen(CALLBACK)), len(bench.seen(FAILURE_CALLBACK))) == (1, 0)


async def test_appendix_b_09_a_cancelled_retry_counts_and_ends(bench: Bench) -> None:
    headers = {"Upstash-Failure-Callback": FAILURE_CALLBACK}
    bench.rig.deliverer.will(BROKEN)
    retrying = await bench.publish(headers=headers)
    await bench.run()

    assert await bench.ask("DELETE", f"/v2/messages?messageIds={retrying}") == {"cancelled": 1}
    await bench.run_to_the_end()

    assert await bench.states(retrying) == "CREATED ACTIVE ERROR RETRY CANCEL_REQUESTED CANCELED"
    assert (bench.seen(FAILURE_CALLBACK), await bench.letters()) == ([], [])


async def test_appendix_b_10_a_bulk_cancel_is_told_by_query_by_body_or_not_at_all(bench: Bench) -> None:
    ids = [await bench.publish() for _ in range(6)]

    by_query = await bench.ask("DELETE", f"/v2/messages?messageIds={ids[0]}&messageIds={ids[1]}")
    by_body = await bench.ask("DELETE", "/v2/messages", json={"messageIds": [ids[2], "msg_gone"]})
    nobody = await bench.ask("DELETE", "/v2/messages", json={"messageIds": []})
    counted = await bench.ask("DELETE", "/v2/messages?count=1")
    everything = await bench.ask("DELETE", "/v2/messages")

    answers = (by_query, by_body, nobody, counted, everything)
    assert [each["cancelled"] for each in answers] == [2, 1, 0, 1, 2]


async def test_appendix_b_11_schedules_are_paused_by_patch(bench: Bench) -> None:
    path = f"/v2/schedules/{await bench.schedule()}"

    await bench.ask("PATCH", f"{path}/pause")
    paused = (await bench.get(path))["isPaused"], await bench.tick()
    await bench.ask("PATCH", f"{path}/resume")

    assert paused == (True, 0)
    assert await bench.tick() == 1


@pytest.mark.parametrize(("flag", "status"), [("True", 202), ("true", 202), ("False", 200), ("false", 200)])
async def test_appendix_b_12_python_writes_its_flags_with_a_capital(
    bench: Bench, flag: str, status: int
) -> None:
    headers = {"Upstash-Content-Based-Deduplication": flag}
    await bench.publish(body="hello", headers=headers)

    await bench.ask("POST", f"/v2/publish/{HOOK}", status=status, content="hello", headers=headers)


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("parallelism=2", {"parallelism": 2, "period": 1}),
        ("rate=3", {"rate": 3, "period": 1}),
        (
            "parallelism=1, rate=10, period=1h30m3s",
            {"parallelism": 1, "rate": 10, "period": 5403},
        ),
        ("period=60,rate=10", {"rate": 10, "period": 60}),
    ],
)
async def test_appendix_b_13_limits_are_echoed_with_a_period_and_without_what_was_not_given(
    bench: Bench, value: str, limits: dict[str, int]
) -> None:
    headers = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": value}
    message_id = await bench.publish(headers=headers)
    schedule_id = await bench.schedule(headers=headers)
    await bench.run()

    echoes = [
        await bench.message(message_id),
        await bench.get(f"/v2/schedules/{schedule_id}"),
        *await bench.entries(message_id),
    ]
    for each in echoes:
        found = {name: each[name] for name in ("parallelism", "rate", "period") if name in each}
        assert (each["flowControlKey"], found) == ("tenant", limits)


@pytest.mark.parametrize("headers", [{"Upstash-Delay": "1h"}, {}], ids=["delayed", "delivered"])
async def test_appendix_b_14_a_flow_control_key_is_seen_at_once(
    bench: Bench, headers: dict[str, str]
) -> None:
    limits = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "rate=5, period=60s"}

    await bench.publish(headers=limits | headers)
    await bench.run()
    seen = await bench.flow("tenant")
    await bench.ask("POST", "/v2/flowControl/tenant/pin?parallelism=4")
    pinned = await bench.flow("tenant")
    await bench.ask("POST", "/v2/flowControl/tenant/pause")
    paused = await bench.flow("tenant")
    await bench.ask("POST", "/v2/flowControl/tenant/resetRate")
    reset = await bench.flow("tenant")

    assert (seen["rateMax"], seen["ratePeriod"]) == (5, 60)
    assert (pinned["parallelismMax"], pinned["isPinnedParallelism"], pinned["isPinnedRate"]) == (
        4,
        True,
        False,
    )
    assert (paused["isPaused"], reset["rateCount"]) == (True, 0)


async def test_appendix_b_15_header_maps_are_canonical_lists_with_nothing_invented(bench: Bench) -> None:
    headers = [
        ("upstash-forward-TEST-header", "value-uppercase"),
        ("UPSTASH-FORWARD-test-HEADER", "value-lowercase"),
        ("Upstash-Telemetry-Sdk", "js"),
        ("Upstash-Something-New", "1"),
        ("X-Plain", "stays behind"),
        ("User-Agent", "a client"),
    ]
    bare = await bench.ask("POST", f"/v2/publish/{HOOK}", headers=headers, content=b"")
    typed = await bench.publish(body="{}", headers={"content-type": "application/json"})
    [attempt, _] = await bench.run()

    joined = "value-uppercase, value-lowercase"
    assert (await bench.message(bare["messageId"]))["header"] == {"Test-Header": [joined]}
    assert (await bench.message(typed))["header"] == {"Content-Type": ["application/json"]}
    assert attempt.headers == (("Test-Header", joined),)


async def test_appendix_b_15_only_these_headers_arrive(standalone: Standalone) -> None:
    headers = {"Upstash-Forward-X-Tenant": "42", "Upstash-Telemetry-Sdk": "js", "Cookie": "a=b"}
    message_id = await standalone.publish(f"{standalone.receiver.url}/hook", b"hello", headers)
    await standalone.receiver.reached(1)

    arrived = standalone.receiver.last
    assert arrived.names == [
        "Accept-Encoding",
        "Content-Length",
        "Host",
        "Upstash-Caller-Ip",
        "Upstash-Message-Id",
        "Upstash-Retried",
        "Upstash-Signature",
        "User-Agent",
        "X-Tenant",
    ]
    assert (arrived.header("User-Agent"), arrived.header("Upstash-Retried")) == ("Upstash-QStash", "0")
    assert (arrived.header("Upstash-Message-Id"), arrived.body) == (message_id, b"hello")
    assert arrived.header("Upstash-Caller-Ip") == "127.0.0.1"


async def test_appendix_b_15_messages_of_groups_name_the_group(standalone: Standalone) -> None:
    endpoints = {"endpoints": [{"url": f"{standalone.receiver.url}/hook", "name": "billing"}]}
    await standalone.http.post("/v2/topics/orders/endpoints", json=endpoints)

    answer = await standalone.http.post("/v2/publish/orders", content=b"hello")
    await standalone.receiver.reached(1)

    assert answer.status_code == 200, answer.text
    assert standalone.receiver.last.header("Upstash-Topic-Name") == "orders"
    assert [each for each in standalone.receiver.last.names if "Url-Group" in each or "Queue" in each] == []


async def test_appendix_b_15_messages_of_schedules_name_the_schedule_and_who_made_it(tmp_path: Path) -> None:
    async with WireServer() as receiver:
        rig = Rig(tmp_path)
        async with bench_of(rig) as bench:
            # Made in the past of the broker that runs next, which therefore fires it at once.
            named = {"Upstash-Schedule-Id": "yearly"}
            await bench.schedule(f"{receiver.url}/hook", b"hello", named, cron="0 0 1 1 *")
        rig.database.close()

        async with standalone_at(tmp_path / "q.db"):
            await receiver.reached(1)

    arrived = receiver.last
    assert (arrived.header("Upstash-Schedule-Id"), arrived.body) == ("yearly", b"hello")
    assert arrived.header("Upstash-Caller-Ip") == CALLER


def test_every_item_of_appendix_b_is_cited() -> None:
    assert uncited([*globals(), *vars(test_checklist_from_16)], r"test_appendix_b_(\d\d)_", 30, {}) == []
