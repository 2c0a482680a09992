"""The header table (contract 3.0): rules for all of its rows, and that a test is named after each.

The rows themselves are in the files whose names begin like this one's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.broker import HOOK
from tests.support.contract import BROKEN, CALLBACK, FAILURE_CALLBACK, Bench
from tests.support.homes import TOKEN
from tests.support.ways import (
    GROUP,
    Way,
    in_each_kind_of_way,
    in_every_way,
    in_query,
    redacted,
    trace,
)

# Both columns of the contract's table, families written out as far as they are named there.
TABLE = (
    "Content-Type",
    "Upstash-Forward-*",
    "Upstash-Method",
    "Upstash-Timeout",
    "Upstash-Retries",
    "Upstash-Retry-Delay",
    "Upstash-Delay",
    "Upstash-Not-Before",
    "Upstash-Label",
    "Upstash-Flow-Control-Key",
    "Upstash-Flow-Control-Value",
    "Upstash-Deduplication-Id",
    "Upstash-Content-Based-Deduplication",
    "Upstash-Callback",
    "Upstash-Callback-Method",
    "Upstash-Callback-Timeout",
    "Upstash-Callback-Retries",
    "Upstash-Callback-Retry-Delay",
    "Upstash-Callback-Delay",
    "Upstash-Callback-Forward-*",
    "Upstash-Failure-Callback",
    "Upstash-Failure-Callback-Method",
    "Upstash-Failure-Callback-Timeout",
    "Upstash-Failure-Callback-Retries",
    "Upstash-Failure-Callback-Retry-Delay",
    "Upstash-Failure-Callback-Delay",
    "Upstash-Failure-Callback-Forward-*",
    "Upstash-Redact-Fields",
    "Upstash-Cron",
    "Upstash-Schedule-Id",
    "Upstash-Queue-Name",
    "Upstash-Header-Forward",
    "Upstash-Telemetry-Sdk",
    "Upstash-Telemetry-Platform",
    "Upstash-Telemetry-Runtime",
)


def test_every_row_of_the_table_is_named_by_a_test() -> None:
    sources = sorted(Path(__file__).parent.glob("test_header_table*.py"))
    text = "\n".join(each.read_text(encoding="utf-8") for each in sources)
    tests = re.findall(r"def test_(\w+)\(", text)

    # The longest name wins: a test of Upstash-Callback-Retries is none of Upstash-Callback.
    starts = sorted((f"{row.lower().replace('-', '_').rstrip('_*')}_" for row in TABLE), key=len)
    cited = {next((each for each in reversed(starts) if test.startswith(each)), "") for test in tests}

    assert sorted(set(starts) - cited) == []


# --- rules for all rows (3.0) ---------------------------------------------------------------------


@pytest.mark.parametrize("way", [Way.HEADER, Way.DEFAULT, Way.BATCH, Way.ENQUEUE, Way.SCHEDULE])
async def test_names_match_in_any_case(bench: Bench, way: Way) -> None:
    for retries, name in enumerate(["upstash-retries", "UPSTASH-RETRIES", "uPsTaSh-rEtRiEs"], 4):
        assert (await trace(bench, way, {name: str(retries)})).message["maxRetries"] == retries


@pytest.mark.parametrize("verb", ["publish", "enqueue/mail"])
async def test_names_in_the_query_match_in_any_case(bench: Bench, verb: str) -> None:
    for name in ("upstash-retries", "UPSTASH-RETRIES", "Upstash-Retries"):
        answer = await bench.ask("POST", f"/v2/{verb}/{HOOK}?{name}=7")

        assert (await bench.message(answer["messageId"]))["maxRetries"] == 7


URLS = ("https://a", "https://b", "https://c")

# Values that differ for the header, the query and the group, and how the message shows each.
PRECEDENCE: list[tuple[str, tuple[str, str, str], str, tuple[Any, Any, Any]]] = [
    ("Upstash-Method", ("PUT", "PATCH", "DELETE"), "method", ("PUT", "PATCH", "DELETE")),
    ("Upstash-Timeout", ("1s", "2s", "3s"), "timeout", (1000, 2000, 3000)),
    ("Upstash-Retries", ("1", "2", "0"), "maxRetries", (1, 2, 0)),
    ("Upstash-Retry-Delay", ("1", "2", "3"), "retryDelayExpression", ("1", "2", "3")),
    ("Upstash-Label", ("a", "b", "c"), "labels", (["a"], ["b"], ["c"])),
    ("Upstash-Forward-X", ("1", "2", "3"), "header", ({"X": ["1"]}, {"X": ["2"]}, {"X": ["3"]})),
    ("Upstash-Callback", URLS, "callback", URLS),
    ("Upstash-Failure-Callback", URLS, "failureCallback", URLS),
]


@pytest.mark.parametrize(
    ("name", "values", "member", "shown"), PRECEDENCE, ids=[row[0] for row in PRECEDENCE]
)
async def test_a_header_goes_before_the_query_and_that_before_the_group_and_that_before_what_is_built_in(
    bench: Bench, name: str, values: Sequence[str], member: str, shown: Sequence[object]
) -> None:
    await bench.group(GROUP, [HOOK])
    in_header, in_the_query, by_default = values

    async def published(query: str = "", headers: Mapping[str, str] | None = None) -> object:
        answer = await bench.ask("POST", f"/v2/publish/{GROUP}{query}", headers=headers)
        return (await bench.message(answer[0]["messageId"])).get(member)

    built_in = await published()
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", json={"headers": {name: by_default}})
    found = [
        await published(f"?{in_query({name: in_the_query})}", {name: in_header}),
        await published(f"?{in_query({name: in_the_query})}"),
        await published(),
        await published(headers={name: in_header}),
    ]

    assert found == [*shown, shown[0]]
    assert built_in not in found


async def test_a_delay_in_the_header_goes_before_that_in_the_query_and_that_of_the_group(
    bench: Bench,
) -> None:
    await bench.group(GROUP, [HOOK])
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", json={"headers": {"Upstash-Delay": "3s"}})
    delays = []
    for query, headers in [
        ("?upstash-delay=2s", {"Upstash-Delay": "1s"}),
        ("?upstash-delay=2s", {}),
        ("", {}),
    ]:
        answer = await bench.ask("POST", f"/v2/publish/{GROUP}{query}", headers=headers)
        message = await bench.message(answer[0]["messageId"])
        delays.append(message["notBefore"] - message["createdAt"])

    assert delays == [1000, 2000, 3000]


async def test_flow_control_in_the_header_goes_before_that_in_the_query_and_that_of_the_group(
    bench: Bench,
) -> None:
    def flow(key: str, rate: int) -> dict[str, str]:
        return {"Upstash-Flow-Control-Key": key, "Upstash-Flow-Control-Value": f"rate={rate}"}

    await bench.group(GROUP, [HOOK])
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", json={"headers": flow("c", 3)})
    query = f"?{in_query(flow('b', 2))}"
    found = []
    for asked, headers in [(query, flow("a", 1)), (query, {}), ("", {})]:
        answer = await bench.ask("POST", f"/v2/publish/{GROUP}{asked}", headers=headers)
        message = await bench.message(answer[0]["messageId"])
        found.append((message["flowControlKey"], message["rate"]))

    assert found == [("a", 1), ("b", 2), ("c", 3)]


@pytest.mark.parametrize("way", [Way.ENQUEUE, Way.SCHEDULE])
async def test_a_header_goes_before_the_query_of_every_verb(bench: Bench, way: Way) -> None:
    found = await trace(
        bench, way, {"Upstash-Retries": "1"}, destination=f"{HOOK}?upstash-retries=2&upstash-method=PUT"
    )

    assert (found.message["maxRetries"], found.message["method"]) == (1, "PUT")


@pytest.mark.parametrize("way", [Way.DEFAULT, Way.ENQUEUE_DEFAULT])
async def test_defaults_of_a_group_hold_however_it_is_published_to(bench: Bench, way: Way) -> None:
    await trace(bench, way, {"Upstash-Retries": "7"})

    [in_batch] = await bench.batch({"destination": GROUP})
    assert (await bench.message(in_batch[0]["messageId"]))["maxRetries"] == 7


async def test_defaults_of_a_group_may_be_lists(bench: Bench) -> None:
    await bench.group(GROUP, [HOOK])
    defaults = {"Upstash-Header-Forward": ["true"], "Upstash-Retries": ["7"], "Upstash-Forward-X": ["a", "b"]}
    await bench.ask("PATCH", f"/v2/topics/{GROUP}", content=orjson.dumps({"headers": defaults}))

    answer = await bench.ask("POST", f"/v2/publish/{GROUP}", headers={"X-Own": "1"})

    message = await bench.message(answer[0]["messageId"])
    assert message["maxRetries"] == 7
    assert (message["header"]["X-Own"], message["header"]["X"]) == (["1"], ["a, b"])


@pytest.mark.parametrize("way", [Way.HEADER, Way.QUERY, Way.BATCH, Way.ENQUEUE, Way.SCHEDULE])
async def test_an_empty_value_counts_as_absent(bench: Bench, way: Way) -> None:
    empty = dict.fromkeys(
        [
            "Upstash-Retries",
            "Upstash-Timeout",
            "Upstash-Method",
            "Upstash-Retry-Delay",
            "Upstash-Delay",
            "Upstash-Label",
            "Upstash-Callback",
            "Upstash-Failure-Callback",
            "Upstash-Flow-Control-Key",
            "Upstash-Flow-Control-Value",
            "Upstash-Redact-Fields",
            "Upstash-Deduplication-Id",
            "Upstash-Content-Based-Deduplication",
        ],
        "",
    )

    found = await trace(bench, way, empty)

    assert (found.message["maxRetries"], found.message["method"]) == (3, "POST")
    absent = {"labels", "callback", "failureCallback", "flowControlKey", "retryDelayExpression"}
    assert absent & set(found.message) == set()
    assert len(found.attempts) == 1


async def test_an_empty_header_leaves_the_query_in_force(bench: Bench) -> None:
    answer = await bench.ask("POST", f"/v2/publish/{HOOK}?upstash-retries=7", headers={"Upstash-Retries": ""})

    assert (await bench.message(answer["messageId"]))["maxRetries"] == 7


@pytest.mark.parametrize("verb", ["publish", "enqueue/mail"])
async def test_settings_in_the_query_are_taken_out_of_the_destination(bench: Bench, verb: str) -> None:
    query = f"a=b&upstash-retries=7&qstash_token={TOKEN}&Upstash-Unknown=1&c&upstash-forward-x=1&d=%20"
    answer = await bench.ask("POST", f"/v2/{verb}/{HOOK}?{query}")

    assert (await bench.message(answer["messageId"]))["url"] == f"{HOOK}?a=b&c&d=%20"


@in_each_kind_of_way
async def test_an_unknown_upstash_header_is_ignored_and_never_forwarded(bench: Bench, way: Way) -> None:
    found = await trace(bench, way, {"Upstash-Unknown": "1", "Upstash-Header-Forward": "true"})

    assert "Upstash-Unknown" not in found.delivered
    assert "Upstash-Unknown" not in found.message["header"]


async def test_settings_of_a_batch_request_are_not_those_of_its_messages(bench: Bench) -> None:
    headers = {
        "Upstash-Retries": "7",
        "Upstash-Forward-X": "1",
        "Upstash-Delay": "1h",
        "Upstash-Callback": CALLBACK,
    }
    answer = await bench.ask("POST", "/v2/batch", json=[{"destination": HOOK}], headers=headers)

    message = await bench.message(answer[0]["messageId"])
    assert (message["maxRetries"], message["header"], message.get("callback")) == (3, {}, None)
    assert message["notBefore"] == message["createdAt"]


# --- telemetry ------------------------------------------------------------------------------------


async def _is_without_a_trace(bench: Bench, way: Way, name: str) -> bool:
    value = "upstash-qstash-js@v2.12.0"
    settings = {name: value, "Upstash-Header-Forward": "true", "Upstash-Retries": "0"}
    found = await trace(bench, way, settings, replies=[BROKEN])
    views = [found.message, found.log, found.schedule, found.attempts, await bench.letters()]
    assert value not in repr(views)
    return name not in repr(views)


@in_every_way
async def test_upstash_telemetry_sdk_is_neither_stored_nor_forwarded(bench: Bench, way: Way) -> None:
    assert await _is_without_a_trace(bench, way, "Upstash-Telemetry-Sdk")


@in_each_kind_of_way
async def test_upstash_telemetry_platform_is_neither_stored_nor_forwarded(bench: Bench, way: Way) -> None:
    assert await _is_without_a_trace(bench, way, "Upstash-Telemetry-Platform")


@in_each_kind_of_way
async def test_upstash_telemetry_runtime_is_neither_stored_nor_forwarded(bench: Bench, way: Way) -> None:
    assert await _is_without_a_trace(bench, way, "Upstash-Telemetry-Runtime")


# --- overrides at a replay (2.8) ------------------------------------------------------------------

OVERRIDES = [
    ("Upstash-Retries", "0", "maxRetries", 0),
    ("Upstash-Retry-Delay", "pow(2, retried)", "retryDelayExpression", "pow(2, retried)"),
    ("Upstash-Timeout", "7s", "timeout", 7000),
    ("Upstash-Method", "PATCH", "method", "PATCH"),
    ("Upstash-Label", "again", "labels", ["again"]),
    ("Upstash-Callback", CALLBACK, "callback", CALLBACK),
    ("Upstash-Failure-Callback", FAILURE_CALLBACK, "failureCallback", FAILURE_CALLBACK),
    ("Upstash-Redact-Fields", "body", "body", redacted("hello")),
]


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize(("name", "value", "member", "shown"), OVERRIDES, ids=[row[0] for row in OVERRIDES])
async def test_a_replay_may_override_what_was_stored(
    bench: Bench, name: str, value: str, member: str, shown: object, is_bulk: bool
) -> None:
    await bench.die({"Upstash-Forward-X": "1"})
    [letter] = await bench.letters()
    path = "/v2/dlq/retry" if is_bulk else f"/v2/dlq/retry/{letter['dlqId']}"

    answer = await bench.ask("POST", path, status=201, headers={name: value})

    [accepted] = answer["responses"] if is_bulk else [answer]
    message = await bench.message(accepted["messageId"])
    assert message[member] == shown
    assert message["header"] == {"X": ["1"]}


async def test_a_replay_keeps_what_is_not_overridden(bench: Bench) -> None:
    settings = {
        "Upstash-Method": "PUT",
        "Upstash-Timeout": "7s",
        "Upstash-Retry-Delay": "9",
        "Upstash-Label": "a,b",
        "Upstash-Callback": CALLBACK,
        "Upstash-Callback-Forward-X": "2",
        "Content-Type": "a/b",
        "Upstash-Forward-X": "1",
    }
    await bench.die(settings)
    [letter] = await bench.letters(f"?url={HOOK}")

    answer = await bench.ask("POST", f"/v2/dlq/retry/{letter['dlqId']}", status=201)

    message = await bench.message(answer["messageId"])
    own = {"dlqId", "responseStatus", "responseHeader", "responseBody", "error"}
    again = {"messageId", "createdAt", "notBefore"}
    assert {k: v for k, v in message.items() if k not in again} == {
        k: v for k, v in letter.items() if k not in own | again
    }
