"""`qtasks dlq` against a broker: listing, grouping, replaying and removing dead letters."""

from __future__ import annotations

from typing import Any

import pytest

from qtasks.cli import exits
from tests.support.cli import Shell, run
from tests.support.homes import until_found
from tests.support.wire import WireServer, response


@pytest.fixture
async def dead(shell: Shell, hook: WireServer) -> list[dict[str, Any]]:
    """Three dead letters, newest first: two of one status, and one of another."""
    for status in (500, 500, 404):
        hook.answers.append(response(status, b"broken\nbadly"))
    for label in "abc":
        await shell("send", hook.url, "--queue", "mail", "--retries", "0", "--label", label)

    async def ask() -> list[dict[str, Any]]:
        return (await shell("dlq", "ls", "--jsonl")).lines

    return await until_found(ask, lambda found: len(found) == 3)


async def test_dead_letters_are_listed_and_filtered(shell: Shell, dead: list[dict[str, Any]]) -> None:
    listed = await shell("dlq", "ls", "--limit", "2")
    missing = await shell("dlq", "ls", "--status", "404", "--jsonl")

    assert len(listed.out.splitlines()) == 3
    assert "HTTP 404  broken" in listed.out
    assert listed.err == "there are more: --limit 20, or together: qtasks dlq ls --group\n"
    assert [each["dlqId"] for each in missing.lines] == [dead[0]["dlqId"]]


async def test_those_of_one_cause_are_one_line(shell: Shell, dead: list[dict[str, Any]]) -> None:
    grouped = await shell("dlq", "ls", "--group", "--jsonl")

    assert [(each["error"], each["count"], each["newest"]) for each in grouped.lines] == [
        ("HTTP 500", 2, dead[1]["dlqId"]),
        ("HTTP 404", 1, dead[0]["dlqId"]),
    ]
    assert (await shell("dlq", "ls", "--group")).out.startswith("COUNT  WHAT")


async def test_one_is_shown_with_its_answer(shell: Shell, dead: list[dict[str, Any]]) -> None:
    shown = await shell("dlq", "show", dead[0]["dlqId"])

    assert f"id           {dead[0]['dlqId']}\n" in shown.out
    assert "answer       broken\n             badly\n" in shown.out
    assert (await shell("dlq", "show", "nothing")).code == exits.NOT_FOUND


async def test_one_is_replayed_by_its_id(shell: Shell, hook: WireServer, dead: list[dict[str, Any]]) -> None:
    replayed = await shell("dlq", "replay", dead[0]["dlqId"], "1-1", "--retries", "2")
    await hook.reached(4)

    assert replayed.code == exits.PARTLY
    assert f"replayed {dead[0]['dlqId']}\n" in replayed.err
    assert "qtasks: 1-1: dlq message 1-1 not found; what there is: qtasks dlq ls" in replayed.err


async def test_replaying_by_a_filter_is_a_dry_run_until_it_is_meant(
    shell: Shell, hook: WireServer, dead: list[dict[str, Any]]
) -> None:
    dry = await shell("dlq", "replay", "--status", "500")
    still = await shell("dlq", "ls", "--jsonl")
    done = await shell("dlq", "replay", "--status", "500", "--yes")
    await hook.reached(5)

    assert dry.err == "dry run: would replay 2 dead letters; add --yes to do it\n"
    assert len(still.lines) == 3
    assert (done.out, done.err) == ("", "replayed 2 dead letters\n")
    assert [each["dlqId"] for each in (await shell("dlq", "ls", "--jsonl")).lines] == [dead[0]["dlqId"]]


async def test_a_rate_holds_replaying_back(shell: Shell, dead: list[dict[str, Any]]) -> None:
    done = await shell("dlq", "replay", "--all", "--yes", "--rate", "50", "--json")

    assert done.json == {"replayed": 3}


async def test_dead_letters_are_removed(shell: Shell, dead: list[dict[str, Any]]) -> None:
    one = await shell("dlq", "rm", dead[0]["dlqId"])
    dry = await shell("dlq", "rm", "--all", "--json")
    rest = await shell("dlq", "rm", "--all", "--yes")

    assert one.err == f"deleted {dead[0]['dlqId']}\n"
    assert (dry.json["dryRun"], dry.json["count"], len(dry.json["sample"])) == (True, 2, 2)
    assert rest.err == "deleted 2 dead letters\n"
    assert (await shell("dlq", "ls")).err == "no dead letters\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["replay"], "say which: ids, or a filter"),
        (["replay", "1-1", "--all"], "say which: ids, or a filter"),
        (["rm", "--yes"], "say which: ids, or a filter"),
        (["replay", "--all", "--edit", "a=1"], "--edit is about one dead letter"),
        (["replay", "1-1", "--edit", "a"], "write name=value"),
        (["replay", "--all", "--rate", "0"], "0"),
    ],
)
def test_a_choice_that_is_none_is_a_mistake(arguments: list[str], text: str) -> None:
    failed = run("dlq", *arguments)

    assert (failed.code, failed.out) == (exits.USAGE, "")
    assert text in failed.err
