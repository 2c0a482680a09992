"""What a message forwards, how it is delivered and when: rows of the header table (contract 3.1 to 3.5, 3.7).

Each setting is given in each of its ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qtasks.broker.store.records import Reply
from tests.support.broker import HOOK
from tests.support.contract import BROKEN, Bench, MakeBench
from tests.support.homes import TOKEN
from tests.support.ways import (
    EVERY_WAY,
    GROUP,
    PUBLISHED,
    Way,
    attempt,
    by_a_schedule,
    in_each_kind_of_way,
    in_every_way,
    is_untouched,
    trace,
    without_a_queue,
)

DAY_MS = 86_400_000


@in_each_kind_of_way
async def test_content_type_is_not_invented_and_all_else_is_as_built_in(
    make_bench: MakeBench, way: Way
) -> None:
    bench = await make_bench(max_timeout_ms=900_000)
    found = await trace(bench, way, {})

    [attempt] = found.attempts
    assert (attempt.method, attempt.timeout_ms, attempt.headers) == ("POST", 900_000, ())
    assert (found.message["method"], found.message["maxRetries"], found.message["header"]) == ("POST", 3, {})
    assert found.is_scheduled_with(method="POST", retries=3, header={})


# --- Content-Type and forwarding (3.5) ------------------------------------------------------------


# A query has none: whatever in it does not begin with `upstash-` is the destination's.
@pytest.mark.parametrize("way", [each for each in EVERY_WAY if "query" not in each])
async def test_content_type_goes_on_as_it_came(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Content-Type": "text/x-a; charset=b"})

    assert found.message["header"] == {"Content-Type": ["text/x-a; charset=b"]}
    assert found.logged("header") == [{"Content-Type": ["text/x-a; charset=b"]}]
    assert found.delivered == {"Content-Type": "text/x-a; charset=b"}
    assert found.is_scheduled_with(header={"Content-Type": ["text/x-a; charset=b"]})


@in_each_kind_of_way
async def test_content_type_is_overridden_by_the_forwarded_one(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Forward-Content-Type": "a/b", "Content-Type": "c/d"})

    assert found.message["header"]["Content-Type"] == ["a/b"]
    assert found.delivered == {"Content-Type": "a/b"}


@in_every_way
async def test_upstash_forward_goes_on_without_its_prefix_in_canonical_spelling(
    bench: Bench, way: Way
) -> None:
    found = await trace(
        bench, way, {"Upstash-Forward-x-tenant-ID": "42", "upstash-forward-TEST-HEADER": "a, b"}
    )

    shown = {"X-Tenant-Id": ["42"], "Test-Header": ["a, b"]}
    assert found.message["header"] == shown
    assert found.logged("header") == [shown]
    assert found.delivered == {"X-Tenant-Id": "42", "Test-Header": "a, b"}
    assert found.is_scheduled_with(header=shown)


@in_each_kind_of_way
async def test_upstash_forward_may_carry_names_that_begin_with_upstash(bench: Bench, way: Way) -> None:
    settings = {
        "Upstash-Forward-Upstash-Workflow-RunId": "wfr_1",
        "Upstash-Forward-Upstash-Forward-X": "once",
        "Upstash-Forward-Upstash-Retries": "9",
    }
    found = await trace(bench, way, settings)

    assert found.message["maxRetries"] == 3
    assert found.delivered == {
        "Upstash-Workflow-Runid": "wfr_1",
        "Upstash-Forward-X": "once",
        "Upstash-Retries": "9",
    }


@pytest.mark.parametrize("way", [Way.HEADER, Way.QUERY, Way.DEFAULT, Way.BATCH, Way.SCHEDULE])
async def test_upstash_forward_drops_what_frames_a_message(bench: Bench, way: Way) -> None:
    names = ("Host", "Content-Length", "Transfer-Encoding", "X")
    found = await trace(bench, way, {f"Upstash-Forward-{name}": "1" for name in names})

    assert (found.message["header"], found.delivered) == ({"X": ["1"]}, {"X": "1"})


async def test_upstash_forward_that_is_repeated_is_one_value(bench: Bench) -> None:
    repeated = [("Upstash-Forward-X", "value-uppercase"), ("upstash-forward-x", "value-lowercase")]
    answer = await bench.ask("POST", f"/v2/publish/{HOOK}", headers=repeated)

    message = await bench.message(answer["messageId"])
    assert message["header"] == {"X": ["value-uppercase, value-lowercase"]}


async def test_upstash_forward_of_other_names_adds_up_over_header_query_and_group(bench: Bench) -> None:
    await bench.group(GROUP, [HOOK])
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", json={"headers": {"Upstash-Forward-C": "3"}})
    answer = await bench.ask(
        "POST", f"/v2/publish/{GROUP}?upstash-forward-b=2", headers={"Upstash-Forward-A": "1"}
    )

    message = await bench.message(answer[0]["messageId"])
    assert message["header"] == {"A": ["1"], "B": ["2"], "C": ["3"]}


@pytest.mark.parametrize("way", [Way.HEADER, Way.ENQUEUE, Way.SCHEDULE])
async def test_upstash_forward_is_the_only_way_for_other_headers(bench: Bench, way: Way) -> None:
    plain = {"User-Agent": "me", "Accept": "*/*", "Cookie": "a=b", "X-Own": "1", "Qtasks-X": "1"}
    found = await trace(bench, way, plain)

    assert (found.message["header"], found.delivered) == ({}, {})


@pytest.mark.parametrize("flag", ["true", "True"])
@in_each_kind_of_way
async def test_upstash_header_forward_lets_plain_headers_go_on(bench: Bench, way: Way, flag: str) -> None:
    plain = {
        "X-Own": "plain",
        "Stripe-Signature": "t=1",
        "Content-Type": "a/b",
        "Upstash-Forward-x-own": "mine",
    }
    found = await trace(bench, way, {"Upstash-Header-Forward": flag, **plain})

    shown = found.message["header"]
    assert shown["X-Own"] == ["mine"]  # the explicit one wins
    assert (shown["Stripe-Signature"], shown["Content-Type"]) == (["t=1"], ["a/b"])
    assert found.delivered["X-Own"] == "mine"


@pytest.mark.parametrize("verb", ["publish", "enqueue/mail"])
async def test_upstash_header_forward_works_by_query_and_by_default_of_a_group(
    bench: Bench, verb: str
) -> None:
    await bench.group(GROUP, [HOOK])
    plain = {"X-Own": "1"}
    by_query = await bench.ask("POST", f"/v2/{verb}/{HOOK}?upstash-header-forward=true", headers=plain)
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", json={"headers": {"Upstash-Header-Forward": "true"}})
    [by_default] = await bench.ask("POST", f"/v2/{verb}/{GROUP}", headers=plain)

    for answer in (by_query, by_default):
        assert (await bench.message(answer["messageId"]))["header"]["X-Own"] == ["1"]


@pytest.mark.parametrize("value", ["false", "False"])
async def test_upstash_header_forward_may_be_turned_off_for_a_group_that_asks_for_it(
    bench: Bench, value: str
) -> None:
    await bench.group(GROUP, [HOOK])
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", json={"headers": {"Upstash-Header-Forward": "true"}})

    headers = {"X-Own": "1", "Upstash-Header-Forward": value}
    [answer] = await bench.ask("POST", f"/v2/publish/{GROUP}", headers=headers)

    assert (await bench.message(answer["messageId"]))["header"] == {}


async def test_upstash_header_forward_leaves_back_what_concerns_this_request_alone(bench: Bench) -> None:
    left = {
        "Connection": "keep-alive",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Trailer": "X",
        "Upgrade": "h2c",
        "Proxy-Authorization": "Basic x",
        "Expect": "100-continue",
        "Upstash-Retries": "1",
        "Upstash-Telemetry-Sdk": "x",
        "Upstash-Forward-X": "1",
    }
    found = await trace(bench, Way.HEADER, {"Upstash-Header-Forward": "true", **left})

    shown = {name.lower() for name in found.message["header"]}
    never = {each.lower() for each in left} | {"host", "content-length", "transfer-encoding", "authorization"}
    assert shown & never == set()
    assert "x" in shown


@pytest.mark.parametrize("way", [Way.HEADER, Way.ENQUEUE, Way.SCHEDULE, Way.BATCH, Way.DEFAULT])
async def test_upstash_header_forward_never_lets_the_token_go_on(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Header-Forward": "true"})

    assert "Authorization" not in found.message["header"]
    assert not any(TOKEN in value for value in found.delivered.values())


async def test_upstash_header_forward_lets_a_sender_s_own_authorization_go_on(make_bench: MakeBench) -> None:
    bench = await make_bench()
    bench.http.headers["Authorization"] = "Basic dTpw"
    path = f"/v2/publish/{HOOK}?qstash_token={TOKEN}&upstash-header-forward=true"
    await bench.ask("POST", path)

    [delivered] = await bench.run()
    assert dict(delivered.headers)["Authorization"] == "Basic dTpw"


# --- Method and Timeout (3.4) ---------------------------------------------------------------------


@in_every_way
async def test_upstash_method_is_that_of_the_delivery(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Method": "put"})

    assert (found.message["method"], found.logged("method")) == ("PUT", ["PUT"])
    assert [each.method for each in found.attempts] == ["PUT"]
    assert found.is_scheduled_with(method="PUT")


async def test_upstash_method_may_be_any_of_five_and_all_send_the_body(bench: Bench) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        found = await trace(bench, Way.HEADER, {"Upstash-Method": method}, body=b"the body")

        assert [(each.method, each.body) for each in found.attempts] == [(method, b"the body")]


@in_every_way
async def test_upstash_timeout_is_logged_in_milliseconds_and_by_schedules_in_seconds(
    bench: Bench, way: Way
) -> None:
    found = await trace(bench, way, {"Upstash-Timeout": "1m30s"})

    assert found.logged("timeout") == [90_000]
    assert [each.timeout_ms for each in found.attempts] == [90_000]
    assert found.is_scheduled_with(timeout=90)


async def test_upstash_timeout_may_have_a_fraction_and_is_cut_to_the_longest(bench: Bench) -> None:
    texts = {"90": 90_000, "1.5s": 1500, "0.25s": 250, "1h": 3_600_000, "1D": 7_200_000}
    for text, ms in texts.items():
        found = await trace(bench, Way.HEADER, {"Upstash-Timeout": text})

        assert found.logged("timeout") == [ms], text


# --- Retries and Retry-Delay (3.3) ----------------------------------------------------------------


@in_every_way
async def test_upstash_retries_is_shown_by_message_log_and_schedule(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Retries": "7"})

    assert (found.message["maxRetries"], found.logged("maxRetries")) == (7, [7])
    assert found.is_scheduled_with(retries=7)


@in_each_kind_of_way
async def test_upstash_retries_of_none_means_one_attempt(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Retries": "0"}, replies=[BROKEN])

    assert found.message["maxRetries"] == 0
    assert [each["state"] for each in found.log] == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert found.is_scheduled_with(retries=0)


@pytest.mark.parametrize("retries", [0, 1, 2])
async def test_upstash_retries_counts_the_attempts_after_the_first(bench: Bench, retries: int) -> None:
    bench.rig.deliverer.will(*[BROKEN] * 5)
    await bench.publish(headers={"Upstash-Retries": str(retries), "Upstash-Retry-Delay": "0"})
    await bench.run()

    assert len(bench.rig.deliverer.attempts) == retries + 1
    assert len(await bench.letters()) == 1


@in_every_way
async def test_upstash_retry_delay_is_shown_word_for_word_and_replaces_the_ladder(
    bench: Bench, way: Way
) -> None:
    expression = "1000 * (1 + retried)"
    found = await trace(bench, way, {"Upstash-Retry-Delay": expression}, replies=[BROKEN])

    assert found.message["retryDelayExpression"] == expression
    assert found.logged("retryDelayExpression") == [expression]
    assert found.logged("retryDelayExpr") == [expression]
    assert [_wait_ms(each) for each in found.log if each["state"] == "RETRY"] == [1000]
    assert found.is_scheduled_with(retryDelayExpression=expression)


def _wait_ms(entry: Mapping[str, Any]) -> int:
    """Read how long an entry says the next delivery will wait."""
    return int(entry["nextDeliveryTime"] - entry["time"])


@pytest.mark.parametrize(
    ("expression", "waits_ms"),
    [
        ("1000", [1000, 1000, 1000]),
        ("1000 * (1 + retried)", [1000, 2000, 3000]),
        ("pow(2, retried) * 1000", [1000, 2000, 4000]),
        ("pow(retried, 2) * 1000", [0, 1000, 4000]),
        ("max(1000, pow(2, retried) * 100)", [1000, 1000, 1000]),
        ("min(1500, 1000 * (1 + retried), 9e9)", [1000, 1500, 1500]),
        ("exp(retried) * 1000", [1000, 2718, 7389]),
        ("sqrt(retried) * 1000 + abs(-5)", [5, 1005, 1419]),
        ("floor(1.9) + ceil(1.1) + round(2.4)", [5, 5, 5]),
        ("10 % 4 * 100 - -retried / 2", [200, 200, 201]),
        ("+retried * 1.5E3", [0, 1500, 3000]),
        ("-1000", [0, 0, 0]),
        ("sqrt(0 - 1)", [0, 0, 0]),
        ("1 / 0", [DAY_MS, DAY_MS, DAY_MS]),
        ("pow(10, 300)", [DAY_MS, DAY_MS, DAY_MS]),
    ],
)
async def test_upstash_retry_delay_is_reckoned_in_milliseconds_from_the_retries_done(
    bench: Bench, expression: str, waits_ms: list[int]
) -> None:
    bench.rig.deliverer.will(*[BROKEN] * 4)
    message_id = await bench.publish(headers={"Upstash-Retry-Delay": expression})
    for wait_ms in waits_ms:
        await bench.rig.turn()
        if wait_ms:
            bench.rig.clock.advance(wait_ms - 1)
            assert await bench.rig.turn() == 0
            bench.rig.clock.advance(1)

    await bench.run()

    log = await bench.entries(message_id)
    assert [_wait_ms(each) for each in log if each["state"] == "RETRY"] == waits_ms
    assert log[-1]["state"] == "FAILED"


async def test_upstash_retry_delay_gives_way_to_a_hint_of_the_receiver(bench: Bench) -> None:
    bench.rig.deliverer.will(Reply(429, (("Retry-After", "7"),), b"", "unexpected status 429"))
    message_id = await bench.publish(headers={"Upstash-Retry-Delay": "1000"})
    await bench.run()

    assert [_wait_ms(each) for each in await bench.entries(message_id) if each["state"] == "RETRY"] == [7000]


# --- Delay and Not-Before (3.1, 3.2) --------------------------------------------------------------


@without_a_queue
async def test_upstash_delay_holds_the_first_delivery_back(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Delay": "1m30s"})

    assert found.attempts == []
    assert found.message["notBefore"] == found.message["createdAt"] + 90_000
    assert found.is_scheduled_with(delay=90)
    bench.rig.clock.advance(89_999)
    assert await bench.run() == []
    bench.rig.clock.advance(1)
    assert [each.id for each in await bench.run()] == [found.message_id]


async def test_upstash_delay_of_a_message_stands_in_the_log_where_it_was_created(bench: Bench) -> None:
    found = await trace(bench, Way.HEADER, {"Upstash-Delay": "10d"})

    assert [each["nextDeliveryTime"] for each in found.log] == [found.message["notBefore"]]


async def test_upstash_delay_is_the_sum_of_its_parts(bench: Bench) -> None:
    texts = {
        "0s": 0,
        "90s": 90,
        "1d10h30m": 124_200,
        "1d1h30m": 91_800,
        "1h30m3s": 5403,
        "10d": 864_000,
        "60": 60,
        "3s1h": 3603,
        "1m1m": 120,
        "1H 30M": 5400,
    }
    for text, seconds in texts.items():
        message = await bench.message(await bench.publish(headers={"Upstash-Delay": text}))

        assert message["notBefore"] - message["createdAt"] == 1000 * seconds, text


@pytest.mark.parametrize("way", PUBLISHED)
async def test_upstash_not_before_is_in_seconds_and_shown_in_milliseconds(bench: Bench, way: Way) -> None:
    at = bench.rig.clock.now() // 1000 + 90
    found = await trace(bench, way, {"Upstash-Not-Before": str(at)})

    assert (found.message["notBefore"], found.attempts) == (1000 * at, [])
    bench.rig.clock.advance(1000 * at - bench.rig.clock.now() - 1)
    assert await bench.run() == []
    bench.rig.clock.advance(1)
    assert [each.id for each in await bench.run()] == [found.message_id]


@pytest.mark.parametrize("way", PUBLISHED)
async def test_upstash_not_before_goes_before_a_delay(bench: Bench, way: Way) -> None:
    at = bench.rig.clock.now() // 1000 + 90
    found = await trace(bench, way, {"Upstash-Not-Before": str(at), "Upstash-Delay": "1h"})

    assert found.message["notBefore"] == 1000 * at


@pytest.mark.parametrize("way", PUBLISHED)
async def test_upstash_not_before_in_the_past_means_now(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Not-Before": "1600000000"})

    assert len(found.attempts) == 1


@by_a_schedule
async def test_upstash_not_before_is_refused_of_a_schedule(bench: Bench, way: Way) -> None:
    at = bench.rig.clock.now() // 1000 + 3600
    answer = await attempt(bench, way, {"Upstash-Not-Before": str(at)})

    assert (answer.status_code, "Upstash-Not-Before" in answer.json()["error"]) == (400, True)
    assert await is_untouched(bench)


# --- Label (3.7) ----------------------------------------------------------------------------------


@in_every_way
async def test_upstash_label_is_on_the_message_and_on_every_entry_of_its_log(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Label": "import, night,,import ,two words"}, replies=[BROKEN])

    labels = ["import", "night", "two words"]
    assert (found.message["label"], found.message["labels"]) == ("import", labels)
    assert [each["state"] for each in found.log] == ["CREATED", "ACTIVE", "ERROR", "RETRY"]
    assert (found.logged("label"), found.logged("labels")) == (["import"], [labels])
    assert found.is_scheduled_with(label="import", labels=labels)


async def test_upstash_label_is_what_filters_find_any_of(bench: Bench) -> None:
    first = await bench.die({"Upstash-Label": "a,b"})
    second = await bench.die({"Upstash-Label": "c"})
    await bench.die({"Upstash-Label": "ab"})

    for query, wanted in [
        ("label=b", {first}),
        ("label=b&label=c", {first, second}),
        ("label=a,c", {first, second}),
    ]:
        page = await bench.get(f"/v2/events?{query}")
        assert {each["messageId"] for each in page["events"]} == wanted
        assert {each["messageId"] for each in await bench.letters(f"?{query}")} == wanted


async def test_upstash_label_says_which_messages_to_cancel(bench: Bench) -> None:
    late = {"Upstash-Delay": "1h"}
    message_id = await bench.publish(headers=late | {"Upstash-Label": "a,b"})
    await bench.publish(headers=late | {"Upstash-Label": "c"})

    assert await bench.ask("DELETE", "/v2/messages?label=b") == {"cancelled": 1}
    assert await bench.states(message_id) == "CREATED CANCEL_REQUESTED CANCELED"
