"""Buffered calls in every home, and at the end of the app and of the process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qtasks import QTasks
from qtasks.testing import Kit
from tests.support.every_home import MakeApp, in_embedded, in_hosted, in_postgres, in_standalone
from tests.support.homes import SOON_S, embedded

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("home", [in_embedded, in_standalone, in_hosted, in_postgres])
async def test_buffered_calls_run_wherever_the_broker_is(store: Path, home: MakeApp) -> None:
    async with home(store) as tasks:

        @tasks.task
        async def double(number: int) -> int:
            return 2 * number

        async with tasks.buffered(size=50, ms=5) as buffer:
            calls = [await buffer.adelay(double, n) for n in range(120)]
            first = await calls[0]

        assert first.id == calls[0].id
        assert [await each.result().aget(SOON_S) for each in calls] == [2 * n for n in range(120)]


async def test_a_guest_s_buffered_calls_reach_the_owner(store: Path) -> None:
    async with in_embedded(store) as owner:

        @owner.task(name="double")
        async def double(number: int) -> int:
            return 2 * number

        guest = embedded(store)

        @guest.task(name="double")
        async def twin(number: int) -> int:
            raise AssertionError(number)

        async with guest.buffered() as buffer:
            calls = [buffer.delay(twin, n) for n in range(20)]

        assert [await owner.result(each.id).aget(SOON_S) for each in calls] == [2 * n for n in range(20)]


async def test_what_waits_at_the_end_of_the_lifespan_is_sent(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def note(number: int) -> None: ...

    buffer = tasks.buffered(ms=3_600_000)
    async with tasks.lifespan():
        call = buffer.delay(note, 1)

    assert call.done()
    assert call.result(0).state in ("QUEUED", "SUCCEEDED")


async def test_a_collect_block_does_not_hold_buffered_calls_and_a_transaction_refuses_them(
    store: Path,
) -> None:
    tasks = embedded(store)

    @tasks.task
    async def note() -> None: ...

    buffer = tasks.buffered()
    async with tasks.collect():
        call = buffer.delay(note)
        await buffer.aflush()
        assert call.result(0).state == "QUEUED"
    with tasks.transaction(object()), pytest.raises(RuntimeError, match="transaction"):
        buffer.delay(note)


def test_under_test_a_buffered_call_is_there_at_once() -> None:
    tasks = QTasks("sqlite:///unused.db")
    buffer = tasks.buffered(ms=3_600_000)

    @tasks.task
    def double(number: int) -> int:
        return 2 * number

    with Kit() as kit:
        call = buffer.delay(double, 4)
        assert call.done()
        kit.drain()
        assert call.result().result == 8


SCRIPT = """
import sys
from qtasks import QTasks
tasks = QTasks()
@tasks.task(name="note")
def note(number: int) -> None: ...
buffer = tasks.buffered(ms=3_600_000)
print(*[buffer.delay(note, n).id for n in range(20)])
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ZeroDivisionError"])
def test_what_waits_at_the_end_of_the_process_is_sent(store: Path, end: str) -> None:
    env = os.environ | {"QTASKS_BROKER": f"sqlite:///{store}", "PYTHONPATH": str(ROOT)}

    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)], env=env, capture_output=True, text=True, timeout=60
    )

    ids = ran.stdout.split()
    tasks = embedded(store)
    assert len(ids) == 20, ran.stderr
    assert {asyncio.run(tasks._home.aresult(each)).state for each in ids} == {"QUEUED"}
