"""What messages share: the limits of a flow-control key, and ids that tell repeats (contract 3.8, 3.9).

Rows of the header table, each in each of its ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qtasks.broker.store.records import Reply
from tests.support.broker import HOOK, Held
from tests.support.contract import BROKEN, CALLBACK, Bench
from tests.support.ways import (
    GROUP,
    Way,
    attempt,
    by_a_schedule,
    fired,
    not_by_a_schedule,
    trace,
    without_a_queue,
)

MINUTE_MS = 60_000


# --- flow control (3.8) ---------------------------------------------------------------------------


def flow(key: str = "tenant-42", value: str = "rate=10") -> dict[str, str]:
    """Give the two headers of flow control."""
    return {"Upstash-Flow-Control-Key": key, "Upstash-Flow-Control-Value": value}


@without_a_queue
async def test_upstash_flow_control_key_and_limits_are_shown_by_message_log_and_schedule(
    bench: Bench, way: Way
) -> None:
    found = await trace(bench, way, flow(value="parallelism=2, rate=10, period=1h30m3s"))

    shown = {"flowControlKey": "tenant-42", "parallelism": 2, "rate": 10, "period": 5403}
    assert {name: found.message.get(name) for name in shown} == shown
    assert {name: found.logged(name) for name in shown} == {name: [value] for name, value in shown.items()}
    assert found.is_scheduled_with(**shown)


@without_a_queue
async def test_upstash_flow_control_key_is_listed_as_soon_as_a_message_is_accepted(
    bench: Bench, way: Way
) -> None:
    await trace(bench, way, flow() | {"Upstash-Delay": "1h"})

    [listed] = await bench.get("/v2/flowControl")
    assert (listed["flowControlKey"], listed["rateMax"]) == ("tenant-42", 10)


@pytest.mark.parametrize("key", ["me@example.com", "V1StGXR8_Z5jdHi6B-myT", "user 7", "a:b", "jürgen"])
async def test_upstash_flow_control_key_may_be_any_text(bench: Bench, key: str) -> None:
    found = await trace(bench, Way.QUERY, flow(key))

    assert found.message["flowControlKey"] == key


async def test_upstash_flow_control_key_is_what_shares_its_limits_whatever_the_url(bench: Bench) -> None:
    await bench.publish("https://a.example", headers=flow(value="rate=1, period=1m"))
    await bench.publish("https://b.example", headers=flow(value="rate=1, period=1m"))
    await bench.publish("https://c.example", headers=flow("another", "rate=1, period=1m"))

    assert {each.url for each in await bench.run()} == {"https://a.example", "https://c.example"}
    bench.rig.clock.advance(MINUTE_MS)
    assert {each.url for each in await bench.run()} == {"https://b.example"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("rate=10", {"rate": 10, "period": 1}),
        ("parallelism=2", {"parallelism": 2, "period": 1}),
        ("rate=10,period=7", {"rate": 10, "period": 7}),
        ("period=7d,rate=10", {"rate": 10, "period": 604_800}),
        (
            " parallelism = 1 , rate=10 , period = 1m ",
            {"parallelism": 1, "rate": 10, "period": 60},
        ),
    ],
)
async def test_upstash_flow_control_value_is_read_in_any_order_with_a_period_of_one_second(
    bench: Bench, value: str, shown: dict[str, int]
) -> None:
    found = await trace(bench, Way.HEADER, flow(value=value))

    assert {
        name: found.message[name] for name in ("rate", "parallelism", "period") if name in found.message
    } == shown


async def test_upstash_flow_control_value_limits_how_many_are_delivered_at_once(bench: Bench) -> None:
    held = Held()
    bench.rig.deliverer.will(held)
    for _ in range(2):
        await bench.publish(headers=flow(value="parallelism=1"))

    await bench.rig.node.dispatcher.step()
    await bench.rig.deliverer.reached(1)
    assert not (await bench.rig.node.dispatcher.step()).claims
    assert (await bench.flow("tenant-42"))["parallelismCount"] == 1
    held.release()
    await bench.rig.node.dispatcher.idle()
    await bench.run()

    assert len(bench.rig.deliverer.attempts) == 2


async def test_upstash_flow_control_value_is_that_of_the_newest_message(bench: Bench) -> None:
    await bench.publish(headers=flow(value="rate=1, period=1m"))
    await bench.publish(headers=flow(value="rate=5, period=2m, parallelism=3"))

    shown = await bench.flow("tenant-42")
    assert (shown["rateMax"], shown["ratePeriod"], shown["parallelismMax"]) == (5, 120, 3)


# --- deduplication (3.9) --------------------------------------------------------------------------


async def repeated(
    bench: Bench, way: Way, settings: Mapping[str, str], **again: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Send the same twice; give the status of the second answer, and what both say, the first one first."""
    first = (await attempt(bench, way, settings)).json()
    second = await attempt(bench, way, settings, **again)
    return second.status_code, [_accepted(first), _accepted(second.json())]


def _accepted(answer: Any) -> dict[str, Any]:
    while isinstance(answer, list):
        [answer] = answer
    return dict(answer)


def _repeat_status(way: Way) -> int:
    """A batch is answered with 200 whatever it holds."""
    return 200 if way in (Way.BATCH, Way.BATCH_QUEUE) else 202


@not_by_a_schedule
async def test_upstash_deduplication_id_makes_a_repeat_of_whatever_has_it_too(bench: Bench, way: Way) -> None:
    status, [first, second] = await repeated(
        bench, way, {"Upstash-Deduplication-Id": "order-7"}, body=b"other"
    )

    assert status == _repeat_status(way)
    assert "deduplicated" not in first
    assert (second["messageId"], second["deduplicated"]) == (first["messageId"], True)
    assert len(await bench.run()) == 1
    assert await bench.states(first["messageId"]) == "CREATED ACTIVE DELIVERED"


async def test_upstash_deduplication_id_counts_for_the_whole_account(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7"}
    first = await bench.publish(headers=headers)

    for path in ("/v2/publish/https://b.example", f"/v2/enqueue/mail/{HOOK}"):
        again = await bench.ask("POST", path, status=202, headers=headers)
        assert again == {"messageId": first, "deduplicated": True}


@pytest.mark.parametrize("reply", [Reply(200), BROKEN])
async def test_upstash_deduplication_id_is_spent_for_ten_minutes_whatever_becomes_of_the_message(
    bench: Bench, reply: Reply
) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7", "Upstash-Retries": "0"}
    bench.rig.deliverer.will(reply)
    await bench.publish(headers=headers)
    await bench.run()

    bench.rig.clock.advance(10 * MINUTE_MS - 1)
    await bench.ask("POST", f"/v2/publish/{HOOK}", status=202, headers=headers)
    bench.rig.clock.advance(1)
    await bench.ask("POST", f"/v2/publish/{HOOK}", status=200, headers=headers)


async def test_upstash_deduplication_id_stays_spent_when_the_message_is_called_off(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7", "Upstash-Delay": "1h"}
    message_id = await bench.publish(headers=headers)
    await bench.ask("DELETE", f"/v2/messages/{message_id}")

    again = await bench.ask("POST", f"/v2/publish/{HOOK}", status=202, headers=headers)

    assert again == {"messageId": message_id, "deduplicated": True}


async def test_upstash_deduplication_id_is_not_spent_by_what_is_refused(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7"}
    for status, wrong in [(400, {"Upstash-Retries": "x"}), (412, {"Upstash-Retries": "5000"})]:
        await bench.ask("POST", f"/v2/publish/{HOOK}", status=status, headers=headers | wrong)

    await bench.ask("POST", f"/v2/publish/{HOOK}", status=200, headers=headers)


async def test_upstash_deduplication_id_is_judged_for_each_endpoint_of_a_group(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7"}
    await bench.group(GROUP, ["https://a.example"])
    [first] = await bench.ask("POST", f"/v2/publish/{GROUP}", headers=headers)
    await bench.group(GROUP, ["https://b.example"])

    old, new = await bench.ask("POST", f"/v2/publish/{GROUP}", status=200, headers=headers)
    again = await bench.ask("POST", f"/v2/publish/{GROUP}", status=202, headers=headers)

    assert old == {"messageId": first["messageId"], "url": "https://a.example", "deduplicated": True}
    assert (new["url"], new.get("deduplicated", False)) == ("https://b.example", False)
    assert [each["deduplicated"] for each in again] == [True, True]


@by_a_schedule
async def test_upstash_deduplication_id_does_not_suppress_what_a_schedule_makes(
    bench: Bench, way: Way
) -> None:
    answer = await attempt(bench, way, {"Upstash-Deduplication-Id": "order-7"})

    assert answer.status_code == 200
    assert len({await fired(bench, answer.json()["scheduleId"]) for _ in range(3)}) == 3


@not_by_a_schedule
async def test_upstash_content_based_deduplication_makes_a_repeat_of_equal_content(
    bench: Bench, way: Way
) -> None:
    name, forwarded = "Upstash-Content-Based-Deduplication", {"Upstash-Forward-X": "1"}
    first = _accepted((await attempt(bench, way, {name: "true", **forwarded})).json())
    # The Python client spells it so.
    second = await attempt(bench, way, {name: "True", **forwarded})

    assert second.status_code == _repeat_status(way)
    assert _accepted(second.json())["messageId"] == first["messageId"]
    assert len(await bench.run()) == 1


@not_by_a_schedule
async def test_upstash_content_based_deduplication_may_be_false(bench: Bench, way: Way) -> None:
    for flag in ("false", "False"):
        answer = await attempt(bench, way, {"Upstash-Content-Based-Deduplication": flag})

        assert (answer.status_code, "deduplicated" in _accepted(answer.json())) == (200, False)


BY_CONTENT = {
    "Upstash-Content-Based-Deduplication": "true",
    "Upstash-Forward-X": "1",
    "Content-Type": "a/b",
}


@pytest.mark.parametrize(
    ("destination", "headers", "body", "status"),
    [
        (HOOK, {"Upstash-Method": "PUT"}, b"same", 202),
        (HOOK, {"Upstash-Delay": "1h"}, b"same", 202),
        (HOOK, {"Upstash-Retries": "7"}, b"same", 202),
        (HOOK, {"Upstash-Callback": CALLBACK, "Upstash-Callback-Forward-X": "2"}, b"same", 202),
        (HOOK, {"Upstash-Label": "x"}, b"same", 202),
        (HOOK, {}, b"other", 200),
        (f"{HOOK}2", {}, b"same", 200),
        (HOOK, {"Upstash-Forward-X": "2"}, b"same", 200),
        (HOOK, {"Upstash-Forward-Y": "1"}, b"same", 200),
        (HOOK, {"Content-Type": "c/d"}, b"same", 200),
        (HOOK, {"Upstash-Deduplication-Id": "an explicit id wins"}, b"same", 200),
    ],
)
async def test_upstash_content_based_deduplication_looks_at_destination_body_and_what_is_forwarded(
    bench: Bench, destination: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    await bench.publish(body=b"same", headers=BY_CONTENT)

    await bench.ask(
        "POST", f"/v2/publish/{destination}", status=status, content=body, headers=BY_CONTENT | headers
    )


async def test_upstash_content_based_deduplication_is_judged_for_each_endpoint_of_a_group(
    bench: Bench,
) -> None:
    await bench.group(GROUP, ["https://a.example"])
    await bench.ask("POST", f"/v2/publish/{GROUP}", headers=BY_CONTENT)
    await bench.group(GROUP, ["https://b.example"])

    answer = await bench.ask("POST", f"/v2/publish/{GROUP}", headers=BY_CONTENT)

    assert [each.get("deduplicated", False) for each in answer] == [True, False]


@by_a_schedule
async def test_upstash_content_based_deduplication_does_not_suppress_what_a_schedule_makes(
    bench: Bench, way: Way
) -> None:
    answer = await attempt(bench, way, {"Upstash-Content-Based-Deduplication": "true"})

    assert answer.status_code == 200
    assert len({await fired(bench, answer.json()["scheduleId"]) for _ in range(3)}) == 3
