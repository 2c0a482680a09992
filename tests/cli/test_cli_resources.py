"""`qtasks schedules`, `groups` and `flow` against a broker."""

from __future__ import annotations

import pytest

from qtasks.cli import exits
from tests.support.cli import Shell, run

URL = "https://a.example/hook"


async def test_a_schedule_is_made_paused_resumed_and_removed(shell: Shell) -> None:
    made = await shell("schedules", "add", URL, "--cron", "0 3 * * *", "--id", "nightly", "-d", "{}")
    await shell("schedules", "add", URL, "--every", "30s", "--id", "often", "--queue", "mail")
    paused = await shell("schedules", "pause", "nightly")
    listed = await shell("schedules", "ls", "--jsonl")

    assert (made.code, made.out, made.err) == (0, "nightly\n", "")
    assert paused.err == "paused nightly\n"
    assert [(each["scheduleId"], each["isPaused"]) for each in listed.lines] == [
        ("often", False),
        ("nightly", True),
    ]
    assert (await shell("schedules", "show", "nightly")).out.startswith("schedule id  nightly\n")
    assert (await shell("schedules", "resume", "nightly")).code == 0
    removed = await shell("schedules", "rm", "nightly", "nope")
    assert removed.code == exits.PARTLY
    assert removed.err == (
        "removed nightly\nqtasks: nope: schedule nope not found; what there is: qtasks schedules ls\n"
    )


async def test_the_next_fires_of_a_schedule_are_told(shell: Shell) -> None:
    await shell("schedules", "add", URL, "--cron", "0 3 * * *", "--id", "nightly")

    by_id = await shell("schedules", "next", "nightly", "-n", "2", "--jsonl")
    by_cron = await shell("schedules", "next", "0 3 * * *", "-n", "2", "--jsonl")
    missing = await shell("schedules", "next", "nope")
    odd = await shell("schedules", "next", "61 * * * *")

    first, second = (each["at"] for each in by_id.lines)
    assert second - first == 86_400_000
    assert by_cron.lines == by_id.lines
    assert missing.code == exits.NOT_FOUND
    assert odd.code == exits.USAGE
    assert (await shell("schedules", "next", "@every 30s", "-n", "3")).out.startswith("FIRES")


@pytest.mark.parametrize(
    "arguments", [["--cron", "0 3 * * *", "--every", "30s"], []], ids=["both", "neither"]
)
def test_a_schedule_has_one_way_to_say_when(arguments: list[str]) -> None:
    failed = run("schedules", "add", URL, *arguments)

    assert failed.code == exits.USAGE
    assert 'say when: --cron "0 3 * * *", or --every 30s' in failed.err


async def test_a_url_group_is_filled_set_and_taken_apart(shell: Shell) -> None:
    made = await shell("groups", "add", "orders", f"billing={URL}", "https://b.example/?a=b")
    await shell("groups", "set", "orders", "-H", "Upstash-Retries: 5")
    listed = await shell("groups", "ls")
    shown = await shell("groups", "show", "orders")

    assert made.err == "orders has 2 endpoints\n"
    assert listed.out.splitlines()[1].startswith("orders          2")
    assert f"endpoints  billing: {URL}\n           https://b.example/?a=b\n" in shown.out
    assert (await shell("groups", "rm", "orders", "--endpoint", "billing")).code == 0
    endpoints = (await shell("groups", "show", "orders", "--json")).json["endpoints"]
    assert endpoints == [{"url": "https://b.example/?a=b"}]
    assert (await shell("groups", "rm", "orders")).err == "removed orders\n"
    assert (await shell("groups", "rm", "orders")).code == exits.NOT_FOUND


async def test_a_flow_control_key_is_pinned_and_steered(shell: Shell) -> None:
    pinned = await shell("flow", "pin", "tenant/7", "--parallelism", "2", "--rate", "10", "--period", "1m")
    await shell("flow", "pause", "tenant/7")
    listed = await shell("flow", "ls", "--search", "tenant")

    assert pinned.err == "pinned tenant/7\n"
    assert listed.out == (
        "KEY       WAITING  RUNNING        RATE  PINNED             STATE\n"
        "tenant/7        0      0/2  0/10 in 1m  parallelism, rate  paused\n"
    )
    assert (await shell("flow", "resume", "tenant/7")).code == 0
    assert (await shell("flow", "reset", "tenant/7")).code == 0
    assert (await shell("flow", "unpin", "tenant/7", "--rate")).code == 0
    shown = (await shell("flow", "show", "tenant/7", "--json")).json
    assert (shown["isPinnedRate"], shown["isPinnedParallelism"], shown["isPaused"]) == (False, True, False)
    assert (await shell("flow", "show", "nope")).code == exits.NOT_FOUND


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say what to pin"),
        (["--parallelism", "0"], "0 is not in the range"),
        (["--parallelism", "1", "--period", "1m"], "--period is that of a --rate"),
        (["--rate", "1", "--period", "0.5s"], "in whole seconds"),
    ],
)
def test_a_pin_that_is_none_is_a_mistake(arguments: list[str], text: str) -> None:
    failed = run("flow", "pin", "key", *arguments)

    assert failed.code == exits.USAGE
    assert text in failed.err
