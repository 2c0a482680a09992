"""Schedules in code with hosted QStash, for which our broker in strict mode stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from qtasks import Context, Periodic, QTasks, UnsupportedByBroker, cron, every
from qtasks.broker.config import BrokerConfig, strict_config
from qtasks.client import calls
from qtasks.client.clients import AsyncClient
from qtasks.clock import SystemClock
from qtasks.protocol.resources import ScheduleView
from tests.support.homes import (
    SOON_S,
    TOKEN,
    remote_settings,
    running_server,
    served,
    server_setup,
    until,
    url_said,
)

MINUTE_MS = 60_000


class Shifted(SystemClock):
    """The clock of the machine, set forward by a test: for the broker and the app alike."""

    by_ms = 0

    def now(self) -> int:
        return super().now() + self.by_ms

    def to_the_next_minute(self) -> None:
        self.by_ms += MINUTE_MS - self.now() % MINUTE_MS


class Bench:
    """A strict broker, on which apps start one after the other; `app` is the one that it reaches."""

    app: QTasks

    def __init__(self, url: str, address: str, results: Path, clock: Shifted, client: AsyncClient) -> None:
        self.clock = clock
        self._settings = remote_settings(f"qstash+{url}", public_url=address)
        self._results = f"sqlite:///{results}"
        self._client = client

    @asynccontextmanager
    async def life(self, schedule: Periodic | Sequence[Periodic] = ()) -> AsyncIterator[list[Context]]:
        """Run an app whose task has these schedules; gives the contexts of its calls."""
        self.app = QTasks(settings=self._settings, results=self._results, clock=self.clock)
        seen: list[Context] = []

        @self.app.task(name="report", bind=True, schedule=schedule)
        async def report(context: Context, region: str = "eu") -> str:
            seen.append(context)
            return region

        async with self.app.lifespan():
            yield seen

    async def shown(self) -> dict[str, ScheduleView]:
        return {each.schedule_id: each for each in await self._client.send(calls.schedules())}


class Mount:
    bench: Bench

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.bench.app(scope, receive, send)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    mount, clock = Mount(), Shifted()
    setup = server_setup(tmp_path / "q.db", config=strict_config(BrokerConfig(grace_ms=2000)))
    async with (
        running_server(setup, clock) as said,
        served(mount) as address,
        AsyncClient(url_said(said), TOKEN) as client,
    ):
        mount.bench = Bench(url_said(said), address, tmp_path / "results.db", clock, client)
        yield mount.bench


async def test_schedules_are_told_as_cron_expressions_and_removed_again(bench: Bench) -> None:
    async with bench.life([every(minutes=5), cron("0 9 * * mon-fri", tz="Europe/Paris", name="nine")]):
        first = await bench.shown()
    async with bench.life(every(minutes=5)):
        second = await bench.shown()

    assert {id_: each.cron for id_, each in first.items()} == {
        "qt.app.report.1": "*/5 * * * *",
        "qt.app.report.nine": "CRON_TZ=Europe/Paris 0 9 * * mon-fri",
    }
    assert second == {"qt.app.report.1": first["qt.app.report.1"]}
    assert (first["qt.app.report.1"].flow_control_key, first["qt.app.report.1"].queue_name) == (
        "default",
        None,
    )


async def test_a_call_by_the_clock_runs_and_its_result_is_kept_under_the_message_id(bench: Bench) -> None:
    async with bench.life(every(minutes=1, args=("us",))) as seen:
        bench.clock.to_the_next_minute()
        await until(lambda: seen)
        [context] = seen
        value = await bench.app.result(context.task_id).aget(SOON_S)

    assert value == "us"
    assert (context.schedule, context.scheduled_at) == ("1", None)
    assert context.task_id == context.message_id


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (every(seconds=30), r"none fires every 30 s, as schedule qt\.app\.report\.1 of task report asks"),
        (cron("@daily", overlap="skip"), "cannot do overlap='skip'"),
        (cron("@daily", catch_up="all"), "cannot do catch_up='all'"),
    ],
)
async def test_what_it_cannot_do_keeps_the_app_from_starting(
    bench: Bench, schedule: Periodic, text: str
) -> None:
    with pytest.raises(UnsupportedByBroker, match=text):
        async with bench.life(schedule):
            raise AssertionError("it must not start")

    assert await bench.shown() == {}
