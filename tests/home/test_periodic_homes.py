"""Schedules in code, told to the brokers of each home: made, kept, changed, removed, and fired."""

from __future__ import annotations

import asyncio
import atexit
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from qtasks import ConfigurationError, Context, Periodic, QTasks, cron, every, task
from qtasks.client import calls
from qtasks.client.calls import Call
from qtasks.client.clients import AsyncClient
from qtasks.errors import TaskDefinitionError
from qtasks.home.periodic import synchronise_over
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.headers import Options
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.default import CALLERS, DEFAULT
from tests.support.homes import (
    SOON_S,
    TOKEN,
    ask_owner,
    embedded,
    remote_settings,
    running_server,
    served,
    server_setup,
    until,
    until_found,
    url_said,
)

Ask = Callable[[Call[Any]], Awaitable[Any]]
Start = Callable[[QTasks], Any]


class Bench:
    """A broker of one home, on which apps with other and other code start one after the other."""

    def __init__(self, make: Callable[..., QTasks], ask: Ask) -> None:
        self._make = make
        self.ask = ask

    def app(self, schedule: Periodic | Sequence[Periodic] = (), **options: Any) -> QTasks:
        """Make an app whose task `report` has these schedules."""
        tasks = self._make()
        tasks.task(name="report", schedule=schedule, **options)(report)
        return tasks

    @asynccontextmanager
    async def life(
        self, schedule: Periodic | Sequence[Periodic] = (), **options: Any
    ) -> AsyncIterator[Bench]:
        """Run an app with this code for a while."""
        async with self.app(schedule, **options).lifespan():
            yield self

    async def shown(self) -> dict[str, ScheduleView]:
        """Give all schedules of the broker."""
        return {each.schedule_id: each for each in await self.ask(calls.schedules())}


class Mount:
    app: QTasks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def report(region: str = "eu") -> str:
    return region


@pytest.fixture(params=["embedded", "standalone"])
async def bench(request: pytest.FixtureRequest, store: Path) -> AsyncIterator[Bench]:
    if request.param == "embedded":

        async def ask_socket(call: Call[Any]) -> Any:
            return await asyncio.to_thread(ask_owner, store, call)

        yield Bench(lambda: embedded(store), ask_socket)
        return
    mount = Mount()
    async with running_server(server_setup(store)) as said, served(mount) as address:
        url = url_said(said)

        def make() -> QTasks:
            mount.app = QTasks(settings=remote_settings(url, public_url=address))
            return mount.app

        async with AsyncClient(url, TOKEN) as client:
            yield Bench(make, client.send)


async def test_a_start_tells_the_broker_what_the_code_says(bench: Bench) -> None:
    nine = cron("0 9 * * mon-fri", tz="Europe/Paris", args=("us",), name="nine")
    async with bench.life([every(minutes=5, overlap="skip"), nine], queue="mail", retries=7):
        found = await bench.shown()

    assert {id_: each.cron for id_, each in found.items()} == {
        "qt.app.report.1": "@every 300s",
        "qt.app.report.nine": "CRON_TZ=Europe/Paris 0 9 * * mon-fri",
    }
    assert {(each.queue_name, each.retries) for each in found.values()} == {("mail", 7)}


async def test_a_start_removes_what_is_gone_and_nothing_that_others_made(bench: Bench) -> None:
    by_hand = Options(cron=parse_cron("@daily"), schedule_id="qt.app.by-hand")
    async with bench.life([every(minutes=5), cron("@daily")]):
        destination = (await bench.shown())["qt.app.report.1"].destination
        await bench.ask(calls.create_schedule(Outgoing(destination, b"", by_hand)))

    async with bench.life(every(minutes=5)):
        assert (await bench.shown()).keys() == {"qt.app.report.1", "qt.app.by-hand"}
    async with bench.life():
        assert (await bench.shown()).keys() == {"qt.app.by-hand"}


async def test_a_start_changes_what_the_code_says_otherwise_and_keeps_the_rest(bench: Bench) -> None:
    async with bench.life([every(minutes=5), cron("@daily", name="nightly")]):
        before = await bench.shown()
    async with bench.life([every(minutes=7, args=("us",)), cron("@daily", name="nightly")]):
        after = await bench.shown()

    assert after["qt.app.report.1"].cron == "@every 420s"
    assert after["qt.app.report.1"].body != before["qt.app.report.1"].body
    assert after["qt.app.report.nightly"] == before["qt.app.report.nightly"]


async def test_a_pause_by_the_api_outlives_restarts_and_changes(bench: Bench) -> None:
    async with bench.life(every(minutes=5)):
        await bench.ask(calls.pause_schedule("qt.app.report.1"))
    async with bench.life(every(minutes=5)):
        assert (await bench.shown())["qt.app.report.1"].is_paused
    async with bench.life(every(minutes=7)):
        assert (await bench.shown())["qt.app.report.1"].is_paused
        await bench.ask(calls.resume_schedule("qt.app.report.1"))
    async with bench.life(every(minutes=7)):
        assert not (await bench.shown())["qt.app.report.1"].is_paused


async def test_a_pause_in_the_code_begins_and_ends_with_it(bench: Bench) -> None:
    async with bench.life(every(minutes=5, paused=True)):
        paused = (await bench.shown())["qt.app.report.1"]
        await bench.ask(calls.resume_schedule("qt.app.report.1"))
    async with bench.life(every(minutes=5, paused=True)):
        resumed = (await bench.shown())["qt.app.report.1"]
        await bench.ask(calls.pause_schedule("qt.app.report.1"))
    async with bench.life(every(minutes=5)):
        ended = (await bench.shown())["qt.app.report.1"]

    assert (paused.is_paused, resumed.is_paused, ended.is_paused) == (True, False, False)


async def test_the_clock_calls_a_task_each_second_and_each_call_has_a_result(bench: Bench) -> None:
    tasks = bench.app()
    seen: list[Context] = []

    @tasks.task(name="beat", bind=True, schedule=every(seconds=1, args=("us",), name="often"))
    async def beat(context: Context, region: str) -> str:
        seen.append(context)
        return region

    began_at = datetime.now(UTC)
    async with tasks.lifespan():
        await until(lambda: len(seen) > 1)
        first = seen[0]
        value = await tasks.result(first.task_id).aget(SOON_S)

    assert value == "us"
    assert first.scheduled_at is not None
    assert first.scheduled_at.microsecond == 0
    assert first.scheduled_at >= began_at
    assert (first.schedule, first.enqueued_at, first.queue) == ("often", first.scheduled_at, "default")
    assert first.task_id == f"qt.app.beat.often.{round(first.scheduled_at.timestamp() * 1000)}"
    assert len({each.task_id for each in seen}) == len(seen)


async def test_a_schedule_that_skips_waits_for_its_call_to_end(bench: Bench) -> None:
    tasks = bench.app()
    gate = asyncio.Event()
    begun: list[str] = []

    @tasks.task(name="slow", bind=True, schedule=every(seconds=1, overlap="skip"))
    async def slow(context: Context) -> None:
        begun.append(context.task_id)
        await gate.wait()

    async def skipped() -> str | None:
        return (await bench.shown())["qt.app.slow.1"].error

    async with tasks.lifespan():
        reason = await until_found(skipped, bool)
        while_it_ran = len(begun)
        gate.set()
        await until(lambda: len(begun) > 1)

    assert while_it_ran == 1
    assert reason == "skipped: the messages of the fire before have not finished"


async def test_tasks_of_the_module_level_decorator_have_schedules_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process with one app: with two, both would have them called, and so neither starts."""
    monkeypatch.setattr(DEFAULT, "_tasks", {})
    monkeypatch.setattr(CALLERS, "_callers", [])
    task(name="shared", schedule=cron("@daily"))(report)
    first = bench.app()

    async with first.lifespan():
        found = await bench.shown()
    second = bench.app()
    with pytest.raises(ConfigurationError, match="belongs to the process's only QTasks, but there are 2"):
        async with second.lifespan():
            raise AssertionError("it must not start")

    assert found.keys() == {"qt.app.shared.1"}


async def test_two_schedules_of_one_id_keep_the_app_from_starting(bench: Bench) -> None:
    tasks = bench.app(every(hours=1, name="eu.1"))
    tasks.task(name="report.eu", schedule=every(hours=1))(report)

    with pytest.raises(ConfigurationError, match=r"tasks report and report\.eu both have a schedule"):
        async with tasks.lifespan():
            raise AssertionError("it must not start")


async def test_an_annotation_that_never_is_defined_keeps_the_app_from_starting(bench: Bench) -> None:
    tasks = bench.app()
    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\nasync def odd(day: Day = None): ...", namespace)
    tasks.task(name="odd", schedule=cron("@daily"))(namespace["odd"])

    with pytest.raises(TaskDefinitionError, match="Day"):
        async with tasks.lifespan():
            raise AssertionError("it must not start")


async def test_a_schedule_that_is_declared_after_the_start_is_warned_of(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = bench.app()
    async with tasks.lifespan():
        tasks.task(name="late", schedule=cron("@daily"))(report)
        found = await bench.shown()

    assert found == {}
    [record] = [each for each in caplog.records if each.name == "qtasks.schedules"]
    assert record.message.endswith("after the app had started: its schedules begin with the next start")
    assert record.__dict__["task"] == "late"


# --- what differs between homes -------------------------------------------------------------------


async def test_what_is_gone_from_the_code_is_not_even_caught_up_with(store: Path) -> None:
    def counted() -> int:
        with closing(sqlite3.connect(store)) as connection:
            return int(connection.execute("SELECT count(*) FROM messages").fetchone()[0])

    bench = Bench(lambda: embedded(store), _nobody)
    async with bench.life(every(seconds=1)):
        pass
    before = counted()
    await asyncio.sleep(1.1)
    async with bench.life():
        gone = ask_owner(store, calls.schedules())

    assert (counted() - before, gone) == (0, [])


async def test_a_guest_tells_nothing_until_it_takes_over(store: Path) -> None:
    owner, guest = (Bench(lambda: embedded(store), _nobody) for _ in range(2))
    async with owner.life(every(minutes=5)), guest.life(every(minutes=7)):
        before = ask_owner(store, calls.schedules())
    async with guest.life(every(minutes=7)):
        after = ask_owner(store, calls.schedules())

    assert [each.cron for each in before] == ["@every 300s"]
    assert [each.cron for each in after] == ["@every 420s"]


async def _nobody(call: Call[Any]) -> Any:
    raise AssertionError(call)


async def test_several_processes_may_tell_a_broker_at_once(store: Path) -> None:
    async with running_server(server_setup(store)) as said, AsyncClient(url_said(said), TOKEN) as client:
        settings = remote_settings(url_said(said))
        tables = []
        for _ in range(4):
            tasks = QTasks(settings=settings)
            tasks.task(name="report", schedule=[every(minutes=5), cron("@daily")])(report)
            tables.append(tasks._timetable())

        await asyncio.gather(*(synchronise_over(client.send, each) for each in tables))
        found = await client.send(calls.schedules())

    assert [each.schedule_id for each in found] == ["qt.app.report.1", "qt.app.report.2"]


async def test_another_app_of_the_same_name_is_told_so(store: Path) -> None:
    async with running_server(server_setup(store)) as said:
        url = url_said(said)
        first, second = (
            QTasks(settings=remote_settings(url, public_url=f"http://127.0.0.1:{port}")) for port in (8, 9)
        )
        for each in (first, second):
            each.task(name="report", schedule=every(minutes=5))(report)
        second._settings = _with_secret(second)
        async with first.lifespan():
            with pytest.raises(ConfigurationError, match=r"qt\.app\.report\.1 already, which is not this"):
                async with second.lifespan():
                    raise AssertionError("it must not start")


def _with_secret(tasks: QTasks) -> Any:
    return replace(tasks._settings, secrets=("another secret, 0123456789abcdef0123456789",))


async def test_a_broker_that_is_down_keeps_no_app_from_starting_and_is_told_later(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_server(server_setup(store)) as said:
        url = url_said(said)
    port = int(url.rpartition(":")[2])
    tasks = QTasks(settings=remote_settings(url))
    tasks.task(name="report", schedule=every(minutes=5))(report)

    with caplog.at_level(logging.INFO, "qtasks.schedules"):
        async with tasks.lifespan():
            warned = [each.message for each in caplog.records]
            async with running_server(server_setup(store, port=port)), AsyncClient(url, TOKEN) as client:

                async def found() -> list[ScheduleView]:
                    return await client.send(calls.schedules())

                assert [each.cron for each in await until_found(found, bool)] == ["@every 300s"]

    assert warned == ["the broker does not know this app's schedules yet"]
    assert caplog.records[-1].message == "a schedule was made or changed"


async def test_a_forgotten_lifespan_is_made_up_for_by_the_first_request(store: Path) -> None:
    async with running_server(server_setup(store)) as said, AsyncClient(url_said(said), TOKEN) as client:
        tasks = QTasks(settings=remote_settings(url_said(said)))
        tasks.task(name="report", schedule=every(minutes=5))(report)
        async with served(tasks) as address, AsyncClient(address, "a-stranger") as visitor:
            with pytest.raises(Exception, match="not signed"):
                await visitor.send(Call("POST", "/run", lambda body: None))
        found = await client.send(calls.schedules())
        await tasks._home.stop()
        atexit.unregister(tasks._home.abandon)  # or the app would live on, and fire elsewhere

    assert [each.schedule_id for each in found] == ["qt.app.report.1"]
