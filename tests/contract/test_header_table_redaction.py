"""What a sender wants hidden, in every view and in each way to say so (contract 3.10)."""

from __future__ import annotations

import pytest

from tests.support.contract import BROKEN, CALLBACK, Bench, told, unpacked
from tests.support.ways import (
    Way,
    attempt,
    by_a_schedule,
    in_every_way,
    redacted,
    trace,
)

SECRET = "a secret of the sender"
HIDDEN = {"Upstash-Forward-Authorization": SECRET, "Upstash-Forward-X": "shown"}


@in_every_way
async def test_upstash_redact_fields_hides_body_and_header_from_every_view_but_the_delivery(
    bench: Bench, way: Way
) -> None:
    settings = {"Upstash-Redact-Fields": "body, header[authorization]", "Upstash-Retries": "0", **HIDDEN}
    found = await trace(bench, way, settings, body=SECRET.encode(), replies=[BROKEN])

    shown = {"Authorization": [redacted(SECRET)], "X": ["shown"]}
    [letter] = await bench.letters()
    for view in (found.message, letter, await bench.get(f"/v2/dlq/{letter['dlqId']}")):
        assert (view["body"], view["header"], "bodyBase64" in view) == (redacted(SECRET), shown, False)
    assert [unpacked(each) for each in found.logged("body")] == [redacted(SECRET).encode()]
    assert found.logged("header") == [shown]
    assert found.is_scheduled_with(body=redacted(SECRET), header=shown)
    assert found.attempts[0].body == SECRET.encode()
    assert found.delivered == {"Authorization": SECRET, "X": "shown"}


@pytest.mark.parametrize("everything", ["header", "headers", "Headers , body"])
async def test_upstash_redact_fields_may_hide_all_headers(bench: Bench, everything: str) -> None:
    found = await trace(
        bench, Way.HEADER, {"Upstash-Redact-Fields": everything, "Content-Type": "a/b", **HIDDEN}
    )

    assert found.message["header"] == {
        "Authorization": [redacted(SECRET)],
        "X": [redacted("shown")],
        "Content-Type": [redacted("a/b")],
    }


@pytest.mark.parametrize("one", ["header[x]", "headers[X]", "HEADER[ x ]"])
async def test_upstash_redact_fields_may_hide_one_header_in_any_spelling(bench: Bench, one: str) -> None:
    found = await trace(bench, Way.HEADER, {"Upstash-Redact-Fields": one, **HIDDEN})

    assert found.message["header"] == {"Authorization": [SECRET], "X": [redacted("shown")]}
    assert found.message["body"] == "hello"


async def test_upstash_redact_fields_shows_the_hash_that_the_contract_gives(bench: Bench) -> None:
    found = await trace(bench, Way.HEADER, {"Upstash-Redact-Fields": "body"}, body=b"hello")

    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert found.message["body"] == f"REDACTED:{digest}"


async def test_upstash_redact_fields_leaves_retries_and_replays_their_originals(bench: Bench) -> None:
    settings = {"Upstash-Redact-Fields": "body,header", "Upstash-Retries": "1", "Upstash-Retry-Delay": "0"}
    bench.rig.deliverer.will(BROKEN, BROKEN)
    await bench.publish(body=SECRET, headers=settings | HIDDEN)
    await bench.run()
    [letter] = await bench.letters()
    answer = await bench.ask("POST", f"/v2/dlq/retry/{letter['dlqId']}", status=201)
    await bench.run()

    assert [each.body for each in bench.rig.deliverer.attempts] == [SECRET.encode()] * 3
    assert [dict(each.headers)["Authorization"] for each in bench.rig.deliverer.attempts] == [SECRET] * 3
    assert (await bench.message(answer["messageId"]))["body"] == redacted(SECRET)


async def test_upstash_redact_fields_leaves_callbacks_the_originals(bench: Bench) -> None:
    settings = {"Upstash-Redact-Fields": "body,header", "Upstash-Callback": CALLBACK}
    await bench.publish(body=SECRET, headers=settings | HIDDEN)
    await bench.run()

    [callback] = bench.seen(CALLBACK)
    assert unpacked(told(callback)["sourceBody"]) == SECRET.encode()
    assert told(callback)["sourceHeader"]["Authorization"] == [SECRET]


@by_a_schedule
async def test_upstash_redact_fields_of_a_schedule_holds_in_the_list_too(bench: Bench, way: Way) -> None:
    await attempt(bench, way, {"Upstash-Redact-Fields": "body"}, body=SECRET.encode())

    assert [each["body"] for each in await bench.get("/v2/schedules")] == [redacted(SECRET)]
