"""Calling tasks off in a kit: those that wait, and one that runs."""

from __future__ import annotations

import asyncio

import pytest

from qtasks import Context, QTasks, TaskFailed
from qtasks.testing import Drained, Kit


@pytest.fixture
def app(kit: Kit) -> QTasks:
    return QTasks()


def test_what_waits_is_called_off(kit: Kit, app: QTasks) -> None:
    @app.task(label="red")
    def job() -> None: ...

    result = job.apply_async(countdown="1h")

    assert (app.cancel(label="red"), result.state) == (1, "CANCELLED")
    assert kit.advance(hours=2) == Drained()


def test_a_task_that_runs_is_called_off(kit: Kit, app: QTasks) -> None:
    seen: list[str] = []

    @app.task(name="job", bind=True, retries=3)
    async def job(context: Context) -> None:
        assert await app.acancel(task="job") == 1
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"cancelled: {context.cancelled}")

    result = job.delay()
    drained = kit.drain()

    assert (drained, seen) == (Drained(delivered=1, dead=1), ["cancelled: True"])
    with pytest.raises(TaskFailed, match="is CANCELLED: Cancelled: cancelled"):
        result.get()
