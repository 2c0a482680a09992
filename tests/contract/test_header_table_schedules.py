"""The headers that only schedules have, in each of their ways (contract 1.7, 2.7, 3.0)."""

from __future__ import annotations

import re
from itertools import product

from tests.support.broker import HOOK
from tests.support.contract import CALLBACK, Bench
from tests.support.ways import (
    ENQUEUED,
    PUBLISHED,
    Way,
    attempt,
    by_a_schedule,
    is_untouched,
    trace,
)


@by_a_schedule
async def test_upstash_cron_makes_a_schedule_and_is_shown_as_given_but_for_blanks(
    bench: Bench, way: Way
) -> None:
    for sent in (
        "* * * * *",
        "  */5 0-6,22 * JAN-MAR MON  ",
        "CRON_TZ=Europe/Berlin 0 4 * * *",
        "@daily",
    ):
        answer = await attempt(bench, way, {"Upstash-Cron": sent})

        assert (answer.status_code, list(answer.json())) == (200, ["scheduleId"])
        schedule = await bench.get(f"/v2/schedules/{answer.json()['scheduleId']}")
        assert (schedule["cron"], schedule["destination"], schedule["isPaused"]) == (
            sent.strip(),
            HOOK,
            False,
        )
    assert (await bench.get("/v2/logs")) == {"logs": []}


@by_a_schedule
async def test_upstash_cron_fires_at_its_minutes_only(bench: Bench, way: Way) -> None:
    await attempt(bench, way, {"Upstash-Cron": "*/2 * * * *"})

    assert [await bench.tick() for _ in range(4)] == [1, 0, 1, 0]
    assert len(await bench.run()) == 2


async def test_upstash_cron_is_required_of_a_schedule(bench: Bench) -> None:
    error = await bench.refusal("POST", f"/v2/schedules/{HOOK}", 400)

    assert "Upstash-Cron" in error


async def test_upstash_cron_is_refused_of_a_message_for_a_queue_or_in_a_batch(bench: Bench) -> None:
    for way in (*ENQUEUED, Way.BATCH):
        answer = await attempt(bench, way, {"Upstash-Cron": "* * * * *"})

        assert (answer.status_code, "Upstash-Cron" in answer.json()["error"]) == (400, True), way
    assert await is_untouched(bench)


async def test_upstash_schedule_id_and_upstash_queue_name_are_refused_without_a_cron(bench: Bench) -> None:
    for name, way in product(["Upstash-Schedule-Id", "Upstash-Queue-Name"], (*PUBLISHED, *ENQUEUED)):
        answer = await attempt(bench, way, {name: "nightly"})

        assert (answer.status_code, name in answer.json()["error"]) == (400, True), way
    assert await is_untouched(bench)


@by_a_schedule
async def test_upstash_schedule_id_names_the_schedule(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Schedule-Id": "nightly.import_1-a"})

    assert found.is_scheduled_with(scheduleId="nightly.import_1-a")
    assert (found.message["scheduleId"], found.logged("scheduleId")) == (
        "nightly.import_1-a",
        ["nightly.import_1-a"],
    )


@by_a_schedule
async def test_upstash_schedule_id_is_made_if_none_is_given(bench: Bench, way: Way) -> None:
    answer = await attempt(bench, way, {})

    assert re.fullmatch(r"scd_[A-Za-z0-9]+", answer.json()["scheduleId"])


@by_a_schedule
async def test_upstash_schedule_id_that_is_known_overwrites_all_of_the_schedule(
    bench: Bench, way: Way
) -> None:
    name = {"Upstash-Schedule-Id": "nightly"}
    settings = name | {
        "Upstash-Retries": "7",
        "Upstash-Delay": "1h",
        "Upstash-Forward-X": "1",
        "Upstash-Label": "a",
        "Upstash-Callback": CALLBACK,
        "Upstash-Timeout": "5s",
    }
    await attempt(bench, Way.SCHEDULE, settings, body=b"old")
    await bench.ask("POST", "/v2/schedules/nightly/pause")
    made_at = (await bench.get("/v2/schedules/nightly"))["createdAt"]
    bench.rig.clock.advance(1)

    answer = await attempt(bench, way, name | {"Upstash-Cron": "@daily"}, destination=f"{HOOK}2", body=b"")

    assert answer.json() == {"scheduleId": "nightly"}
    [schedule] = await bench.get("/v2/schedules")
    assert (schedule["cron"], schedule["destination"], schedule["retries"]) == ("@daily", f"{HOOK}2", 3)
    assert (schedule["createdAt"], schedule["isPaused"], schedule["header"]) == (made_at, False, {})
    assert {"body", "delay", "label", "labels", "callback"} & set(schedule) == set()


@by_a_schedule
async def test_upstash_queue_name_puts_what_a_schedule_makes_into_a_queue(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Queue-Name": "reports"})

    assert found.is_scheduled_with(queueName="reports")
    assert (found.message["queueName"], found.logged("queueName")) == ("reports", ["reports"])
    assert [each.queue for each in found.attempts] == ["reports"]
    queue = await bench.get("/v2/queues/reports")
    assert (queue["parallelism"], queue["paused"]) == (1, False)


@by_a_schedule
async def test_upstash_queue_name_does_not_change_a_queue_that_exists(bench: Bench, way: Way) -> None:
    await bench.ask("POST", "/v2/queues", json={"queueName": "reports", "parallelism": 5, "paused": True})

    found = await trace(bench, way, {"Upstash-Queue-Name": "reports"})

    queue = await bench.get("/v2/queues/reports")
    assert (queue["parallelism"], queue["paused"], found.attempts) == (5, True, [])
