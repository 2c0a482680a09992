"""`qtasks queues` against a broker: for people, for programs, and with the worst input."""

from __future__ import annotations

from qtasks.cli import exits
from tests.support.cli import Shell, run
from tests.support.processes import free_port


async def test_no_queues_are_said_to_a_person_and_are_an_empty_list_to_a_program(shell: Shell) -> None:
    assert await shell("queues", "ls") == await shell("queues", "ls")
    people = await shell("queues", "ls")

    assert (people.code, people.out, people.err) == (0, "", "no queues\n")
    assert (await shell("queues", "ls", "--json")).json == []
    assert (await shell("queues", "ls", "--jsonl")).out == ""


async def test_a_queue_is_made_changed_and_listed(shell: Shell) -> None:
    made = await shell("queues", "set", "mail", "--parallelism", "3", "--paused")
    again = await shell("queues", "set", "mail", "--active")
    listed = await shell("queues", "ls", "--jsonl")

    assert (made.code, made.out, made.err) == (0, "", "set mail: parallelism 3, paused\n")
    assert again.err == "set mail: parallelism 3, active\n"
    [queue] = listed.lines
    assert (queue["name"], queue["parallelism"], queue["paused"]) == ("mail", 3, False)
    assert (await shell("queues", "show", "mail")).out.startswith("name         mail\n")
    assert (await shell("queues", "show", "mail", "--json")).json == queue


async def test_only_queues_with_something_in_them_are_listed_most_first(shell: Shell) -> None:
    for name, count in (("a", 1), ("b", 2), ("c", 0)):
        await shell("queues", "set", name, "--paused")
        for _ in range(count):
            await shell("send", "https://a.example", "--queue", name)

    found = await shell("queues", "ls", "--lagging", "--jsonl")

    assert [(each["name"], each["lag"]) for each in found.lines] == [("b", 2), ("a", 1)]


async def test_what_was_done_to_some_only_exits_with_7_and_names_the_rest(shell: Shell) -> None:
    await shell("queues", "set", "mail")

    paused = await shell("queues", "pause", "mail", "nope", "mail")
    resumed = await shell("queues", "resume", "mail", "nope", "--json")

    assert (paused.code, paused.out) == (exits.PARTLY, "")
    assert paused.err == "paused mail\nqtasks: nope: queue nope not found; what there is: qtasks queues ls\n"
    assert resumed.code == exits.PARTLY
    assert resumed.json == [
        {"name": "mail", "done": True},
        {"name": "nope", "done": False, "error": "queue nope not found"},
    ]


async def test_what_was_done_to_none_exits_as_the_first_failed(shell: Shell) -> None:
    assert (await shell("queues", "pause", "nope", "none")).code == exits.NOT_FOUND


async def test_removing_is_a_dry_run_until_it_is_meant(shell: Shell) -> None:
    await shell("queues", "set", "mail", "--paused")
    await shell("send", "https://a.example", "--queue", "mail")

    dry = await shell("queues", "rm", "mail")
    as_json = await shell("queues", "rm", "mail", "--json")

    assert dry.code == 0
    assert "mail    1" in dry.out
    assert dry.err == (
        "dry run: would remove 1 queue; add --yes to do it\n1 waiting would be called off with them\n"
    )
    assert (as_json.json["dryRun"], as_json.json["count"]) == (True, 1)
    assert (await shell("queues", "rm", "mail", "--yes")).err == "removed mail\n"
    assert (await shell("queues", "ls", "--json")).json == []


async def test_a_wrong_token_says_what_to_set(shell: Shell) -> None:
    refused = await shell("queues", "ls", QTASKS_TOKEN="wrong")

    assert (refused.code, refused.out) == (exits.AUTH, "")
    assert "unable to authenticate: invalid token; set QTASKS_TOKEN" in refused.err


async def test_no_token_at_all_is_said_before_anything_is_asked(shell: Shell) -> None:
    refused = await shell("queues", "ls", QTASKS_TOKEN="")

    assert refused.code == exits.USAGE
    assert "wants a token; set QTASKS_TOKEN to it" in refused.err


def test_nobody_there_says_where_was_looked() -> None:
    port = free_port()

    failed = run("queues", "ls", "--broker", f"http://127.0.0.1:{port}", env={"QTASKS_TOKEN": "t"})

    assert (failed.code, failed.out) == (exits.UNREACHABLE, "")
    assert f"the broker at http://127.0.0.1:{port} cannot be reached" in failed.err
    assert "--broker URL or QTASKS_BROKER" in failed.err


def test_two_forms_at_once_are_a_mistake() -> None:
    failed = run("queues", "ls", "--json", "--jsonl")

    assert (failed.code, failed.out) == (exits.USAGE, "")
    assert "two forms of one answer" in failed.err


def test_a_broker_that_is_none_is_a_mistake() -> None:
    failed = run("queues", "ls", "--broker", "mysql://x")

    assert failed.code == exits.USAGE
    assert "is 'mysql://x', which is no broker" in failed.err


async def test_odd_names_are_refused_by_the_broker_with_its_reason(shell: Shell) -> None:
    failed = await shell("queues", "set", "a/b c")

    assert failed.code == exits.FAILED
    assert "queue" in failed.err
