"""`qtasks dlq replay --to`: a dead letter delivered to an app on this machine, signed by this environment."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from qtasks import QTasks, Receiver
from qtasks.cli import exits
from qtasks.errors import InvalidValue
from qtasks.home.redelivering import target_of
from tests.support.cli import Shell
from tests.support.homes import KEYS, SECRET, embedded, remote_settings, served, until_found
from tests.support.processes import free_port
from tests.support.wire import WireServer, response

OTHER_SECRET = SECRET[::-1]
SIGNED = {"QTASKS_CURRENT_SIGNING_KEY": KEYS[0], "QTASKS_NEXT_SIGNING_KEY": KEYS[1]}


async def dead_letter(shell: Shell) -> str:
    """Wait for a dead letter; gives its id."""

    async def ask() -> list[dict[str, Any]]:
        return (await shell("dlq", "ls", "--jsonl")).lines

    return str((await until_found(ask, bool))[0]["dlqId"])


async def fail(shell: Shell, hook: WireServer, *more: str) -> str:
    """Have a message fail for good; gives the id of its dead letter."""
    hook.answers.append(response(500))
    await shell("send", f"{hook.url}/hook?x=1", "--retries", "0", "-d", '{"a":1}', "-H", "X-A: 1", *more)
    return await dead_letter(shell)


async def test_a_message_is_delivered_to_this_machine_and_stays_a_dead_letter(
    shell: Shell, hook: WireServer
) -> None:
    dlq_id = await fail(shell, hook)
    async with WireServer() as here:
        here.answers.append(response(200, b"thanks"))
        url = here.url

        done = await shell("dlq", "replay", dlq_id, "--to", here.url, **SIGNED)

    assert (done.code, done.out) == (0, "thanks\n")
    assert done.err == f"{url}/hook?x=1 answered 200\n"
    assert (here.last.method, here.last.target, here.last.body) == ("POST", "/hook?x=1", b'{"a":1}')
    assert (here.last.header("x-a"), here.last.header("content-type")) == ("1", "application/json")
    assert here.last.header("upstash-message-id").startswith("msg_")
    Receiver(*KEYS).verify(
        body=here.last.body, signature=here.last.header("upstash-signature"), url=f"{url}/hook?x=1"
    )
    assert len((await shell("dlq", "ls", "--json")).json) == 1


async def test_without_keys_it_goes_unsigned_and_that_is_said(shell: Shell, hook: WireServer) -> None:
    dlq_id = await fail(shell, hook)
    async with WireServer() as here:
        here.answers.append(response(418))
        url = here.url

        done = await shell("dlq", "replay", dlq_id, "--to", f"{here.url}/other", "--json")

    assert done.code == exits.FAILED
    assert done.json == {"url": f"{url}/other", "status": 418, "body": ""}
    assert "not signed" in done.err
    assert "upstash-signature" not in [each.lower() for each in here.last.names]


async def test_what_its_sender_hides_stays_hidden(shell: Shell, hook: WireServer) -> None:
    hook.answers.append(response(500))
    await shell("groups", "add", "g", f"{hook.url}/hook")
    await shell("groups", "set", "g", "-H", "Upstash-Redact-Fields: header[X-A]", "-H", "Upstash-Retries: 0")
    await shell("send", "g", "-d", "1", "-H", "X-A: secret", "-H", "X-B: 2")
    dlq_id = await dead_letter(shell)
    async with WireServer() as here:
        await shell("dlq", "replay", dlq_id, "--to", here.url)

    assert "x-a" not in [each.lower() for each in here.last.names]
    assert here.last.header("x-b") == "2"


async def test_a_body_that_is_hidden_is_not_sent(shell: Shell, hook: WireServer) -> None:
    hook.answers.append(response(500))
    await shell("groups", "add", "g", hook.url)
    await shell("groups", "set", "g", "-H", "Upstash-Redact-Fields: body", "-H", "Upstash-Retries: 0")
    await shell("send", "g", "-d", "secret")
    dlq_id = await dead_letter(shell)

    failed = await shell("dlq", "replay", dlq_id, "--to", "http://127.0.0.1:9/x")

    assert failed.code == exits.USAGE
    assert "has a body that its sender hides: it stays hidden" in failed.err


async def test_a_task_is_sealed_anew_for_the_app_on_this_machine(tmp_path: Any) -> None:
    store, ran = tmp_path / "q.db", []
    there = embedded(store)

    @there.task(name="shop.welcome", retries=0)
    def fails(to: str) -> None:
        raise ValueError(to)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[0](scope, receive, send)

    apps: list[QTasks] = []
    shell = Shell({"QTASKS_BROKER": f"sqlite:///{store}"})
    async with there.lifespan(), served(dispatch) as url:
        here = QTasks(settings=remote_settings("http://127.0.0.1:9", f"{url}/qtasks"))
        apps.append(here)

        @here.task(name="shop.welcome", bind=True)
        def works(context: Any, to: str) -> str:
            ran.append((to, context.is_replay))
            return f"to {to}"

        await fails.adelay("ada")
        dlq_id = await dead_letter(shell)
        to = ("--to", f"{url}/qtasks/run")
        done = await shell("dlq", "replay", dlq_id, *to, **SIGNED, QTASKS_SECRET=SECRET)
        wrong = await shell("dlq", "replay", dlq_id, *to, **SIGNED, QTASKS_SECRET=OTHER_SECRET)
        without = await shell("dlq", "replay", dlq_id, *to, **SIGNED)
        short = await shell("dlq", "replay", dlq_id, "--to", url, **SIGNED)

    assert (done.code, done.out, ran) == (0, '"to ada"\n', [("ada", True)])
    assert wrong.code == exits.FAILED
    assert "answered 489" in wrong.err or "answered 403" in wrong.err
    assert without.code == exits.USAGE
    assert "set QTASKS_SECRET to that app's" in without.err
    assert "needs the path of the webhook" in short.err


async def test_nobody_on_this_machine_is_said(shell: Shell, hook: WireServer) -> None:
    dlq_id = await fail(shell, hook)

    failed = await shell("dlq", "replay", dlq_id, "--to", f"http://127.0.0.1:{free_port()}")

    assert failed.code == exits.UNREACHABLE
    assert "does not answer" in failed.err


@pytest.mark.parametrize(
    "to",
    ["https://app.example.com", "http://10.0.0.1:8000", "localhost:8000", "", "http://localhost.evil.com"],
)
def test_only_this_machine_is_delivered_to(to: str) -> None:
    with pytest.raises(InvalidValue, match="must be an app on this machine"):
        target_of(to, "https://app.example.com/hook")


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ("http://localhost:8000", "http://localhost:8000/hook?x=1"),
        ("http://[::1]:8000/", "http://[::1]:8000/hook?x=1"),
        ("http://127.0.0.1:8000/qtasks/run", "http://127.0.0.1:8000/qtasks/run"),
    ],
)
def test_a_message_keeps_its_path_unless_another_is_given(to: str, target: str) -> None:
    assert target_of(to, "https://app.example.com/hook?x=1") == target
