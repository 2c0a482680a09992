"""What a broker gets wrong which is written from the pages alone: numbers 16 to 30.

Numbers 1 to 15, and the check that none is missing, are in `test_checklist.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from pathlib import Path

import orjson
import pytest

from qtasks.broker.store.records import Reply
from qtasks.settings import Settings
from tests.support.broker import HOOK
from tests.support.contract import (
    BROKEN,
    CALLBACK,
    CALLER,
    ENDPOINTS,
    FAILURE_CALLBACK,
    LIMITS,
    Bench,
    MakeBench,
    Standalone,
    claims_of,
    standalone_at,
    told,
    unpacked,
)
from tests.support.homes import TOKEN
from tests.support.wire import response

# The first of the users whom the makers of QStash published for development.
DEV_TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="
DEV_KEYS = ("sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs")


async def test_appendix_b_16_each_span_and_instant_is_in_its_own_unit(bench: Bench) -> None:
    now = bench.rig.clock.now()
    bench.rig.deliverer.will(BROKEN)
    limits = {"Upstash-Flow-Control-Key": "tenant", "Upstash-Flow-Control-Value": "rate=1"}
    settings = {"Upstash-Retry-Delay": "2500", "Upstash-Timeout": "90s"}
    later = {"Upstash-Not-Before": str(now // 1000 + 60)}
    message_id = await bench.publish(headers=limits | settings)
    delayed = await bench.publish(headers=later)
    schedule_id = await bench.schedule(headers={"Upstash-Delay": "1m30s"})

    await bench.run()

    created, _, error, retry = await bench.entries(message_id)
    assert (await bench.message(delayed))["notBefore"] == now + 60_000
    assert (await bench.get(f"/v2/schedules/{schedule_id}"))["delay"] == 90
    assert (retry["nextDeliveryTime"] - retry["time"], error["timeout"]) == (2500, 90_000)
    assert created["time"] == now
    assert now // 1000 - 1 <= (await bench.flow("tenant"))["ratePeriodStart"] <= now // 1000


async def test_appendix_b_17_the_signature_has_these_claims(standalone: Standalone) -> None:
    url = f"{standalone.receiver.url}/hook?x=1"
    for body in (b"hello", b""):
        await standalone.publish(url, body)
    await standalone.receiver.reached(2)

    ids = set()
    for arrived in standalone.receiver.requests:
        claims = claims_of(arrived.header("Upstash-Signature"))
        ids.add(claims["jti"])
        assert sorted(claims) == ["body", "exp", "iat", "iss", "jti", "nbf", "sub"]
        assert (claims["iss"], claims["sub"], claims["nbf"]) == ("Upstash", url, 0)
        assert claims["exp"] == claims["iat"] + 300
        assert time.time() - 60 < claims["iat"] <= time.time()
        assert isinstance(claims["iat"], int)
        assert claims["jti"].startswith("jwt_")
        assert len(claims["body"]) == 44
    hashes = {claims_of(each.header("Upstash-Signature"))["body"] for each in standalone.receiver.requests}
    assert hashes == {
        "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
    }
    assert len(ids) == 2


async def test_appendix_b_18_a_change_to_a_queue_ends_its_pause_only_if_it_says_so(bench: Bench) -> None:
    found = []
    for body in (
        {"queueName": "mail", "parallelism": 1, "paused": True},
        {"queueName": "mail", "parallelism": 2},
        {"queueName": "mail", "parallelism": 2, "paused": False},
    ):
        await bench.ask("POST", "/v2/queues", json=body)
        found.append((await bench.get("/v2/queues/mail"))["paused"])

    assert found == [True, True, False]


async def test_appendix_b_19_enqueueing_changes_nothing_of_a_queue(bench: Bench) -> None:
    await bench.ask("POST", "/v2/queues", json={"queueName": "mail", "parallelism": 5, "paused": True})
    before = await bench.get("/v2/queues/mail")
    bench.rig.clock.advance(1000)

    await bench.enqueue("mail")
    await bench.batch({"destination": HOOK, "queue": "mail"})
    await bench.schedule(headers={"Upstash-Queue-Name": "mail"})
    await bench.tick()

    assert await bench.get("/v2/queues/mail") == before | {"lag": 3}


async def test_appendix_b_20_the_head_of_a_queue_keeps_all_others_waiting(bench: Bench) -> None:
    bench.rig.deliverer.will(BROKEN, BROKEN, BROKEN)
    await bench.enqueue("mail", "first", {"Upstash-Callback": CALLBACK, "Upstash-Callback-Retries": "0"})
    await bench.enqueue("mail", "second")

    seen = []
    for hours in (0, 0.01, 1, 7, 25, 49):
        bench.rig.clock.advance(hours=hours)
        seen.append([each.url if each.url == CALLBACK else each.body for each in await bench.run()])

    # The first attempt, its callback and the second attempt fail; every attempt has a callback.
    assert seen[0] == [b"first", CALLBACK]
    assert seen[1] == [b"first", CALLBACK]
    assert seen[2] == [b"first", CALLBACK, b"second"]
    assert (await bench.get("/v2/queues/mail"))["lag"] == 0


async def test_appendix_b_20_a_paused_queue_keeps_a_due_retry(bench: Bench) -> None:
    bench.rig.deliverer.will(BROKEN)
    await bench.enqueue("mail")
    await bench.run()
    await bench.ask("POST", "/v2/queues/mail/pause")
    bench.rig.clock.advance(hours=1)

    assert await bench.run() == []
    await bench.ask("POST", "/v2/queues/mail/resume")
    assert len(await bench.run()) == 1


async def test_appendix_b_21_dead_letters_that_are_gone_are_404_alone_and_skipped_together(
    bench: Bench,
) -> None:
    await bench.die({"Upstash-Label": "import"})
    [letter] = await bench.letters()
    dlq_id = letter["dlqId"]

    retried = await bench.ask("POST", "/v2/dlq/retry?label=import", status=201)
    await bench.refusal("DELETE", f"/v2/dlq/{dlq_id}", 404)
    by_query = await bench.ask("DELETE", f"/v2/dlq?dlqIds={dlq_id}")
    by_body = await bench.ask("DELETE", "/v2/dlq", json={"dlqIds": [dlq_id]})

    assert len(retried["responses"]) == 1
    assert by_query == by_body == {"deleted": 0}


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/v2/messages"), ("DELETE", "/v2/dlq"), ("POST", "/v2/dlq/retry")]
)
@pytest.mark.parametrize("body", [{"lable": "import"}, {"label": ""}, {"label": []}, ["label"]])
async def test_appendix_b_22_a_bulk_operation_with_a_filter_that_says_nothing_is_refused(
    bench: Bench, method: str, path: str, body: object
) -> None:
    await bench.die()
    waiting = await bench.publish()

    for request in ({"json": body}, {"params": {"lable": "import"}}, {"params": {"label": ""}}):
        await bench.refusal(method, path, 400, **request)

    assert len(await bench.letters()) == 1
    assert await bench.states(waiting) == "CREATED"


async def test_appendix_b_23_a_burst_is_refused_as_a_burst(make_bench: MakeBench) -> None:
    bench = await make_bench(burst_limit=2)

    for _ in range(2):
        await bench.get("/v2/queues")
    answer = await bench.http.get("/v2/queues")
    for _ in range(5):
        await bench.publish()
    bench.rig.clock.advance(seconds=1)

    assert answer.status_code == 429
    assert answer.json()["error"]
    assert answer.headers["Burst-RateLimit-Limit"] == "2"
    assert answer.headers["Burst-RateLimit-Remaining"] == "0"
    left_s = int(answer.headers["Burst-RateLimit-Reset"]) - 1_700_000_000
    assert 0 <= left_s <= 1
    assert [each for each in answer.headers if each.startswith(("ratelimit-", "x-ratelimit-"))] == []
    await bench.get("/v2/queues")


async def test_appendix_b_24_a_schedule_is_echoed_trimmed_and_written_anew_whole(bench: Bench) -> None:
    headers = {
        "Upstash-Schedule-Id": "nightly",
        "Content-Type": "text/plain",
        "Upstash-Forward-X-Tenant": "42",
        "Upstash-Retries": "7",
        "Upstash-Delay": "10s",
        "Upstash-Callback": CALLBACK,
        "Upstash-Label": "night",
    }
    first = await bench.schedule(body="hello", headers=headers, cron=" 0 4 * * * ")
    before = await bench.get(f"/v2/schedules/{first}")
    second = await bench.schedule(headers={"Upstash-Schedule-Id": "nightly"}, cron="0 5 * * *")
    after = await bench.get(f"/v2/schedules/{second}")

    assert (first, before["cron"], before["body"]) == ("nightly", "0 4 * * *", "hello")
    assert (second, after["cron"], after["header"], after["retries"]) == ("nightly", "0 5 * * *", {}, 3)
    assert {"body", "bodyBase64", "delay", "callback", "label", "labels"}.isdisjoint(after)


async def test_appendix_b_25_a_client_in_development_finds_the_published_keys(tmp_path: Path) -> None:
    settings = Settings(token=DEV_TOKEN, signing_keys=DEV_KEYS, durability="relaxed")

    async with standalone_at(tmp_path / "q.db", DEV_TOKEN, settings=settings) as standalone:
        answer = await standalone.http.get("/v2/keys")

    assert answer.json() == {"current": DEV_KEYS[0], "next": DEV_KEYS[1]}


async def test_appendix_b_25_after_a_rotation_the_old_next_key_signs(tmp_path: Path) -> None:
    settings = Settings(token=TOKEN, durability="relaxed")

    async with standalone_at(tmp_path / "q.db", settings=settings) as standalone:
        before = (await standalone.http.get("/v2/keys")).json()
        rotated = (await standalone.http.post("/v2/keys/rotate")).json()
        await standalone.publish(f"{standalone.receiver.url}/hook", b"hello")
        await standalone.receiver.reached(1)
        head, _, signature = standalone.receiver.last.header("Upstash-Signature").rpartition(".")

    assert rotated["current"] == before["next"]
    assert signature == signed(head, before["next"])


def signed(head: str, key: str) -> str:
    """Sign the two first parts of a JWT by hand."""
    digest = hmac.digest(key.encode(), head.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


SECRET = "a-body-that-nobody-may-see"
SECRET_HEADER = "a-header-that-nobody-may-see"
REDACTED = {
    "Upstash-Redact-Fields": "body, header[Authorization]",
    "Upstash-Forward-Authorization": SECRET_HEADER,
}


async def test_appendix_b_26_what_is_redacted_is_in_no_answer_and_yet_delivered(bench: Bench) -> None:
    callbacks = {"Upstash-Callback": CALLBACK, "Upstash-Failure-Callback": FAILURE_CALLBACK}
    bench.rig.deliverer.will(BROKEN, Reply(200), Reply(200), BROKEN)
    # The callbacks fail as well, so that they are in the dead letter queue.
    none = {"Upstash-Retries": "0"}
    message_id = await bench.publish(body=SECRET, headers=REDACTED | callbacks | none)
    schedule_id = await bench.schedule(body=SECRET, headers=REDACTED)
    await bench.tick()
    await bench.run()

    shown = ""
    paths = [f"messages/{message_id}", "dlq", "logs", "events", "schedules", f"schedules/{schedule_id}"]
    paths += [f"messages/{each.id}" for each in bench.rig.deliverer.attempts]
    paths += [f"dlq/{each['dlqId']}" for each in await bench.letters()]
    for path in paths:
        shown += (await bench.http.get(f"/v2/{path}")).text
    for each in (await bench.get("/v2/events"))["events"]:
        shown += unpacked(each.get("body", "")).decode()
    for each in (SECRET, SECRET_HEADER):
        assert each not in shown
        assert base64.b64encode(each.encode()).decode() not in shown
        assert hashlib.sha256(each.encode()).hexdigest() in shown
    assert {each.body for each in bench.seen(HOOK)} == {SECRET.encode()}
    assert {dict(each.headers)["Authorization"] for each in bench.seen(HOOK)} == {SECRET_HEADER}


async def test_appendix_b_26_a_redacted_dead_letter_runs_again_with_its_originals(bench: Bench) -> None:
    await bench.die(REDACTED, SECRET.encode())
    [letter] = await bench.letters()

    answer = await bench.ask("POST", f"/v2/dlq/retry/{letter['dlqId']}", status=201)
    [attempt] = await bench.run()

    assert attempt.body == SECRET.encode()
    assert dict(attempt.headers)["Authorization"] == SECRET_HEADER
    assert (await bench.message(answer["messageId"]))["body"].startswith("REDACTED:")


async def test_appendix_b_27_a_failure_callback_tells_of_the_dead_letter(bench: Bench) -> None:
    now = bench.rig.clock.now()
    headers = {
        "Content-Type": "application/json",
        "Upstash-Callback": CALLBACK,
        "Upstash-Failure-Callback": f"{FAILURE_CALLBACK}?x=1",
        "Upstash-Failure-Callback-Forward-X-Tenant": "42",
    }
    message_id = await bench.die(headers, b'{"n":1}')

    [letter] = await bench.letters()
    [called] = bench.seen(CALLBACK)
    [failed] = bench.seen(f"{FAILURE_CALLBACK}?x=1")
    # A text about what went wrong may stand beside these.
    assert {name: value for name, value in told(failed).items() if name != "error"} == {
        "status": 500,
        "header": {"Content-Type": ["text/plain"]},
        "body": "b29wcw==",
        "retried": 0,
        "maxRetries": 0,
        "dlqId": letter["dlqId"],
        "sourceMessageId": message_id,
        "url": HOOK,
        "method": "POST",
        "sourceHeader": {"Content-Type": ["application/json"]},
        "sourceBody": "eyJuIjoxfQ==",
        "notBefore": now,
        "createdAt": now,
        "callerIP": CALLER,
    }
    assert "dlqId" not in told(called)
    assert (failed.method, called.max_retries, failed.max_retries) == ("POST", 0, 0)
    assert dict(failed.headers) == {"Content-Type": "application/json", "X-Tenant": "42"}
    assert dict(called.headers) == {"Content-Type": "application/json"}


async def test_appendix_b_27_a_callback_is_a_signed_request_that_tells_of_the_answer(
    standalone: Standalone,
) -> None:
    receiver = standalone.receiver
    receiver.answers.append(response(201, b"pong", "Content-Type: text/plain", "X-Twice: 1", "X-Twice: 2"))
    url, callback = f"{receiver.url}/hook", f"{receiver.url}/callback?x=1"
    headers = {"Upstash-Callback": callback, "Upstash-Callback-Forward-X-Tenant": "42"}

    message_id = await standalone.publish(url, b"ping", headers)
    await receiver.reached(2)

    first, called = receiver.requests
    body = orjson.loads(called.body)
    assert (first.target, called.target, called.method) == ("/hook", "/callback?x=1", "POST")
    assert (body["status"], body["body"], body["sourceMessageId"]) == (201, "cG9uZw==", message_id)
    assert body["header"]["Content-Type"] == ["text/plain"]
    assert body["header"]["X-Twice"] == ["1", "2"]
    assert (body["url"], body["sourceBody"]) == (url, "cGluZw==")
    assert claims_of(called.header("Upstash-Signature"))["sub"] == callback
    assert called.header("Upstash-Message-Id") != message_id
    assert (called.header("Upstash-Retried"), called.header("X-Tenant")) == ("0", "42")
    assert called.header("Content-Type") == "application/json"
    assert called.header("User-Agent") == "Upstash-QStash"
    assert called.header("Upstash-Caller-Ip") == "127.0.0.1"


async def test_appendix_b_27_a_callback_takes_nothing_else_from_its_message(bench: Bench) -> None:
    headers = LIMITS | {
        "Upstash-Callback": f"{CALLBACK}?x=1",
        "Upstash-Flow-Control-Value": "parallelism=1, rate=1, period=1h",
        "Upstash-Label": "night",
        "Upstash-Forward-X-Tenant": "42",
        "Upstash-Retry-Delay": "1000",
        "Upstash-Timeout": "30s",
        "Upstash-Deduplication-Id": "once",
    }
    message_id = await bench.publish(headers=headers)

    await bench.run()

    [callback] = await bench.messages_to(f"{CALLBACK}?x=1")
    assert callback["messageId"] != message_id
    assert {"callback", "flowControlKey", "label", "labels", "retryDelayExpression"}.isdisjoint(callback)
    assert callback["header"] == {"Content-Type": ["application/json"]}
    assert callback["timeout"] == bench.rig.config.max_timeout_ms
    assert await bench.states(callback["messageId"]) == "CREATED ACTIVE DELIVERED"
    assert await bench.states(message_id) == "CREATED ACTIVE DELIVERED"


async def test_appendix_b_27_a_callback_is_set_by_its_own_headers(bench: Bench) -> None:
    settings = {
        "Method": "PUT",
        "Retries": "7",
        "Retry-Delay": "1000",
        "Timeout": "30s",
        "Forward-X-Tenant": "42",
        "X-Foo": "is no setting",
    }
    headers = {f"Upstash-Callback-{name}": value for name, value in settings.items()}

    message_id = await bench.publish(headers={"Upstash-Callback": CALLBACK, **headers})
    await bench.run()

    [callback] = await bench.messages_to(CALLBACK)
    assert (callback["method"], callback["maxRetries"], callback["timeout"]) == ("PUT", 7, 30_000)
    assert callback["retryDelayExpression"] == "1000"
    assert callback["header"] == {"Content-Type": ["application/json"], "X-Tenant": ["42"]}
    source = await bench.message(message_id)
    assert (source["callback"], source["callbackHeader"]) == (CALLBACK, {"X-Tenant": ["42"]})


async def test_appendix_b_27_a_callback_may_have_a_failure_callback_of_its_own(bench: Bench) -> None:
    headers = {
        "Upstash-Callback": CALLBACK,
        "Upstash-Callback-Retries": "0",
        "Upstash-Callback-Failure-Callback": FAILURE_CALLBACK,
        "Upstash-Callback-Failure-Callback-Forward-Upstash-Workflow-RunId": "wfr_1",
    }
    bench.rig.deliverer.will(Reply(200), BROKEN)
    message_id = await bench.publish(headers=headers)

    await bench.run()

    [callback] = await bench.messages_to(CALLBACK)
    [failed] = bench.seen(FAILURE_CALLBACK)
    assert told(failed)["sourceMessageId"] == callback["messageId"]
    assert dict(failed.headers)["Upstash-Workflow-Runid"] == "wfr_1"
    # What becomes of a callback changes nothing for its message.
    assert await bench.states(message_id) == "CREATED ACTIVE DELIVERED"


async def test_appendix_b_27_the_callbacks_of_groups_name_the_endpoint(bench: Bench) -> None:
    await bench.group("orders", [{"name": "billing", "url": ENDPOINTS[0]}, ENDPOINTS[1]])

    await bench.ask("POST", "/v2/publish/orders", headers={"Upstash-Callback": CALLBACK})
    await bench.run()

    told_of = {
        each["url"]: (each["topicName"], each.get("endpointName")) for each in map(told, bench.seen(CALLBACK))
    }
    assert told_of == {ENDPOINTS[0]: ("orders", "billing"), ENDPOINTS[1]: ("orders", None)}


async def test_appendix_b_28_forwarding_all_headers_leaves_ours_behind(standalone: Standalone) -> None:
    headers = {
        "Upstash-Header-Forward": "true",
        "X-GitHub-Event": "push",
        "X-Tenant": "plain",
        "Upstash-Forward-X-Tenant": "explicit",
        "Upstash-Telemetry-Sdk": "js",
        "Connection": "keep-alive",
        "Host": "broker.example",
    }

    await standalone.publish(f"{standalone.receiver.url}/hook", b"hello", headers)
    await standalone.receiver.reached(1)

    arrived = standalone.receiver.last
    assert TOKEN not in str(arrived.headers)
    assert "Authorization" not in arrived.names
    assert (arrived.header("X-Github-Event"), arrived.header("X-Tenant")) == ("push", "explicit")
    assert arrived.header("Host") == standalone.receiver.url.removeprefix("http://")
    assert [each for each in arrived.names if "Telemetry" in each or "Header-Forward" in each] == []


@pytest.mark.parametrize(
    ("reply", "states", "wait_ms"),
    [
        (Reply(489), "ERROR RETRY", (12_000, 13_200)),
        (Reply(489, (("Upstash-NonRetryable-Error", "true"),)), "ERROR FAILED", None),
        (Reply(304), "ERROR RETRY", (12_000, 13_200)),
        (Reply(503, (("Retry-After", "0"),)), "ERROR RETRY", (0, 0)),
        (Reply(404, (("Retry-After", "10"),)), "ERROR RETRY", (10_000, 10_000)),
        (Reply(503, (("Retry-After", "86401"),)), "ERROR RETRY", (12_000, 13_200)),
        (Reply(503, (("X-RateLimit-Reset", "30h"),)), "ERROR RETRY", (12_000, 13_200)),
    ],
)
async def test_appendix_b_29_an_answer_decides_whether_and_when_there_is_another_attempt(
    bench: Bench, reply: Reply, states: str, wait_ms: tuple[int, int] | None
) -> None:
    bench.rig.deliverer.will(reply)
    message_id = await bench.publish()

    await bench.rig.turn()

    last = (await bench.entries(message_id))[-1]
    assert await bench.states(message_id) == f"CREATED ACTIVE {states}"
    if wait_ms is not None:
        least, most = wait_ms
        assert least <= last["nextDeliveryTime"] - last["time"] <= most


async def test_appendix_b_30_a_message_can_wait_for_ten_days(bench: Bench) -> None:
    message = await bench.message(await bench.publish(headers={"Upstash-Delay": "10d"}))

    assert message["notBefore"] - message["createdAt"] == 864_000_000
