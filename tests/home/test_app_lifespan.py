"""An app's life: started by its lifespan, as the root app, or by a request; its secrets; the only app."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qtasks import ConfigurationError, QTasks
from qtasks.errors import StoreUnusable
from tests.support import ROOT
from tests.support.homes import SOON_S, embedded, keys_of

Message = MutableMapping[str, Any]


def is_owned(store: Path) -> bool:
    """Say whether a process has announced that it owns the file."""
    lock = store.with_name(f"{store.name}.lock")
    return lock.exists() and bool(lock.read_bytes())


def damage(store: Path) -> None:
    """Put something else in the place of the database."""
    store.write_bytes(b"this is no database" * 100)


def mend(store: Path) -> None:
    """Take it away again."""
    store.unlink()


# --- lifespans ----------------------------------------------------------------------------------


async def test_an_app_whose_lifespan_is_entered_twice_runs_until_the_last_has_ended(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def one() -> int:
        return 1

    async with tasks.lifespan():
        async with tasks.lifespan():
            pass
        assert await one.delay().aget(SOON_S) == 1
        assert is_owned(store)
    assert not is_owned(store)


async def test_an_app_runs_again_after_its_lifespan_has_ended(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def one() -> int:
        return 1

    for _ in range(2):
        async with tasks.lifespan():
            assert await one.delay().aget(SOON_S) == 1


async def test_an_app_runs_again_on_another_loop(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    def one() -> int:
        return 1

    async def live() -> int:
        async with tasks.lifespan():
            return await one.delay().aget(SOON_S)

    assert await asyncio.to_thread(asyncio.run, live()) == 1
    assert await live() == 1


async def test_what_is_called_before_the_lifespan_is_run_within_it(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def one() -> int:
        return 1

    result = one.delay()
    assert result.state == "QUEUED"

    async with tasks.lifespan():
        assert await result.aget(SOON_S) == 1
    assert result.state == "SUCCEEDED"


async def test_tasks_in_flight_are_let_finish_when_the_lifespan_ends(store: Path) -> None:
    tasks = embedded(store)
    started, gate = asyncio.Event(), asyncio.Event()

    @tasks.task
    async def slow() -> str:
        started.set()
        await gate.wait()
        return "finished"

    async with tasks.lifespan():
        result = slow.delay()
        await started.wait()
        asyncio.get_running_loop().call_later(0.05, gate.set)

    assert await result.aget(SOON_S) == "finished"


async def test_a_lifespan_that_cannot_start_leaves_nothing_behind(store: Path) -> None:
    damage(store)
    tasks = embedded(store)

    with pytest.raises(StoreUnusable, match=re.escape(str(store))):
        async with tasks.lifespan():
            pass

    assert not is_owned(store)
    mend(store)
    async with tasks.lifespan():
        assert is_owned(store)


# --- served as the root app ---------------------------------------------------------------------


class LifespanServer:
    """Speaks ASGI's lifespan protocol to an app, as a server does."""

    def __init__(self, app: QTasks) -> None:
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.call = asyncio.ensure_future(app({"type": "lifespan"}, self._told.get, self.heard.put))

    async def say(self, type_: str) -> Message:
        """Tell the app something; give its answer."""
        await self._told.put({"type": type_})
        async with asyncio.timeout(SOON_S):
            return await self.heard.get()


async def test_the_root_app_runs_from_startup_to_shutdown(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def one() -> int:
        return 1

    server = LifespanServer(tasks)
    assert await server.say("lifespan.startup") == {"type": "lifespan.startup.complete"}
    assert await one.delay().aget(SOON_S) == 1
    assert await server.say("lifespan.shutdown") == {"type": "lifespan.shutdown.complete"}

    await server.call
    assert not is_owned(store)


async def test_a_root_app_that_cannot_start_says_why(store: Path) -> None:
    damage(store)
    server = LifespanServer(embedded(store))

    answer = await server.say("lifespan.startup")

    assert answer["type"] == "lifespan.startup.failed"
    assert str(store) in answer["message"]
    with pytest.raises(StoreUnusable):
        await server.call
    assert server.heard.empty()


async def test_an_embedded_app_takes_no_deliveries_over_http(store: Path) -> None:
    tasks = embedded(store)
    async with tasks.lifespan():
        assert await post(tasks, "/run") == 503


async def post(app: QTasks, path: str) -> int:
    """Send an app a request by hand; give the status of the answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)
    return int(sent[0]["status"])


# --- in processes of their own ------------------------------------------------------------------


def run_script(folder: Path, lines: Sequence[str] | str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder of its own, where its broker's file will be."""
    script = folder / "script.py"
    script.write_text(lines if isinstance(lines, str) else "\n".join(lines))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QTASKS_", "QSTASH_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


FORGOTTEN = """
import asyncio
from qtasks import QTasks

tasks = QTasks()

@tasks.task
async def one() -> int:
    return 1

async def main():
    result = one.delay()
    print(result.state)
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        if "status" in message:
            print(message["status"])
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    await asyncio.gather(*(tasks(scope, receive, send) for _ in range(3)))
    print(await result.aget(10))

asyncio.run(main())
"""


@pytest.mark.process
def test_a_forgotten_lifespan_is_made_up_for_by_the_first_request(tmp_path: Path) -> None:
    ended = run_script(tmp_path, FORGOTTEN)

    assert ended.stdout.split() == ["QUEUED", "404", "404", "404", "1"], ended.stderr
    assert ended.returncode == 0
    assert ended.stderr.count("runs the tasks of") == 1
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "qtasks.db.lock").read_bytes() == b""


BY_MODULE = """
import gc
from qtasks import ConfigurationError, QTasks, task

@task
def add(a: int, b: int) -> int:
    return a + b

def call():
    try:
        add.delay(1, 2)
        print("sent")
    except ConfigurationError as error:
        print(error)

call()
first = QTasks()
call()
second = QTasks(name="second")
call()
del second
gc.collect()
call()
"""


@pytest.mark.process
def test_a_task_of_a_module_belongs_to_the_only_app_of_its_process(tmp_path: Path) -> None:
    ended = run_script(tmp_path, BY_MODULE)

    advice = "make one QTasks(), or decorate with @tasks.task"
    belongs = "a task of the module-level @task belongs to the process's only QTasks"
    assert ended.stdout.splitlines() == [
        f"{belongs}, but there is none; {advice}",
        "sent",
        f"{belongs}, but there are 2; {advice}",
        "sent",
    ], ended.stderr


RUN_BY_MODULE = """
import asyncio
from qtasks import QTasks, task

@task(queue="numbers")
async def add(a: int, b: int) -> int:
    return a + b

tasks = QTasks()

async def main():
    async with tasks.lifespan():
        result = await add.adelay(1, 2)
        print(await result.aget(10), add.name, tasks.find("script.add") is add)

asyncio.run(main())
"""


@pytest.mark.process
def test_a_task_of_a_module_is_run_by_the_app_of_its_process(tmp_path: Path) -> None:
    ended = run_script(tmp_path, RUN_BY_MODULE)

    assert ended.stdout == "3 script.add True\n", ended.stderr
    assert ended.returncode == 0


@pytest.mark.process
def test_a_script_with_no_owner_about_is_told_nothing_of_lifespans(tmp_path: Path) -> None:
    lines = [
        "import asyncio",
        "from qtasks import QTasks",
        "tasks = QTasks()",
        "@tasks.task",
        "def one(): ...",
    ]
    lines += ["async def main():", "    one.delay()", "    await one.adelay()", "asyncio.run(main())"]

    ended = run_script(tmp_path, lines)

    assert (ended.returncode, ended.stderr) == (0, "")


# --- secrets ------------------------------------------------------------------------------------


async def test_the_secrets_beside_the_database_are_readable_by_their_owner_alone(store: Path) -> None:
    tasks = embedded(store)
    async with tasks.lifespan():
        pass

    assert stat.S_IMODE(keys_of(store).stat().st_mode) == 0o600
    lines = dict(line.split("=", 1) for line in keys_of(store).read_text().splitlines())
    assert sorted(lines) == [
        "QSTASH_CURRENT_SIGNING_KEY",
        "QSTASH_NEXT_SIGNING_KEY",
        "QSTASH_TOKEN",
        "QTASKS_SECRET",
    ]
    assert all(len(value) >= 64 for value in lines.values())
    assert len(set(lines.values())) == 4


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
async def test_secrets_that_others_may_read_are_refused(store: Path, mode: int) -> None:
    async with embedded(store).lifespan():
        pass
    keys_of(store).chmod(mode)
    tasks = embedded(store)

    @tasks.task
    def one() -> int:
        return 1

    advice = re.escape(
        f"{keys_of(store)} holds secrets, but others may read it; run: chmod 600 {keys_of(store)}"
    )
    with pytest.raises(ConfigurationError, match=advice):
        one.delay()
    with pytest.raises(ConfigurationError, match=advice):
        async with tasks.lifespan():
            pass
    assert not is_owned(store)


async def test_secrets_that_are_not_whole_are_refused(store: Path) -> None:
    async with embedded(store).lifespan():
        pass
    keys = keys_of(store)
    keys.write_text("\n".join(keys.read_text().splitlines()[:2]))

    with pytest.raises(
        ConfigurationError, match="lacks QSTASH_NEXT_SIGNING_KEY, QTASKS_SECRET; restore it from"
    ):
        async with embedded(store).lifespan():
            pass


async def test_a_task_that_was_signed_with_other_secrets_is_not_executed(store: Path) -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(1)

    before = embedded(store)
    result = before.task(name="run", retries=0)(run).delay()
    keys_of(store).unlink()

    after = embedded(store)
    after.task(name="run")(run)
    async with after.lifespan():
        with pytest.raises(Exception, match="the task was not signed by this app, or was changed since"):
            await result.aget(SOON_S)

    assert runs == []


def test_an_app_that_does_nothing_makes_no_file(store: Path) -> None:
    embedded(store)

    assert list(store.parent.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    tasks = embedded(tmp_path / "missing" / "q.db")

    @tasks.task
    def one() -> int:
        return 1

    with pytest.raises((StoreUnusable, ConfigurationError), match=r"missing/q\.db"):
        one.delay()
