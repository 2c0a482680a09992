"""Where the sources of the wire disagree or are silent: our answers to questions 30 to 57.

Rows 1 to 29 are in `test_ambiguities.py`; that every row has its test is seen to at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.config import ApiTarget, BrokerConfig
from qtasks.broker.store.records import Reply
from tests.contract import test_ambiguities
from tests.support.broker import HOOK, SILENCE
from tests.support.contract import (
    CALLBACK,
    Bench,
    Headers,
    MakeBench,
    Standalone,
    bench_of,
    standalone_at,
    uncited,
)
from tests.support.homes import TOKEN, until_found
from tests.support.wire import WireServer, response

LIMITS = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "parallelism=2"}


async def test_section_10_row_30_dead_letters_are_listed_latest_first(bench: Bench) -> None:
    died = []
    for _ in range(3):
        died.append(await bench.die())
        bench.rig.clock.advance(1)

    assert [each["messageId"] for each in await bench.letters()] == died[::-1]


async def test_section_10_row_31_bulk_filters_may_stand_in_query_and_body_and_the_query_wins(
    bench: Bench,
) -> None:
    ids = [await bench.publish(headers={"Upstash-Label": label}) for label in ("a", "b", "b", "c", "c")]

    by_query = await bench.ask("DELETE", "/v2/messages?label=a")
    by_body = await bench.ask("DELETE", "/v2/messages", json={"label": "b", "count": 1})
    merged = await bench.ask("DELETE", "/v2/messages?label=b", json={"url": "https://b.example"})
    query_wins = await bench.ask("DELETE", "/v2/messages?label=b", json={"label": "c", "url": HOOK})

    counts = [each["cancelled"] for each in (by_query, by_body, merged, query_wins)]
    assert counts == [1, 1, 0, 1]
    called_off = [(await bench.states(each)).endswith("CANCELED") for each in ids]
    assert called_off == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v2/messages"),
        ("DELETE", "/v2/dlq"),
        ("POST", "/v2/dlq/retry"),
        ("GET", "/v2/dlq"),
        ("GET", "/v2/logs"),
        ("GET", "/v2/events"),
    ],
)
async def test_section_10_row_32_an_unknown_filter_is_refused(bench: Bench, method: str, path: str) -> None:
    await bench.die()
    waiting = await bench.publish()

    assert "lable" in await bench.refusal(method, f"{path}?lable=import", 400)

    assert len(await bench.letters()) == 1
    assert await bench.states(waiting) == "CREATED"


async def test_section_10_row_32_an_unknown_parameter_of_publish_belongs_to_the_destination(
    bench: Bench,
) -> None:
    message_id = await bench.publish(f"{HOOK}?lable=import")

    assert (await bench.message(message_id))["url"] == f"{HOOK}?lable=import"


async def test_section_10_row_33_a_bulk_cancel_with_a_slash_at_its_end_needs_a_filter(bench: Bench) -> None:
    message_id = await bench.publish(headers={"Upstash-Label": "import"})

    await bench.refusal("DELETE", "/v2/messages/", 400)

    assert await bench.states(message_id) == "CREATED"
    assert await bench.ask("DELETE", "/v2/messages/?label=import") == {"cancelled": 1}


async def test_section_10_row_34_a_delivered_message_can_be_read_for_a_minute(bench: Bench) -> None:
    message_id = await bench.publish()
    await bench.run()

    bench.rig.clock.advance(seconds=60)

    assert (await bench.message(message_id))["messageId"] == message_id


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_section_10_row_35_a_redirect_is_a_failure(bench: Bench, status: int) -> None:
    bench.rig.deliverer.will(Reply(status, (("Location", "https://app.example/other"),)))

    message_id = await bench.publish(headers={"Upstash-Retries": "0"})
    await bench.run()

    assert await bench.states(message_id) == "CREATED ACTIVE ERROR FAILED"


async def test_section_10_row_35_a_redirect_is_not_followed(standalone: Standalone) -> None:
    receiver = standalone.receiver
    receiver.answers.append(response(307, b"", f"Location: {receiver.url}/other"))
    message_id = await standalone.publish(f"{receiver.url}/hook", b"hello", {"Upstash-Retries": "0"})

    async def states() -> list[str]:
        page = (await standalone.http.get(f"/v2/events?messageId={message_id}")).json()
        return [each["state"] for each in page["events"]]

    await until_found(states, lambda found: "FAILED" in found)
    assert [each.target for each in receiver.requests] == ["/hook"]


@pytest.mark.parametrize("step", [Reply(0, error="connection refused"), OSError("gone"), SILENCE])
async def test_section_10_row_36_without_an_answer_the_status_is_0_and_there_is_an_error(
    bench: Bench, step: Any
) -> None:
    bench.rig.deliverer.will(step)
    headers = {"Upstash-Retries": "0", "Upstash-Callback": CALLBACK}

    message_id = await bench.publish(headers=headers)
    await bench.run()

    [letter] = await bench.letters()
    error = (await bench.entries(message_id))[2]
    assert letter["responseStatus"] == error["responseStatus"] == 0
    assert letter["error"] == error["error"]
    assert error["error"]


@pytest.mark.parametrize(
    ("hints", "wait_ms"),
    [
        ((), 60_000),
        ((("Retry-After", "5"),), 5_000),
        ((("X-RateLimit-Reset-Requests", "6m5s"),), 365_000),
        ((("Retry-After", "soon"),), 60_000),
        ((("Retry-After", "90000"),), 60_000),
    ],
)
async def test_section_10_row_37_a_hint_goes_before_the_expression_and_one_above_a_day_is_none(
    bench: Bench, hints: tuple[tuple[str, str], ...], wait_ms: int
) -> None:
    bench.rig.deliverer.will(Reply(429, hints))
    message_id = await bench.publish(headers={"Upstash-Retry-Delay": "60000"})

    await bench.run()

    retry = (await bench.entries(message_id))[-1]
    assert retry["nextDeliveryTime"] - retry["time"] == wait_ms


@pytest.mark.parametrize(
    ("reply", "states"),
    [
        (Reply(489), "CREATED ACTIVE ERROR RETRY"),
        (Reply(500, (("Upstash-NonRetryable-Error", "true"),)), "CREATED ACTIVE ERROR RETRY"),
        (Reply(489, (("Upstash-NonRetryable-Error", "false"),)), "CREATED ACTIVE ERROR RETRY"),
        (Reply(489, (("upstash-nonretryable-error", "True"),)), "CREATED ACTIVE ERROR FAILED"),
    ],
)
async def test_section_10_row_38_the_status_489_and_its_header_are_both_needed(
    bench: Bench, reply: Reply, states: str
) -> None:
    bench.rig.deliverer.will(reply)

    message_id = await bench.publish()
    await bench.run()

    assert await bench.states(message_id) == states


@pytest.mark.parametrize(("given", "timeout_ms"), [("1h", 60_000), ("30s", 30_000), ("", 60_000)])
async def test_section_10_row_39_a_timeout_can_only_shorten_the_longest(
    make_bench: MakeBench, given: str, timeout_ms: int
) -> None:
    bench = await make_bench(max_timeout_ms=60_000)

    await bench.publish(headers={"Upstash-Timeout": given})
    [attempt] = await bench.run()

    assert attempt.timeout_ms == timeout_ms


@pytest.mark.parametrize(
    ("given", "timeout_ms"),
    [("90s", 90_000), ("15m", 900_000), ("1h", 3_600_000), ("1d1h30m", 91_800_000), ("1.5s", 1500)],
)
async def test_section_10_row_40_a_timeout_is_in_seconds_minutes_hours_or_days(
    make_bench: MakeBench, given: str, timeout_ms: int
) -> None:
    bench = await make_bench(max_timeout_ms=7 * 86_400_000)

    message_id = await bench.publish(headers={"Upstash-Timeout": given})

    assert (await bench.entries(message_id))[0]["timeout"] == timeout_ms


async def test_section_10_row_41_publishing_with_a_cron_is_scheduling(bench: Bench) -> None:
    answer = await bench.ask("POST", f"/v2/publish/{HOOK}?upstash-cron=*/5+*+*+*+*", content=b"hello")

    schedule = await bench.get(f"/v2/schedules/{answer['scheduleId']}")
    assert (schedule["cron"], schedule["destination"]) == ("*/5 * * * *", HOOK)


async def test_section_10_row_42_a_header_goes_before_the_query_and_that_before_the_group(
    bench: Bench,
) -> None:
    await bench.group("orders", ["https://a.example"])
    await bench.ask("PATCH", "/v2/topics/orders", json={"headers": {"Upstash-Retries": "5"}})
    found = []

    header = {"Upstash-Retries": "7"}
    for query, headers in (("", {}), ("?upstash-retries=6", {}), ("?upstash-retries=6", header)):
        [answer] = await bench.ask("POST", f"/v2/publish/orders{query}", headers=headers)
        found.append((await bench.message(answer["messageId"]))["maxRetries"])

    assert found == [5, 6, 7]


@pytest.mark.parametrize(
    ("token", "query", "authorization", "forwarded"),
    [
        (TOKEN, "", f"Bearer {TOKEN}", None),
        (None, f"?qstash_token={TOKEN}", "Basic Zm9vOmJhcg==", "Basic Zm9vOmJhcg=="),
        (None, f"?qstash_token={TOKEN}", f"Bearer {TOKEN}", None),
    ],
)
async def test_section_10_row_43_the_broker_s_token_is_never_forwarded(
    bench: Bench, token: str | None, query: str, authorization: str, forwarded: str | None
) -> None:
    headers = {"Upstash-Header-Forward": "true", "X-Plain": "seen", "Authorization": authorization}

    async with bench_of(bench.rig, token) as sender:
        await sender.publish(f"{HOOK}{query}", headers=headers)
    [attempt] = await bench.run()

    arrived = dict(attempt.headers)
    assert attempt.url == HOOK
    assert arrived["X-Plain"] == "seen"
    assert arrived.get("Authorization") == forwarded
    assert TOKEN not in str(attempt.headers)


async def read_only_token(bench: Bench) -> str:
    """Have a token made that may only read."""
    answer = await bench.ask(
        "POST", "/qtasks/v1/tokens", status=201, json={"name": "console", "scope": "read-only"}
    )
    assert (answer["name"], answer["scope"]) == ("console", "read-only")
    return str(answer["token"])


@pytest.mark.parametrize(
    "path",
    ["messages/{id}", "queues", "schedules", "topics", "dlq", "logs", "events", "flowControl"],
)
async def test_section_10_row_44_a_read_only_token_reads(bench: Bench, path: str) -> None:
    message_id = await bench.publish()

    async with bench_of(bench.rig, await read_only_token(bench)) as reader:
        await reader.get(f"/v2/{path.format(id=message_id)}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v2/publish/{HOOK}"),
        ("GET", f"/v2/publish/{HOOK}"),
        ("POST", f"/v2/enqueue/mail/{HOOK}"),
        ("POST", "/v2/batch"),
        ("DELETE", "/v2/messages"),
        ("POST", "/v2/queues"),
        ("POST", f"/v2/schedules/{HOOK}"),
        ("DELETE", "/v2/topics/orders"),
        ("DELETE", "/v2/dlq"),
        ("POST", "/v2/flowControl/tenant/pause"),
        ("POST", "/v2/keys/rotate"),
        ("GET", "/v2/keys"),
        ("POST", "/qtasks/v1/tokens"),
    ],
)
async def test_section_10_row_44_a_read_only_token_changes_nothing_and_sees_no_keys(
    bench: Bench, method: str, path: str
) -> None:
    waiting = await bench.publish()

    async with bench_of(bench.rig, await read_only_token(bench)) as reader:
        error = await reader.refusal(method, path, 403)

    assert "read-only token" in error
    assert await bench.states(waiting) == "CREATED"
    assert len((await bench.get("/v2/events"))["events"]) == 1


async def test_section_10_row_44_a_token_is_shown_once_and_ends_when_it_is_deleted(bench: Bench) -> None:
    token = await read_only_token(bench)
    await bench.ask("POST", "/qtasks/v1/tokens", status=201, json={"name": "deploy", "scope": "full"})

    async with bench_of(bench.rig, token) as reader:
        await reader.get("/v2/queues")
        listed = (await bench.http.get("/qtasks/v1/tokens")).text
        for _ in range(3):
            await bench.http.delete("/qtasks/v1/tokens/console")
        error = await reader.refusal("GET", "/v2/queues", 401)

    assert "console" in listed
    assert "deploy" in listed
    assert token not in listed
    assert error == "unable to authenticate: invalid token"


async def test_section_10_row_44_a_named_token_of_full_scope_publishes(bench: Bench) -> None:
    body = {"name": "deploy", "scope": "full"}
    made = await bench.ask("POST", "/qtasks/v1/tokens", status=201, json=body)

    async with bench_of(bench.rig, made["token"]) as publisher:
        await publisher.publish()

    assert sorted(made) == ["createdAt", "name", "scope", "token"]
    assert made["createdAt"] == bench.rig.clock.now()


RETRIES: tuple[Headers, bytes, str] = ({"Upstash-Retries": "6"}, b"", "quota maxRetries exceeded")
DELAY: tuple[Headers, bytes, str] = (
    {"Upstash-Delay": "61s"},
    b"",
    "quota maxDelay exceeded, current limit: 60",
)
SIZE: tuple[Headers, bytes, str] = ({}, b"x" * 101, "quota maxMessageSize exceeded")


@pytest.mark.parametrize(
    ("path", "over"),
    [
        ("publish", RETRIES),
        ("publish", DELAY),
        ("publish", SIZE),
        ("enqueue/mail", RETRIES),
        ("enqueue/mail", SIZE),
        ("schedules", RETRIES),
        ("schedules", DELAY),
        ("schedules", SIZE),
    ],
)
async def test_section_10_row_45_what_is_over_a_quota_is_answered_412(
    make_bench: MakeBench, path: str, over: tuple[Headers, bytes, str]
) -> None:
    bench = await make_bench(max_retries=5, max_delay_ms=60_000, max_message_bytes=100)
    headers, body, text = over
    cron = {"Upstash-Cron": "* * * * *"} if path == "schedules" else {}

    error = await bench.refusal("POST", f"/v2/{path}/{HOOK}", 412, headers={**headers, **cron}, content=body)

    assert error.startswith(text)
    assert (await bench.get("/v2/events"))["events"] == []
    assert await bench.get("/v2/schedules") == []


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_section_10_row_46_what_is_missing_cannot_be_paused_but_a_flow_control_key_can(
    bench: Bench, verb: str
) -> None:
    await bench.refusal("POST", f"/v2/queues/mail/{verb}", 404)
    await bench.refusal("POST", f"/v2/schedules/nightly/{verb}", 404)
    await bench.ask("POST", f"/v2/flowControl/tenant/{verb}")

    assert (await bench.flow("tenant"))["isPaused"] is (verb == "pause")
    assert await bench.get("/v2/queues") == []


async def test_section_10_row_47_flow_control_keys_are_listed_in_a_bare_array(bench: Bench) -> None:
    await bench.publish(headers=LIMITS)

    [flow] = await bench.get("/v2/flowControl")

    assert flow == await bench.flow("tenant")


async def test_section_10_row_48_a_flow_control_key_shows_its_zeros(bench: Bench) -> None:
    await bench.ask("POST", "/v2/flowControl/tenant/resume")

    flow = await bench.flow("tenant")

    numbers = {
        *("waitListSize", "parallelismMax", "parallelismCount"),
        *("rateMax", "rateCount", "ratePeriod", "ratePeriodStart"),
    }
    flags = {"isPinnedParallelism", "isPinnedRate", "isPaused"}
    assert set(flow) == {"flowControlKey"} | numbers | flags
    assert all(type(flow[each]) is int for each in numbers)
    assert all(flow[each] is False for each in flags)


async def test_section_10_row_49_a_waiting_message_is_called_off_at_once(bench: Bench) -> None:
    message_id = await bench.publish(headers={"Upstash-Delay": "1h"})
    bench.rig.clock.advance(1000)

    await bench.ask("DELETE", f"/v2/messages/{message_id}")

    _, requested, canceled = await bench.entries(message_id)
    assert (requested["state"], canceled["state"]) == ("CANCEL_REQUESTED", "CANCELED")
    assert requested["time"] == canceled["time"] == bench.rig.clock.now()
    await bench.refusal("DELETE", f"/v2/messages/{message_id}", 404)
    bench.rig.clock.advance(hours=2)
    assert await bench.run() == []


async def test_section_10_row_50_a_schedule_written_anew_runs_and_keeps_when_it_was_made(
    bench: Bench,
) -> None:
    named = {"Upstash-Schedule-Id": "nightly"}
    await bench.schedule(headers=named)
    await bench.ask("POST", "/v2/schedules/nightly/pause")
    before = await bench.get("/v2/schedules/nightly")
    bench.rig.clock.advance(1000)

    await bench.schedule(headers=named, cron="*/2 * * * *")

    after = await bench.get("/v2/schedules/nightly")
    assert (before["isPaused"], after["isPaused"]) == (True, False)
    assert (after["createdAt"], after["cron"]) == (before["createdAt"], "*/2 * * * *")
    assert len(await bench.get("/v2/schedules")) == 1


async def test_section_10_row_51_the_period_is_1_where_none_is_given(bench: Bench) -> None:
    message = await bench.message(await bench.publish(headers=LIMITS))

    assert (message["flowControlKey"], message["parallelism"], message["period"]) == ("tenant", 2, 1)
    assert "rate" not in message


async def test_section_10_row_52_a_timeout_is_in_milliseconds_in_logs_and_in_seconds_in_schedules(
    bench: Bench,
) -> None:
    message_id = await bench.publish(headers={"Upstash-Timeout": "90s"})
    schedule_id = await bench.schedule(headers={"Upstash-Timeout": "90s"})

    assert (await bench.entries(message_id))[0]["timeout"] == 90_000
    assert (await bench.get(f"/v2/schedules/{schedule_id}"))["timeout"] == 90


async def test_section_10_row_54_a_group_has_a_name_and_no_id(bench: Bench) -> None:
    await bench.group("orders")

    assert sorted(await bench.get("/v2/topics/orders")) == ["createdAt", "endpoints", "name", "updatedAt"]


@pytest.mark.parametrize("name", ["api/llm", "api/email"])
@pytest.mark.parametrize("of", ["publish", "enqueue/mail"])
async def test_section_10_row_55_an_api_that_is_not_configured_is_refused_with_what_to_do(
    bench: Bench, name: str, of: str
) -> None:
    headers = {"Upstash-Callback": CALLBACK}

    error = await bench.refusal("POST", f"/v2/{of}/{name}", 400, headers=headers, content=b"{}")

    assert error.startswith(f"invalid destination: {name} is not configured; ")


async def test_section_10_row_55_an_api_is_called_with_the_key_that_the_broker_has_for_it(
    tmp_path: Path,
) -> None:
    async with WireServer() as llm:
        url = f"{llm.url}/v1/chat/completions"
        config = BrokerConfig(grace_ms=2000, apis={"api/llm": ApiTarget(url, "the-key-of-the-api")})
        async with standalone_at(tmp_path / "q.db", config=config) as standalone:
            refused = await standalone.http.post("/v2/publish/api/llm", content=b"{}")
            callback = {"Upstash-Callback": f"{standalone.receiver.url}/callback"}
            message_id = await standalone.publish("api/llm", b"{}", callback)
            await llm.reached(1)
            await standalone.receiver.reached(1)
            paths = (f"messages/{message_id}", "events")
            shown = [(await standalone.http.get(f"/v2/{path}")).text for path in paths]

    assert (refused.status_code, "Upstash-Callback" in refused.json()["error"]) == (400, True)
    assert (llm.last.method, llm.last.target, llm.last.body) == ("POST", "/v1/chat/completions", b"{}")
    assert llm.last.header("Authorization") == "Bearer the-key-of-the-api"
    assert b"the-key-of-the-api" not in standalone.receiver.last.body
    assert "the-key-of-the-api" not in "".join(shown)


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/",
        "https://10.0.0.1/",
        "https://[fd00::1]/",
        "http://app.example/hook",
    ],
)
async def test_section_10_row_56_addresses_that_are_not_public_are_refused(bench: Bench, url: str) -> None:
    error = await bench.refusal("POST", f"/v2/publish/{url}", 400)

    assert error.startswith("invalid destination url: ")


async def test_section_10_row_56_a_broker_on_loopback_may_call_loopback(bench: Bench) -> None:
    for url in ("http://127.0.0.1:9/hook", "http://localhost:9/hook", "http://[::1]:9/hook"):
        assert (await bench.message(await bench.publish(url)))["url"] == url


async def test_section_10_row_57_words_in_paths_are_known_in_any_case_and_with_a_slash_behind(
    bench: Bench,
) -> None:
    schedule_id = await bench.schedule()

    await bench.ask("POST", "/v2/queues/", json={"queueName": "mail"})
    listed = [len(await bench.get(path)) for path in ("/v2/Queues/", "/V2/SCHEDULES", "/v2/flowcontrol/")]
    await bench.ask("PATCH", f"/v2/Schedules/{schedule_id}/Pause/")

    assert listed == [1, 1, 0]
    assert (await bench.get(f"/v2/schedules/{schedule_id}"))["isPaused"] is True


UNTESTED = {
    53: "how retries are billed is no matter of a broker",
}


def test_every_row_of_section_10_is_cited() -> None:
    names = [*vars(test_ambiguities), *globals()]

    assert uncited(names, r"test_section_10_rows?_(\d\d)_", 57, UNTESTED | {25: "together with 24"}) == []
