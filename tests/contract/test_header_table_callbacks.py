"""The two families of callback headers, in each of their ways (contract 3.6, 5).

A callback is a message of its own, so what its settings do is seen as that of any message is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from qtasks.broker.store.records import Claim, Reply
from tests.support.broker import HOOK
from tests.support.contract import BROKEN, CALLBACK, FAILURE_CALLBACK, TEXT, Bench, MakeBench, told, unpacked
from tests.support.ways import (
    ENQUEUED,
    GROUP,
    QUEUE,
    Trace,
    Way,
    attempt,
    in_each_kind_of_way,
    in_every_way,
    trace,
    without_a_queue,
)

ONCE = {"Upstash-Retries": "0"}
AT_ONCE = {"Upstash-Retry-Delay": "0"}
BOTH = {"Upstash-Callback": CALLBACK, "Upstash-Failure-Callback": FAILURE_CALLBACK}
FAMILIES = pytest.mark.parametrize(
    ("family", "url"), [("Upstash-Callback", CALLBACK), ("Upstash-Failure-Callback", FAILURE_CALLBACK)]
)


@dataclass(frozen=True, slots=True)
class Called:
    """A callback that was delivered: its message, its log, and its attempts."""

    message: dict[str, Any]
    log: list[dict[str, Any]]
    attempts: list[Claim]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of its first attempt that are the message's own."""
        return dict(self.attempts[0].headers)


async def called(bench: Bench, url: str) -> Called:
    """Give the one callback to a URL."""
    [message] = await bench.messages_to(quote(url, safe=""))
    return Called(message, await bench.entries(message["messageId"]), bench.seen(url))


async def failed(bench: Bench, way: Way, settings: dict[str, str], url: str) -> tuple[Trace, Called]:
    """Send a message whose only attempt fails; give what was seen of it, and its callback to a URL."""
    found = await trace(bench, way, ONCE | settings, replies=[BROKEN])
    return found, await called(bench, url)


# --- Upstash-Callback -----------------------------------------------------------------------------


@in_every_way
async def test_upstash_callback_is_shown_by_message_log_and_schedule_and_called(
    bench: Bench, way: Way
) -> None:
    url = f"{CALLBACK}?a=b&c=%20"
    found = await trace(bench, way, {"Upstash-Callback": url})

    assert (found.message["callback"], found.logged("callback")) == (url, [url])
    assert found.is_scheduled_with(callback=url)
    callback = await called(bench, url)
    assert [each.method for each in callback.attempts] == ["POST"]
    assert callback.headers == {"Content-Type": "application/json"}
    assert [each["state"] for each in callback.log] == ["CREATED", "ACTIVE", "DELIVERED"]
    assert callback.message["messageId"] != found.message_id


@in_each_kind_of_way
async def test_upstash_callback_follows_every_attempt_that_counts(bench: Bench, way: Way) -> None:
    await trace(bench, way, {"Upstash-Callback": CALLBACK, **AT_ONCE}, replies=[BROKEN])

    # The callbacks themselves are answered with 200, and so is the second attempt.
    bodies = [told(each) for each in bench.seen(CALLBACK)]
    assert [(each["status"], each["retried"], each["maxRetries"]) for each in bodies] == [
        (500, 0, 3),
        (200, 1, 3),
    ]


async def test_upstash_callback_tells_all_of_the_attempt(bench: Bench) -> None:
    answered = (("Content-Type", "text/plain"), ("X-Y", "1"), ("X-Y", "2"))
    bench.rig.deliverer.will(Reply(201, answered, b"done"))
    headers = {"Upstash-Callback": CALLBACK, "Content-Type": "a/b", "Upstash-Forward-X": "1"}
    message_id = await bench.publish(f"{HOOK}?a=b", b"\xff\x00", headers | {"Upstash-Method": "PUT"})
    await bench.run()

    message = await bench.message(message_id)
    body = told(bench.seen(CALLBACK)[0])
    assert (unpacked(body.pop("body")), unpacked(body.pop("sourceBody"))) == (b"done", b"\xff\x00")
    assert body == {
        "status": 201,
        "header": {"Content-Type": ["text/plain"], "X-Y": ["1", "2"]},
        "retried": 0,
        "maxRetries": 3,
        "sourceMessageId": message_id,
        "url": f"{HOOK}?a=b",
        "method": "PUT",
        "sourceHeader": {"Content-Type": ["a/b"], "X": ["1"]},
        "notBefore": message["notBefore"],
        "createdAt": message["createdAt"],
        "callerIP": message["callerIP"],
    }


async def test_upstash_callback_tells_the_headers_of_the_answer_in_canonical_spelling(bench: Bench) -> None:
    bench.rig.deliverer.will(Reply(200, (("content-type", "text/plain"), ("X-Y", "1"), ("x-y", "2"))))
    await bench.publish(headers={"Upstash-Callback": CALLBACK})
    await bench.run()

    [body] = map(told, bench.seen(CALLBACK))
    assert body["header"] == {"Content-Type": ["text/plain"], "X-Y": ["1", "2"]}


async def test_upstash_callback_tells_the_group_and_the_schedule_of_its_message(bench: Bench) -> None:
    await bench.group(GROUP, [{"url": HOOK, "name": "billing"}])
    await bench.schedule(GROUP, headers={"Upstash-Callback": CALLBACK, "Upstash-Schedule-Id": "nightly"})
    await bench.tick()
    await bench.run()

    body = told(bench.seen(CALLBACK)[0])
    assert (body["topicName"], body["endpointName"], body["scheduleId"]) == (GROUP, "billing", "nightly")


async def test_upstash_callback_of_an_attempt_without_an_answer_says_so(bench: Bench) -> None:
    bench.rig.deliverer.will(Reply(0, error="connection refused"))
    await bench.publish(headers=ONCE | {"Upstash-Callback": CALLBACK})
    await bench.run()

    body = told(bench.seen(CALLBACK)[0])
    assert (body["status"], body["body"], body["error"]) == (0, "", "connection refused")
    assert "dlqId" not in body


@FAMILIES
async def test_upstash_callback_that_fails_changes_nothing_of_its_message(
    bench: Bench, family: str, url: str
) -> None:
    is_late = family == "Upstash-Failure-Callback"
    found = await trace(bench, Way.HEADER, ONCE | {family: url}, replies=[BROKEN, BROKEN])

    assert [each["state"] for each in found.log] == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert {each["url"] for each in await bench.letters()} == {HOOK, url}
    told_of = told(bench.seen(url)[0])
    assert ("dlqId" in told_of) is is_late


# --- settings of callbacks ------------------------------------------------------------------------


def settings_of(family: str, url: str) -> dict[str, str]:
    """Give every setting of a callback that works with a queue too."""
    return {
        family: url,
        f"{family}-Method": "put",
        f"{family}-Timeout": "7s",
        f"{family}-Retries": "1",
        f"{family}-Retry-Delay": "1000 * (1 + retried)",
        f"{family}-Forward-x-tenant": "42",
        f"{family}-Forward-Authorization": "Bearer of the callback",
    }


FORWARDED = {"X-Tenant": ["42"], "Authorization": ["Bearer of the callback"]}


def is_as_set(callback: Called) -> bool:
    """Say whether a callback has the settings above."""
    message = callback.message
    assert (message["method"], message["maxRetries"]) == ("PUT", 1)
    assert message["retryDelayExpression"] == "1000 * (1 + retried)"
    assert message["header"] == FORWARDED | {"Content-Type": ["application/json"]}
    assert {each["timeout"] for each in callback.log} == {7000}
    [delivered] = callback.attempts
    assert (delivered.method, delivered.timeout_ms) == ("PUT", 7000)
    return True


@in_every_way
async def test_upstash_callback_settings_are_those_of_its_message(bench: Bench, way: Way) -> None:
    found, callback = await failed(bench, way, settings_of("Upstash-Callback", CALLBACK), CALLBACK)

    assert is_as_set(callback)
    assert (found.message["method"], found.message["maxRetries"], found.delivered) == ("POST", 0, {})
    assert found.message["callbackHeader"] == FORWARDED
    assert found.logged("callbackHeaders") == [FORWARDED]
    assert found.is_scheduled_with(callbackHeader=FORWARDED)


@in_every_way
async def test_upstash_failure_callback_settings_are_those_of_its_message(bench: Bench, way: Way) -> None:
    settings = settings_of("Upstash-Failure-Callback", FAILURE_CALLBACK)
    found, callback = await failed(bench, way, settings, FAILURE_CALLBACK)

    assert is_as_set(callback)
    assert (found.message["method"], found.message["maxRetries"], found.delivered) == ("POST", 0, {})
    assert found.message["failureCallbackHeader"] == FORWARDED
    assert found.logged("failureCallbackHeaders") == [FORWARDED]
    assert found.is_scheduled_with(failureCallbackHeader=FORWARDED)


@in_each_kind_of_way
async def test_upstash_callback_settings_of_the_two_families_are_not_confused(bench: Bench, way: Way) -> None:
    settings = BOTH | {
        "Upstash-Callback-Method": "PUT",
        "Upstash-Failure-Callback-Method": "PATCH",
        "Upstash-Callback-Forward-X": "1",
        "Upstash-Failure-Callback-Forward-X": "2",
        "Upstash-Forward-X": "3",
    }
    found, callback = await failed(bench, way, settings, CALLBACK)
    failure = await called(bench, FAILURE_CALLBACK)

    assert (callback.message["method"], callback.headers["X"]) == ("PUT", "1")
    assert (failure.message["method"], failure.headers["X"]) == ("PATCH", "2")
    assert (found.message["method"], found.delivered) == ("POST", {"X": "3"})


async def test_upstash_callback_method_may_be_any_of_five(bench: Bench) -> None:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    for method in methods:
        await bench.publish(headers={"Upstash-Callback": CALLBACK, "Upstash-Callback-Method": method})
        await bench.run()

    assert [each.method for each in bench.seen(CALLBACK)] == methods


async def test_upstash_failure_callback_method_is_post_unless_told_otherwise(bench: Bench) -> None:
    _, failure = await failed(bench, Way.HEADER, BOTH | {"Upstash-Method": "PUT"}, FAILURE_CALLBACK)

    assert failure.attempts[0].method == "POST"


async def test_upstash_callback_timeout_is_the_longest_unless_told_otherwise(make_bench: MakeBench) -> None:
    bench = await make_bench(max_timeout_ms=900_000)
    _, callback = await failed(bench, Way.HEADER, BOTH | {"Upstash-Timeout": "1s"}, CALLBACK)

    assert callback.attempts[0].timeout_ms == 900_000


async def test_upstash_failure_callback_timeout_is_cut_to_the_longest(make_bench: MakeBench) -> None:
    bench = await make_bench(max_timeout_ms=900_000)
    settings = BOTH | {"Upstash-Failure-Callback-Timeout": "1h"}
    _, failure = await failed(bench, Way.HEADER, settings, FAILURE_CALLBACK)

    assert failure.attempts[0].timeout_ms == 900_000


@in_each_kind_of_way
@pytest.mark.parametrize("retries", ["0", "2"])
async def test_upstash_callback_retries_are_those_of_the_message_unless_told_otherwise(
    bench: Bench, way: Way, retries: str
) -> None:
    await trace(bench, way, BOTH | AT_ONCE | {"Upstash-Retries": retries}, replies=[BROKEN])

    assert {each["maxRetries"] for each in await bench.messages_to(CALLBACK)} == {int(retries)}


async def test_upstash_callback_retries_are_three_where_nothing_is_said_at_all(bench: Bench) -> None:
    await trace(bench, Way.HEADER, {"Upstash-Callback": CALLBACK})

    assert (await called(bench, CALLBACK)).message["maxRetries"] == 3


async def test_upstash_callback_retries_may_be_none_though_the_message_has_some(bench: Bench) -> None:
    settings = {"Upstash-Callback": CALLBACK, "Upstash-Callback-Retries": "0"}
    bench.rig.deliverer.will(Reply(200), BROKEN)
    await bench.publish(headers=settings)
    await bench.run()

    assert len(bench.seen(CALLBACK)) == 1
    assert [each["url"] for each in await bench.letters()] == [CALLBACK]


@in_each_kind_of_way
async def test_upstash_failure_callback_retries_are_those_of_the_message_unless_told_otherwise(
    bench: Bench, way: Way
) -> None:
    _, failure = await failed(bench, way, BOTH, FAILURE_CALLBACK)

    assert failure.message["maxRetries"] == 0


@FAMILIES
async def test_upstash_callback_retry_delay_is_not_inherited(bench: Bench, family: str, url: str) -> None:
    _, callback = await failed(bench, Way.HEADER, {family: url, "Upstash-Retry-Delay": "1000"}, url)

    assert "retryDelayExpression" not in callback.message


@pytest.mark.parametrize(("name", "url"), [("Callback", CALLBACK), ("Failure-Callback", FAILURE_CALLBACK)])
async def test_upstash_failure_callback_retry_delay_and_that_of_a_callback_set_the_pace(
    bench: Bench, name: str, url: str
) -> None:
    settings = {
        f"Upstash-{name}": url,
        f"Upstash-{name}-Retry-Delay": "7000",
        f"Upstash-{name}-Retries": "1",
    }
    bench.rig.deliverer.will(BROKEN, BROKEN)
    await bench.publish(headers=ONCE | settings)
    await bench.run()
    bench.rig.clock.advance(6999)
    assert await bench.run() == []
    bench.rig.clock.advance(1)
    await bench.run()

    assert len(bench.seen(url)) == 2


@without_a_queue
async def test_upstash_callback_delay_holds_the_callback_back(bench: Bench, way: Way) -> None:
    await trace(bench, way, {"Upstash-Callback": CALLBACK, "Upstash-Callback-Delay": "1m30s"})

    assert bench.seen(CALLBACK) == []
    bench.rig.clock.advance(89_999)
    assert await bench.run() == []
    bench.rig.clock.advance(1)
    assert [each.url for each in await bench.run()] == [CALLBACK]


@without_a_queue
async def test_upstash_failure_callback_delay_holds_the_callback_back(bench: Bench, way: Way) -> None:
    settings = {"Upstash-Failure-Callback": FAILURE_CALLBACK, "Upstash-Failure-Callback-Delay": "90"}
    await trace(bench, way, ONCE | settings, replies=[BROKEN])

    assert bench.seen(FAILURE_CALLBACK) == []
    bench.rig.clock.advance(90_000)
    assert [each.url for each in await bench.run()] == [FAILURE_CALLBACK]


@pytest.mark.parametrize("way", ENQUEUED)
@FAMILIES
async def test_upstash_callback_delay_is_refused_with_a_queue(
    bench: Bench, way: Way, family: str, url: str
) -> None:
    answer = await attempt(bench, way, {family: url, f"{family}-Delay": "1m"})

    assert (answer.status_code, f"{family}-Delay" in answer.json()["error"]) == (400, True)
    assert await bench.get("/v2/logs") == {"logs": []}


async def test_upstash_callback_forward_may_set_another_content_type(bench: Bench) -> None:
    settings = {"Upstash-Callback": CALLBACK, "Upstash-Callback-Forward-Content-Type": "application/x-a"}
    _, callback = await failed(bench, Way.HEADER, settings, CALLBACK)

    assert callback.headers == {"Content-Type": "application/x-a"}


async def test_upstash_callback_forward_takes_its_prefix_off_once(bench: Bench) -> None:
    settings = {
        "Upstash-Callback": CALLBACK,
        "Upstash-Callback-Forward-Upstash-Workflow-RunId": "wfr_1",
        "Upstash-Callback-Forward-Upstash-Callback": "https://not-ours",
    }
    found, callback = await failed(bench, Way.HEADER, settings, CALLBACK)

    assert callback.headers["Upstash-Workflow-Runid"] == "wfr_1"
    assert callback.headers["Upstash-Callback"] == "https://not-ours"
    assert found.message["callback"] == CALLBACK


async def test_upstash_failure_callback_forward_takes_its_prefix_off_once(bench: Bench) -> None:
    settings = {"Upstash-Failure-Callback-Forward-Upstash-Callback-Forward-X": "1"}
    _, failure = await failed(bench, Way.HEADER, BOTH | settings, FAILURE_CALLBACK)
    callback = await called(bench, CALLBACK)

    assert failure.headers["Upstash-Callback-Forward-X"] == "1"
    assert callback.headers == {"Content-Type": "application/json"}


@FAMILIES
@pytest.mark.parametrize("way", [Way.HEADER, Way.BATCH, Way.SCHEDULE])
async def test_upstash_callback_settings_that_are_unknown_are_ignored(
    bench: Bench, way: Way, family: str, url: str
) -> None:
    unknown = {f"{family}-X-Foo": "1", f"{family}-Cron": "* * * * *", f"{family}-Queue-Name": "q"}
    _, callback = await failed(bench, way, {family: url, **unknown}, url)

    assert callback.headers == {"Content-Type": "application/json"}
    assert "queueName" not in callback.message


@pytest.mark.parametrize("way", [Way.HEADER, Way.ENQUEUE, Way.SCHEDULE])
async def test_upstash_callback_settings_without_a_callback_are_ignored(bench: Bench, way: Way) -> None:
    settings = {"Upstash-Callback-Retries": "1", "Upstash-Failure-Callback-Forward-X": "1"}
    found = await trace(bench, way, settings)

    assert found.message["maxRetries"] == 3
    assert {"callback", "failureCallback", "callbackHeader", "failureCallbackHeader"} & set(
        found.message
    ) == set()
    assert len(bench.rig.deliverer.attempts) == 1


async def test_upstash_callback_takes_nothing_else_from_its_message(bench: Bench) -> None:
    settings = BOTH | {
        "Upstash-Label": "a",
        "Upstash-Flow-Control-Key": "tenant-42",
        "Upstash-Flow-Control-Value": "rate=1, period=1h",
        "Upstash-Deduplication-Id": "order-7",
        "Upstash-Forward-X": "1",
    }
    found, callback = await failed(bench, Way.HEADER, settings, CALLBACK)
    failure = await called(bench, FAILURE_CALLBACK)

    assert found.message["flowControlKey"] == "tenant-42"
    taken = {"label", "labels", "flowControlKey", "rate", "callback", "failureCallback", "queueName"}
    for each in (callback, failure):
        assert taken & set(each.message) == set()
        # The key's one delivery an hour was the message's own.
        assert len(each.attempts) == 1


async def test_upstash_callback_may_have_labels_and_flow_control_of_its_own(bench: Bench) -> None:
    settings = {
        "Upstash-Callback": CALLBACK,
        "Upstash-Callback-Label": "told",
        "Upstash-Callback-Flow-Control-Key": "callbacks",
        "Upstash-Callback-Flow-Control-Value": "parallelism=2",
    }
    found, callback = await failed(bench, Way.HEADER, settings, CALLBACK)

    assert (callback.message["labels"], callback.message["flowControlKey"]) == (["told"], "callbacks")
    assert {"labels", "flowControlKey"} & set(found.message) == set()


async def test_upstash_callback_does_not_hold_up_the_queue_that_it_is_not_in(bench: Bench) -> None:
    found = await trace(bench, Way.ENQUEUE, {"Upstash-Callback": CALLBACK})

    assert found.message["queueName"] == QUEUE
    assert "queueName" not in (await called(bench, CALLBACK)).message
    assert (await bench.get(f"/v2/queues/{QUEUE}"))["lag"] == 0


@in_each_kind_of_way
async def test_upstash_callback_may_have_a_failure_callback_of_its_own(bench: Bench, way: Way) -> None:
    inner = "https://app.example/inner"
    settings = ONCE | {
        "Upstash-Callback": CALLBACK,
        "Upstash-Callback-Failure-Callback": inner,
        "Upstash-Callback-Failure-Callback-Forward-X": "inner",
        "Upstash-Callback-Failure-Callback-Method": "PATCH",
    }
    await trace(bench, way, settings, replies=[Reply(200), BROKEN])

    [failure] = bench.seen(inner)
    assert (failure.method, dict(failure.headers)["X"]) == ("PATCH", "inner")
    assert told(failure)["url"] == CALLBACK


# --- Upstash-Failure-Callback ---------------------------------------------------------------------


@in_every_way
async def test_upstash_failure_callback_is_shown_by_message_log_and_schedule_and_called(
    bench: Bench, way: Way
) -> None:
    url = f"{FAILURE_CALLBACK}?a=b"
    found, failure = await failed(bench, way, {"Upstash-Failure-Callback": url}, url)

    assert (found.message["failureCallback"], found.logged("failureCallback")) == (url, [url])
    assert found.is_scheduled_with(failureCallback=url)
    [letter] = await bench.letters()
    body = told(failure.attempts[0])
    assert (body["dlqId"], body["sourceMessageId"]) == (letter["dlqId"], found.message_id)
    assert (body["status"], unpacked(body["body"]), body["retried"]) == (500, b"oops", 0)


@pytest.mark.parametrize(
    ("replies", "calls"),
    [
        ([Reply(200)], 0),
        ([BROKEN, Reply(200)], 0),
        ([BROKEN, BROKEN], 1),
        ([Reply(489, (("Upstash-NonRetryable-Error", "true"), *TEXT), b"never", "unexpected status 489")], 1),
    ],
)
async def test_upstash_failure_callback_is_called_once_when_all_attempts_are_spent(
    bench: Bench, replies: Sequence[Reply], calls: int
) -> None:
    settings = {"Upstash-Failure-Callback": FAILURE_CALLBACK, "Upstash-Retries": "1"}
    await trace(bench, Way.HEADER, settings | AT_ONCE, replies=replies)

    assert len(bench.seen(FAILURE_CALLBACK)) == calls


async def test_upstash_failure_callback_is_not_called_for_a_message_that_was_called_off(bench: Bench) -> None:
    message_id = await bench.publish(headers=BOTH | {"Upstash-Delay": "1h"})
    await bench.ask("DELETE", f"/v2/messages/{message_id}")
    await bench.run_to_the_end()

    assert bench.rig.deliverer.attempts == []


async def test_upstash_failure_callback_and_callback_may_both_be_set(bench: Bench) -> None:
    _, callback = await failed(bench, Way.HEADER, BOTH, CALLBACK)
    failure = await called(bench, FAILURE_CALLBACK)

    assert ("dlqId" in told(callback.attempts[0]), "dlqId" in told(failure.attempts[0])) == (False, True)
