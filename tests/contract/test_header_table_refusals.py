"""What is refused, by the name of its header and before anything is stored (contract 3, 3.11).

Every bad value is given in each of the ways that its header has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from tests.support.broker import HOOK
from tests.support.contract import CALLBACK, FAILURE_CALLBACK, Bench, MakeBench
from tests.support.ways import (
    ENQUEUED,
    EVERY_WAY,
    GROUP,
    PUBLISHED,
    SCHEDULED,
    Way,
    attempt,
    is_untouched,
)

DEEP = "(" * 40 + "1" + ")" * 40
LONG = "1+" * 200 + "1"
NOT_IN_A_QUEUE = (*PUBLISHED, *SCHEDULED)
NOT_BY_A_SCHEDULE = (*PUBLISHED, *ENQUEUED)
FLOW_TEXT = (
    "Upstash-Flow-Control-Value should be either rate=X or parallelism=Y, or both as comma-separated values"
)

BAD_FLOWS = (
    "period=1m",
    "rate",
    "rate=",
    "rate=0",
    "rate=x",
    "rate=1.5",
    "rate=-1",
    "parallelism=0",
    "rate=1, rate=2",
    "speed=3",
    "rate=1, speed=3",
    "rate=1; parallelism=2",
    "10",
)

# The header, values that it cannot have, what the refusal says, and the ways that the header has.
BAD: list[tuple[str, Sequence[str], str, Sequence[Way]]] = [
    ("Upstash-Method", ["TRACE", "HEAD", "x y"], "Upstash-Method", EVERY_WAY),
    ("Upstash-Timeout", ["10x", "-1s", "1.5m", "abc", "s", "1h-2m"], "Upstash-Timeout", EVERY_WAY),
    ("Upstash-Retries", ["x", "-1", "1.5", "1e3", "0x1"], "Upstash-Retries", EVERY_WAY),
    (
        "Upstash-Retry-Delay",
        ["1000 +", "2 ^ 3", "2 ** 3", "f(1)", "pow(1)", "sqrt(1, 2)", "x", "retried.real", "1 2", DEEP, LONG],
        "Upstash-Retry-Delay",
        EVERY_WAY,
    ),
    ("Upstash-Delay", ["10x", "-1s", "1.5m", "soon"], "Upstash-Delay", NOT_IN_A_QUEUE),
    ("Upstash-Not-Before", ["x", "-5", "1.5", "2030-01-01"], "Upstash-Not-Before", PUBLISHED),
    ("Upstash-Label", ["x" * 257], "Upstash-Label", EVERY_WAY),
    ("Upstash-Deduplication-Id", ["a:b"], "DeduplicationId cannot contain ':'", NOT_BY_A_SCHEDULE),
    (
        "Upstash-Content-Based-Deduplication",
        ["yes", "1"],
        "Upstash-Content-Based-Deduplication",
        NOT_BY_A_SCHEDULE,
    ),
    ("Upstash-Header-Forward", ["yes", "1"], "Upstash-Header-Forward", NOT_BY_A_SCHEDULE),
    (
        "Upstash-Redact-Fields",
        ["everything", "body,x", "header[", "header[]", "body,,header"],
        "Upstash-Redact-Fields",
        EVERY_WAY,
    ),
    ("Upstash-Callback", ["x", "ftp://a", "/a", GROUP, "https://"], "invalid callback url", EVERY_WAY),
    ("Upstash-Failure-Callback", ["x", "ftp://a", GROUP, "https://"], "invalid callback url", EVERY_WAY),
    (
        "Upstash-Cron",
        ["x", "* * * *", "60 * * * *", "* * * * * *", "CRON_TZ=Nowhere/Else * * * * *"],
        "Upstash-Cron",
        SCHEDULED,
    ),
    ("Upstash-Schedule-Id", ["a b", "a/b", "a:b"], "Upstash-Schedule-Id", SCHEDULED),
    ("Upstash-Queue-Name", ["a b", "a:b"], "queue name", SCHEDULED),
]


@pytest.mark.parametrize(("name", "values", "text", "ways"), BAD, ids=[row[0] for row in BAD])
async def test_a_bad_value_is_refused_by_the_name_of_its_header_however_it_is_given(
    bench: Bench, name: str, values: Sequence[str], text: str, ways: Sequence[Way]
) -> None:
    for value, way in product(values, ways):
        answer = await attempt(bench, way, {name: value})

        assert answer.status_code == 400, f"{value} as {way}: {answer.status_code} {answer.text}"
        assert list(answer.json()) == ["error"]
        assert text in answer.json()["error"], f"{value} as {way}"
    assert await is_untouched(bench)


async def test_upstash_delay_that_is_none_is_refused_in_the_contract_s_words(bench: Bench) -> None:
    error = await bench.refusal("POST", f"/v2/publish/{HOOK}", 400, headers={"Upstash-Delay": "10x"})

    assert error == 'Upstash-Delay: invalid duration "10x"'


async def test_upstash_flow_control_value_is_refused_in_qstash_s_words(bench: Bench) -> None:
    for value, way in product(BAD_FLOWS, NOT_IN_A_QUEUE):
        settings = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": value}
        answer = await attempt(bench, way, settings)

        assert answer.status_code == 400, f"{value} as {way}: {answer.text}"
        assert answer.json()["error"].removeprefix("message 0: ") == FLOW_TEXT
    assert await is_untouched(bench)
    assert await bench.get("/v2/flowControl") == []


async def test_upstash_flow_control_value_with_a_bad_period_is_refused(bench: Bench) -> None:
    for period, way in product(["0s", "8d", "x", "-1s", "1.5m"], NOT_IN_A_QUEUE):
        value = f"rate=1, period={period}"
        settings = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": value}
        answer = await attempt(bench, way, settings)

        assert answer.status_code == 400, f"{value} as {way}: {answer.text}"
        assert "Upstash-Flow-Control-Value" in answer.json()["error"]
    assert await is_untouched(bench)


@pytest.mark.parametrize(
    "alone",
    [{"Upstash-Flow-Control-Key": "k"}, {"Upstash-Flow-Control-Value": "rate=1"}],
    ids=["key", "value"],
)
async def test_upstash_flow_control_key_and_value_are_refused_without_each_other(
    bench: Bench, alone: dict[str, str]
) -> None:
    for way in (Way.HEADER, Way.QUERY, Way.BATCH, *SCHEDULED):
        answer = await attempt(bench, way, alone)

        assert answer.status_code == 400, f"{way}: {answer.text}"
        assert "Upstash-Flow-Control" in answer.json()["error"]
    assert await is_untouched(bench)


@pytest.mark.parametrize(
    ("family", "url"), [("Upstash-Callback", CALLBACK), ("Upstash-Failure-Callback", FAILURE_CALLBACK)]
)
async def test_upstash_callback_settings_are_refused_by_their_full_names(
    bench: Bench, family: str, url: str
) -> None:
    settings = ("Method", "Timeout", "Retries", "Retry-Delay", "Delay", "Redact-Fields")
    for setting, way in product(settings, NOT_IN_A_QUEUE):
        answer = await attempt(bench, way, {family: url, f"{family}-{setting}": "f(x)"})

        assert answer.status_code == 400, f"{setting} as {way}: {answer.text}"
        assert f"{family}-{setting}" in answer.json()["error"]
    assert await is_untouched(bench)


async def test_upstash_callback_of_a_callback_of_a_callback_is_refused(bench: Bench) -> None:
    name = "Upstash-Callback-Failure-Callback"
    nested = {"Upstash-Callback": CALLBACK, name: CALLBACK, f"{name}-Callback": CALLBACK}
    for way in EVERY_WAY:
        answer = await attempt(bench, way, nested)

        assert (answer.status_code, f"{name}-Callback" in answer.json()["error"]) == (400, True), way
    assert await is_untouched(bench)


# --- combinations ---------------------------------------------------------------------------------

IN_A_QUEUE = [
    ({"Upstash-Delay": "1m"}, "Upstash-Delay"),
    ({"Upstash-Not-Before": "1900000000"}, "Upstash-Not-Before"),
    (
        {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "rate=1"},
        "Upstash-Flow-Control",
    ),
]


@pytest.mark.parametrize(("settings", "name"), IN_A_QUEUE, ids=[name for _, name in IN_A_QUEUE])
async def test_a_message_for_a_queue_is_refused_what_queues_do_not_have(
    bench: Bench, settings: dict[str, str], name: str
) -> None:
    for way in ENQUEUED:
        answer = await attempt(bench, way, settings)

        assert answer.status_code == 400, f"{way}: {answer.text}"
        assert name in answer.json()["error"]
    assert await is_untouched(bench)
    assert await bench.get("/v2/queues") == []


@pytest.mark.parametrize(
    ("settings", "name"),
    [each for each in IN_A_QUEUE if each[1] != "Upstash-Not-Before"],
    ids=["Upstash-Delay", "Upstash-Flow-Control"],
)
async def test_a_schedule_into_a_queue_is_refused_what_queues_do_not_have(
    bench: Bench, settings: dict[str, str], name: str
) -> None:
    for way in SCHEDULED:
        answer = await attempt(bench, way, settings | {"Upstash-Queue-Name": "reports"})

        assert answer.status_code == 400, f"{way}: {answer.text}"
        assert name in answer.json()["error"]
    assert await is_untouched(bench)


# --- quotas ---------------------------------------------------------------------------------------


async def test_upstash_retries_beyond_the_most_exceeds_a_quota(make_bench: MakeBench) -> None:
    bench = await make_bench(max_retries=5)
    for way in EVERY_WAY:
        answer = await attempt(bench, way, {"Upstash-Retries": "6"})

        assert answer.status_code == 412, f"{way}: {answer.text}"
        assert "quota maxRetries exceeded" in answer.json()["error"]
    assert await is_untouched(bench)
    assert (await attempt(bench, Way.HEADER, {"Upstash-Retries": "5"})).status_code == 200


async def test_upstash_delay_beyond_the_longest_exceeds_a_quota(make_bench: MakeBench) -> None:
    bench = await make_bench(max_delay_ms=604_800_000)
    for way in NOT_IN_A_QUEUE:
        answer = await attempt(bench, way, {"Upstash-Delay": "8d"})

        assert answer.status_code == 412, f"{way}: {answer.text}"
        assert "quota maxDelay exceeded, current limit: 604800" in answer.json()["error"]
    assert await is_untouched(bench)
    assert (await attempt(bench, Way.HEADER, {"Upstash-Delay": "7d"})).status_code == 200


async def test_upstash_not_before_beyond_the_longest_delay_exceeds_a_quota(make_bench: MakeBench) -> None:
    bench = await make_bench(max_delay_ms=604_800_000)
    late = str(bench.rig.clock.now() // 1000 + 8 * 86_400)
    for way in PUBLISHED:
        answer = await attempt(bench, way, {"Upstash-Not-Before": late})

        assert answer.status_code == 412, f"{way}: {answer.text}"
    assert await is_untouched(bench)


async def test_a_body_beyond_the_longest_exceeds_a_quota(make_bench: MakeBench) -> None:
    bench = await make_bench(max_message_bytes=10)
    for way in (Way.HEADER, Way.BATCH, Way.ENQUEUE, Way.SCHEDULE, Way.CRON):
        answer = await attempt(bench, way, {}, body=b"x" * 11)

        assert answer.status_code == 412, f"{way}: {answer.text}"
        assert "quota maxMessageSize exceeded" in answer.json()["error"]
    assert await is_untouched(bench)
    assert (await attempt(bench, Way.HEADER, {}, body=b"x" * 10)).status_code == 200


# --- the order of checks (3.11) -------------------------------------------------------------------


async def test_the_first_fault_in_the_order_of_checks_is_the_one_that_is_told(bench: Bench) -> None:
    late = {"Upstash-Delay": "1s"}
    quota = {"Upstash-Retries": "5000"}
    bad = {"Upstash-Retries": "x"}
    queue, plain = f"/v2/enqueue/mail/{HOOK}", f"/v2/publish/{HOOK}"

    authentication, destination, syntax, combination, over_quota = [
        await bench.refusal("POST", path, status, headers=headers)
        for path, headers, status in [
            ("/v2/publish/ftp://a.example", bad | {"Authorization": "Bearer wrong"}, 401),
            ("/v2/publish/ftp://a.example", bad, 400),
            (queue, late | bad, 400),
            (queue, late | quota, 400),
            (plain, quota, 412),
        ]
    ]

    assert authentication == "unable to authenticate: invalid token"
    assert destination == "invalid destination url: endpoint has invalid scheme, add http:// or https://"
    assert syntax.startswith("Upstash-Retries")
    assert combination.startswith("Upstash-Delay")
    assert over_quota.startswith("quota maxRetries exceeded")


async def test_a_quota_goes_before_deduplication(bench: Bench) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7"}
    await bench.publish(headers=headers)

    await bench.refusal("POST", f"/v2/publish/{HOOK}", 412, headers=headers | {"Upstash-Retries": "5000"})
