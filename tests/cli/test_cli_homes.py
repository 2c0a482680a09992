"""The same commands work wherever the broker lives: in an app, in a stopped app, on its own, hosted."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from qtasks import QTasks, Settings
from qtasks.cli import exits
from qtasks.home.keys import keys_path
from qtasks.home.ownership import Ownership
from tests.support.cli import Shell
from tests.support.homes import SECRET, embedded, running_server, server_setup, until
from tests.support.postgres import require_postgres
from tests.support.processes import Processes
from tests.support.wire import WireServer, response


def shell_to(store: Path) -> Shell:
    """A shell whose environment names a file."""
    return Shell({"QTASKS_BROKER": f"sqlite:///{store}"})


async def test_the_broker_of_a_running_app_is_asked_over_its_socket(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with embedded(store).lifespan():
        made = await shell_to(store)("queues", "set", "mail", "--parallelism", "2")
        listed = await shell_to(store)("queues", "ls", "--jsonl")

    assert made.code == 0
    assert [each["name"] for each in listed.lines] == ["mail"]


async def test_the_broker_of_a_stopped_app_is_opened_for_the_command(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    tasks = embedded(store)

    @tasks.task(name="shop.keep")
    def keep(number: int) -> int:
        return number

    async with tasks.lifespan():
        pass
    result = await keep.adelay(7)
    shell = shell_to(store)

    listed = await shell("queues", "ls", "--jsonl")
    await shell("queues", "pause", "default")
    again = await shell("queues", "show", "default", "--json")
    async with tasks.lifespan():
        await until(lambda: (store.parent / "q.db").exists())
        assert result.state == "QUEUED"  # it was paused meanwhile
        await shell("queues", "resume", "default")
        assert await result.aget(timeout=10) == 7

    assert [(each["name"], each["lag"]) for each in listed.lines] == [("default", 1)]
    assert again.json["paused"] is True


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    failed = await shell_to(tmp_path / "q.db")("queues", "ls")

    assert failed.code == exits.UNREACHABLE
    assert f"there is no broker at {tmp_path / 'q.db'}: start your app" in failed.err
    assert os.listdir(tmp_path) == []


async def test_a_file_that_somebody_holds_who_does_not_listen_is_said(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with running_server(server_setup(store)):
        keys_path(store).write_text("")  # it has the keys of its environment
        failed = await shell_to(store)("queues", "ls")

    assert failed.code == exits.UNREACHABLE
    assert "is in use by a process" in failed.err
    assert "--broker http://127.0.0.1:8080" in failed.err


async def test_the_file_is_free_again_after_a_command(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with embedded(store).lifespan():
        pass

    assert (await shell_to(store)("queues", "show", "nope")).code == exits.NOT_FOUND

    ownership = Ownership.try_acquire(store)
    assert ownership is not None
    ownership.release()


async def test_a_file_that_is_no_database_of_ours_is_said(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    async with embedded(store).lifespan():
        pass
    store.unlink()
    with sqlite3.connect(store) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()

    failed = await shell_to(store)("queues", "ls")

    assert failed.code == exits.FAILED
    assert "q.db" in failed.err


async def test_a_shared_database_is_opened_for_the_command_while_its_apps_run() -> None:
    url = require_postgres().new_store()
    tasks = QTasks(settings=Settings(broker=url, secrets=(SECRET,)))

    @tasks.task(name="shop.keep")
    def keep(number: int) -> int:
        return number

    shell = Shell({"QTASKS_BROKER": url, "QTASKS_SECRET": SECRET})
    async with tasks.lifespan():
        assert await (await keep.adelay(7)).aget(timeout=10) == 7
        listed = await shell("queues", "ls", "--jsonl")
        await shell("queues", "pause", "default")
        held = await keep.adelay(8)
        assert (await shell("queues", "ls", "--lagging", "--jsonl")).lines[0]["paused"]
        await shell("queues", "resume", "default")
        assert await held.aget(timeout=10) == 8

    assert [each["name"] for each in listed.lines] == ["default"]


async def test_what_a_shared_database_needs_is_said_and_its_password_is_not() -> None:
    failed = await Shell({})("queues", "ls", "--broker", "postgresql://u:hidden@127.0.0.1:1/db")

    assert failed.code == exits.USAGE
    assert "QTASKS_SECRET" in failed.err
    assert "hidden" not in failed.err


@pytest.fixture
def hosted(hook: WireServer) -> Shell:
    """A shell whose environment names something that is to be taken for hosted QStash."""
    return Shell({"QTASKS_BROKER": f"qstash+{hook.url}", "QSTASH_TOKEN": "hosted"})


async def test_hosted_qstash_is_asked_by_its_url(hosted: Shell, hook: WireServer) -> None:
    queue = b'{"name": "q", "createdAt": 1, "updatedAt": 1, "parallelism": 2, "paused": false, "lag": 0}'
    hook.answers.append(response(200, b"[" + queue + b"]"))

    listed = await hosted("queues", "ls", "--jsonl")

    assert [each["name"] for each in listed.lines] == ["q"]
    assert hook.last.header("authorization") == "Bearer hosted"


async def test_what_hosted_qstash_cannot_do_is_said(hosted: Shell, hook: WireServer) -> None:
    hook.answers.extend([response(404, b'{"error": "no such operation: GET /qtasks/v1/tokens"}')] * 2)

    tokens = await hosted("tokens", "ls")
    roll = await hosted("keys", "roll")

    assert tokens.code == exits.FAILED
    assert "it is hosted QStash, strict, or of an older version" in tokens.err
    assert roll.code == exits.FAILED
    assert "does not say when its keys were rolled last" in roll.err


async def test_a_proxy_s_error_page_is_no_traceback(hosted: Shell, hook: WireServer) -> None:
    hook.answers.extend([response(502, b"<html>Bad \x1b[2JGateway</html>"), response(200, b"<html>")])

    down = await hosted("queues", "ls")
    odd = await hosted("queues", "ls")

    assert (down.code, odd.code) == (exits.UNREACHABLE, exits.FAILED)
    assert "\x1b" not in down.err
    assert "the answer is not JSON" in odd.err


async def test_a_failure_in_the_middle_of_many_says_what_was_done(hosted: Shell, hook: WireServer) -> None:
    page = b'{"responses": [{"messageId": "msg_1"}, {"messageId": "msg_2"}], "cursor": "next"}'
    hook.answers.extend([response(201, page), response(500, b'{"error": "broken"}')])

    failed = await hosted("dlq", "replay", "--all", "--yes")

    assert failed.code == exits.PARTLY
    assert failed.err.startswith("replayed 2 dead letters, then it failed\nqtasks: ")
    assert [each.target for each in hook.requests][1].endswith("cursor=next")


async def test_a_rate_asks_for_pages_of_its_size(hosted: Shell, hook: WireServer) -> None:
    hook.answers.append(response(201, b'{"responses": []}'))

    await asyncio.wait_for(hosted("dlq", "replay", "--all", "--yes", "--rate", "5"), 10)

    assert hook.last.target == "/v2/dlq/retry?count=5"


async def test_a_broker_that_goes_away_is_not_asked_for_the_rest(hosted: Shell, hook: WireServer) -> None:
    hook.answers.extend([response(200), response(503, b'{"error": "shutting down"}')])

    failed = await hosted("queues", "pause", "a", "b", "c", "--json")

    assert failed.code == exits.PARTLY
    assert [(each["name"], each["done"]) for each in failed.json] == [("a", True), ("b", False)]
    assert len(hook.requests) == 2


@pytest.mark.process
async def test_an_app_can_start_while_its_log_is_followed(tmp_path: Path) -> None:
    store = tmp_path / "q.db"
    tasks = embedded(store)

    @tasks.task(name="shop.keep")
    def keep(number: int) -> int:
        return number

    async with tasks.lifespan():
        pass
    with Processes(tmp_path) as processes:
        following = processes.python(
            *("-m", "qtasks", "logs", "ls", "-f", "--jsonl"), env={"QTASKS_BROKER": f"sqlite:///{store}"}
        )
        held = await keep.adelay(7)
        await asyncio.to_thread(following.expect, '"state":"CREATED"')
        async with tasks.lifespan():
            assert await held.aget(timeout=10) == 7
            await asyncio.to_thread(following.expect, '"state":"DELIVERED"')
