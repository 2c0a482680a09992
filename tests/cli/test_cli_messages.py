"""`qtasks send`, `messages` and `logs` against a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from qtasks.cli import exits
from tests.support.cli import Shell, run
from tests.support.homes import until_found
from tests.support.wire import WireServer, response


async def ended(shell: Shell, count: int) -> None:
    """Wait until so many messages were delivered."""

    async def ask() -> int:
        found = await shell("logs", "ls", "--state", "delivered", "--jsonl")
        return len(found.lines)

    await until_found(ask, lambda found: found == count)


async def test_a_message_is_sent_as_it_was_written(shell: Shell, hook: WireServer, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"a": 1}')

    sent = await shell(
        "send",
        hook.url,
        *("--queue", "mail", "--data", f"@{tmp_path / 'body.json'}", "-H", "X-Tenant: 7", "-X", "put"),
    )
    await hook.reached(1)

    assert (sent.code, sent.err) == (0, "")
    assert sent.out.startswith("msg_")
    assert (hook.last.method, hook.last.body) == ("PUT", b'{"a": 1}')
    assert (hook.last.header("x-tenant"), hook.last.header("content-type")) == ("7", "application/json")


async def test_text_is_sent_without_a_type_and_a_given_type_stays(shell: Shell, hook: WireServer) -> None:
    await shell("send", hook.url, "-d", "hällo")
    await hook.reached(1)
    text = hook.last
    await shell("send", hook.url, "-d", "1", "-H", "content-type: text/plain", "--json")
    await hook.reached(2)

    assert text.body == "hällo".encode()
    assert "content-type" not in [each.lower() for each in text.names]
    assert hook.last.header("content-type") == "text/plain"


async def test_a_duplicate_is_told_on_stderr_and_its_id_on_stdout(shell: Shell, hook: WireServer) -> None:
    first = await shell("send", hook.url, "--dedup-id", "once")
    second = await shell("send", hook.url, "--dedup-id", "once")

    assert first.out == second.out
    assert "is there already" in second.err


async def test_a_url_group_gives_a_message_for_each_endpoint(shell: Shell, hook: WireServer) -> None:
    await shell("groups", "add", "orders", f"{hook.url}/a", f"{hook.url}/b")

    sent = await shell("send", "orders", "--jsonl")

    assert [each["url"] for each in sent.lines] == [f"{hook.url}/a", f"{hook.url}/b"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["ftp://x"], exits.FAILED, "invalid destination url"),
        (["http://10.0.0.1/"], exits.FAILED, "private address"),
        (["https://a.example", "--delay", "soon"], exits.USAGE, "write 10s, 5m, 2h or 1d"),
        (["https://a.example", "-H", "nope"], exits.USAGE, 'write "Name: value"'),
        (["https://a.example", "-d", "@/nowhere"], exits.USAGE, "/nowhere cannot be read: No such file"),
        (["https://a.example", "-X", "BREW"], exits.FAILED, "Upstash-Method"),
        (["https://a.example", "-H", "X: a\nb"], exits.FAILED, "must not contain CR, LF"),
        ([], exits.USAGE, "Missing argument 'DESTINATION'"),
    ],
)
async def test_what_cannot_be_sent_is_refused_with_the_reason(
    shell: Shell, arguments: list[str], code: int, text: str
) -> None:
    failed = await shell("send", *arguments)

    assert (failed.code, failed.out) == (code, "")
    assert text in failed.err


async def test_messages_are_listed_by_the_state_they_are_in_now(shell: Shell, hook: WireServer) -> None:
    await shell("queues", "set", "held", "--paused")
    held = (await shell("send", hook.url, "--queue", "held", "--label", "x")).out.strip()
    gone = (await shell("send", hook.url)).out.strip()
    await ended(shell, 1)

    every = await shell("messages", "ls", "--jsonl")
    pending = await shell("messages", "ls", "--pending", "--jsonl")
    labelled = await shell("messages", "ls", "--label", "x", "--state", "delivered", "--json")
    first = await shell("messages", "ls", "--limit", "1")

    assert {each["messageId"]: each["state"] for each in every.lines} == {held: "CREATED", gone: "DELIVERED"}
    assert [each["messageId"] for each in pending.lines] == [held]
    assert labelled.json == []
    assert first.err == "there are more: --limit 10\n"
    assert (await shell("messages", "show", held)).out.startswith(f"message id   {held}\n")


async def test_messages_are_called_off_by_id_and_by_filter(shell: Shell) -> None:
    await shell("queues", "set", "held", "--paused")
    first, *_ = [(await shell("send", "https://a.example", "--queue", "held")).out.strip() for _ in range(3)]

    by_id = await shell("messages", "cancel", first, "msg_nobody")
    dry = await shell("messages", "cancel", "--queue", "held")
    done = await shell("messages", "cancel", "--queue", "held", "--yes", "--json")

    assert by_id.code == exits.PARTLY
    assert by_id.err == f"cancelled {first}\nqtasks: msg_nobody: message msg_nobody not found\n"
    assert dry.err == "dry run: would cancel 2 messages; add --yes to do it\n"
    assert len(dry.out.splitlines()) == 3
    assert done.json == {"cancelled": 2}
    assert (await shell("messages", "cancel", "--all", "--yes")).err == "cancelled 0 messages\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say which: ids, a filter such as --queue mail, or --all"),
        (["msg_1", "--queue", "mail"], "give ids, or a filter, and not both"),
        (["--queue", ""], "a filter is empty"),
    ],
)
def test_calling_off_without_saying_what_is_a_mistake(arguments: list[str], text: str) -> None:
    failed = run("messages", "cancel", "--yes", *arguments)

    assert (failed.code, failed.out) == (exits.USAGE, "")
    assert text in failed.err


async def test_the_log_of_one_message_reads_from_its_beginning(shell: Shell, hook: WireServer) -> None:
    hook.answers.append(response(500, b"broken"))
    id_ = (await shell("send", hook.url, "--retries", "0")).out.strip()

    async def ask() -> list[str]:
        return [each["state"] for each in (await shell("logs", "show", id_, "--jsonl")).lines]

    states = await until_found(ask, lambda found: "FAILED" in found)
    shown = await shell("logs", "show", id_)

    assert states == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
    assert shown.out.startswith(f"message id   {id_}\n")
    assert "unexpected status 500" in shown.out


async def test_a_message_that_the_log_does_not_know_is_not_found(shell: Shell) -> None:
    failed = await shell("logs", "show", "msg_nobody")

    assert (failed.code, failed.out) == (exits.NOT_FOUND, "")
    assert "qtasks messages ls" in failed.err


async def test_the_log_is_filtered_by_time(shell: Shell, hook: WireServer) -> None:
    await shell("send", hook.url)
    await ended(shell, 1)

    assert len((await shell("logs", "ls", "--since", "1h", "--jsonl")).lines) == 3
    assert (await shell("logs", "ls", "--until", "2020-01-01", "--json")).json == []
    assert (await shell("logs", "ls", "--since", "soon")).code == exits.USAGE
    assert (await shell("logs", "ls", "--follow", "--json")).code == exits.USAGE
