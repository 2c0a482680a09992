"""Calls that one version of an app has enqueued and another one runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qtasks import ConfigurationError, Context, QTasks, TaskFailed
from qtasks.client import calls
from tests.support.homes import SOON_S, ask_owner, embedded


def version_2(store: Path) -> QTasks:
    """Make an app whose task once took a name, and now takes an id."""
    tasks = embedded(store)

    @tasks.task(name="greet", version=2, bind=True)
    def greet(context: Context, user: int) -> str:
        if context.attempt == 1:
            context.retry(countdown=0, kwargs={"user": user + 1}, args=())
        return f"user {user}"

    @greet.upgrade(from_version=1)
    def _(name: str) -> Mapping[str, Any]:
        return {"user": len(name)}

    return tasks


async def test_what_an_older_version_enqueued_is_upgraded_once(store: Path) -> None:
    before = embedded(store)

    @before.task(name="greet")
    def greet(name: str) -> None:
        """What it was."""

    result = greet.delay("Ann")
    now = version_2(store)
    async with now.lifespan():
        value = await now.result(result.id).aget(SOON_S)

    assert value == "user 4"  # the retry goes on with arguments of today


async def test_what_this_version_enqueues_says_so(store: Path) -> None:
    tasks = version_2(store)
    async with tasks.lifespan():
        await (await tasks.asend("greet", 7)).aget(SOON_S)
        [first, *_] = [each for each in ask_owner(store, calls.log()).items if each.state == "CREATED"]

    assert b'"version":2' in first.body


async def test_a_call_from_elsewhere_is_of_the_first_version(store: Path) -> None:
    elsewhere = embedded(store)
    result = elsewhere.send("greet", "Bob")
    tasks = version_2(store)
    async with tasks.lifespan():
        assert await tasks.result(result.id).aget(SOON_S) == "user 4"


async def test_the_window_of_unknown_tasks_is_the_apps_to_say(store: Path) -> None:
    tasks = embedded(store, unknown_task_window=0)
    async with tasks.lifespan():
        with pytest.raises(TaskFailed, match="UnknownTask: no task is named 'missing' here") as failed:
            await (await tasks.asend("missing")).aget(SOON_S)

    assert (failed.value.type, failed.value.state) == ("UnknownTask", "FAILED")


@pytest.mark.parametrize("window", ["soon", -1, None])
def test_a_window_is_a_span(store: Path, window: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"QTasks\(unknown_task_window="):
        embedded(store, unknown_task_window=window)
