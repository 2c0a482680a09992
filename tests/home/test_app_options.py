"""Options where they are set: at the call, the decorator, the queue, the app; the nearest wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qtasks import ConfigurationError, QTasks, Queue, TaskFailed, task
from qtasks.client import calls
from qtasks.tasks.default import DEFAULT
from tests.support.homes import SOON_S, ask_owner, embedded


def plain() -> None:
    """A function of a module."""


def layered(store: Path) -> QTasks:
    """Make an app that says something of all its tasks, and more of those in one queue."""
    return embedded(
        store,
        defaults={"retries": 1, "timeout": "1m", "label": "app", "queue": "usual"},
        queues={"mail": Queue(retries=2, timeout=20), "video": Queue(parallelism=2, retry_delay=5)},
    )


def test_the_nearest_option_wins(store: Path) -> None:
    tasks = layered(store)

    bare = tasks.task(name="bare")(plain).options
    queued = tasks.task(name="queued", queue="mail")(plain).options
    told = tasks.task(name="told", queue="mail", retries=3)(plain).options

    assert (bare.queue, bare.retries, bare.timeout_ms, bare.labels) == ("usual", 1, 60_000, ("app",))
    assert (queued.queue, queued.retries, queued.timeout_ms, queued.labels) == ("mail", 2, 20_000, ("app",))
    assert (told.retries, told.timeout_ms, told.result_ttl_ms) == (3, 20_000, 86_400_000)


def test_a_call_into_another_queue_has_the_options_of_that_queue(store: Path) -> None:
    first = layered(store).task(name="first", queue="mail", label="its own")(plain)

    moved = first.with_options(queue="video").options

    assert (moved.queue, moved.retries, moved.retry_delay) == ("video", 1, "5000")
    assert (moved.labels, first.with_options(label=["a", "b"]).options.labels) == (("its own",), ("a", "b"))


async def test_a_module_level_task_learns_the_options_of_its_app(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = layered(store)
    monkeypatch.setattr(DEFAULT, "_tasks", {})
    ours = task(name="tests.ours", queue="mail")(plain)
    before = ours.options

    async with tasks.lifespan():
        ask_owner(store, calls.set_queue("mail", paused=True))
        tasks._caller.send(ours, (), {})
        [entry] = ask_owner(store, calls.log()).items

    assert (before.retries, ours.options.retries) == (3, 2)
    assert (entry.max_retries, entry.labels) == (2, ("app",))


async def test_labels_of_a_task_are_those_of_its_message(store: Path) -> None:
    tasks = embedded(store)
    ours = tasks.task(name="ours", label=["blue", "tall"])(plain)

    async with tasks.lifespan():
        ask_owner(store, calls.set_queue("default", paused=True))
        ours.delay()
        ours.with_options(label="red").delay()
        labels = [each.labels for each in ask_owner(store, calls.log()).items]

    assert labels == [("red",), ("blue", "tall")]


@pytest.mark.parametrize(
    ("defaults", "text"),
    [
        ({"retrys": 1}, r"unknown option 'retrys'; did you mean 'retries'\?"),
        ({"retries": -1}, "retries=-1 is not possible"),
        ({"name": "x"}, "'name' is an option of the decorator alone"),
    ],
)
def test_defaults_that_cannot_be_are_refused(store: Path, defaults: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"QTasks\(defaults=\.\.\.\): {text}"):
        embedded(store, defaults=defaults)


def test_options_of_a_queue_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Queue\(\): retries=-1 is not possible"):
        Queue(retries=-1)
    with pytest.raises(ConfigurationError, match=r"Queue\(\): timeout='soon'"):
        Queue(timeout="soon")


async def test_a_call_under_an_old_name_runs_the_renamed_task(store: Path) -> None:
    before, after = embedded(store), embedded(store)

    @before.task(name="greet")
    async def old(name: str) -> str:
        raise AssertionError(name)

    @after.task(name="welcome", aliases=["greet", "hail"])
    async def new(name: str) -> str:
        return f"welcome {name}"

    result = old.delay("Ada")
    async with after.lifespan():
        assert await result.aget(SOON_S) == "welcome Ada"


async def test_an_exception_that_is_not_worth_a_retry_is_a_dead_letter_at_once(store: Path) -> None:
    tasks = embedded(store, queues={"files": Queue(no_retry_on=FileNotFoundError)})
    runs: list[str] = []

    @tasks.task(queue="files", retry_on=OSError, retries=1, retry_delay=0.01)
    async def read(path: str) -> None:
        runs.append(path)
        raise FileNotFoundError(path) if path == "gone" else ConnectionError(path)

    async with tasks.lifespan():
        results = [await read.adelay(path) for path in ("gone", "far")]
        for result in results:
            with pytest.raises(TaskFailed):
                await result.aget(SOON_S)
        letters = ask_owner(store, calls.dead_letters()).items

    assert sorted(runs) == ["far", "far", "gone"]
    assert len(letters) == 2
