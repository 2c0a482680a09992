"""Tasks that go on in another message under their id: with other arguments, or after days."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qtasks import Context, QTasks, Retry, TaskFailed
from tests.support.every_home import HOMES, OURS
from tests.support.homes import SOON_S, until_found


@pytest.fixture(params=HOMES)
async def app(request: pytest.FixtureRequest, store: Path) -> AsyncIterator[QTasks]:
    async with partial(HOMES[request.param], store)(defaults={"retry_delay": 0.001}) as tasks:
        yield tasks


async def test_a_retry_with_other_arguments_runs_with_them_under_the_same_id(app: QTasks) -> None:
    seen: list[tuple[str, str, int, int]] = []

    @app.task(bind=True, retries=3)
    async def function(context: Context, left: int, note: str = "first") -> str:
        seen.append((context.task_id, note, left, context.attempt))
        if left:
            context.retry(args=[left - 1], kwargs={"note": f"{left} left"})
        return note

    result = await function.adelay(2)

    assert await result.aget(SOON_S) == "1 left"
    assert [each[1:] for each in seen] == [("first", 2, 1), ("2 left", 1, 2), ("1 left", 0, 3)]
    assert {each[0] for each in seen} == {result.id}


async def test_what_a_retry_does_not_name_stays(app: QTasks) -> None:
    @app.task(bind=True)
    def function(context: Context, name: str, size: int = 1) -> list[Any]:
        if context.attempt == 1:
            context.retry(kwargs={"size": 5})
        return [name, size]

    assert await (await function.adelay("a")).aget(SOON_S) == ["a", 5]


async def test_retries_with_other_arguments_are_spent_like_others(app: QTasks) -> None:
    ran: list[int] = []

    @app.task(bind=True, retries=2)
    def function(context: Context, number: int) -> None:
        ran.append(number)
        if number == 2:
            raise ValueError("between")
        context.retry(args=[number + 1])

    result = await function.adelay(1)

    with pytest.raises(TaskFailed, match="ValueError: between"):
        await result.aget(SOON_S)
    assert ran == [1, 2, 2]


@pytest.mark.parametrize("app", OURS, indirect=True)
async def test_a_retry_after_days_is_scheduled(app: QTasks) -> None:
    @app.task(bind=True)
    def function(context: Context) -> None:
        context.retry(countdown="3d")

    result = await function.adelay()
    found = await until_found(
        lambda: result._source.aresult(result.id), lambda view: view.state == "SCHEDULED"
    )

    assert (found.attempts, found.is_final) == (0, False)


async def test_a_retry_with_arguments_that_do_not_fit_fails_as_any_other_mistake(app: QTasks) -> None:
    @app.task(retries=0)
    def function(number: int) -> None:
        raise Retry(args=["many", 5])

    result = await function.adelay(1)

    with pytest.raises(TaskFailed) as caught:
        await result.aget(SOON_S)
    assert caught.value.state == "FAILED"


async def test_a_mistake_in_other_arguments_names_it(app: QTasks) -> None:
    told: list[str] = []

    @app.task(bind=True, retries=1, on_retry=lambda context, error: told.append(str(error)))
    def function(context: Context, number: int) -> None:
        context.retry(args=["many"])

    result = await function.adelay(1)

    with pytest.raises(TaskFailed):
        await result.aget(SOON_S)
    assert told == ["number: expected int, got str"]


@pytest.mark.parametrize("app", OURS, indirect=True)
async def test_a_replay_knows_that_it_is_one(app: QTasks) -> None:
    """Of both homes, so over the API: nothing else runs dead letters again."""
    seen: list[bool] = []

    @app.task(bind=True, retries=0)
    def function(context: Context) -> str:
        seen.append(context.is_replay)
        if len(seen) == 1:
            raise ValueError("first")
        return "second"

    result = await function.adelay()
    with pytest.raises(TaskFailed):
        await result.aget(SOON_S)
    await replay_all(app)

    assert await result.aget(SOON_S) == "second"
    assert seen == [False, True]


async def replay_all(app: QTasks) -> None:
    from qtasks.home.embedded import EmbeddedHome
    from qtasks.home.shared import SharedHome
    from qtasks.protocol.headers import Options

    if isinstance(app._home, EmbeddedHome | SharedHome):
        engine = app._home._owner if isinstance(app._home, EmbeddedHome) else app._home._engine
        assert engine is not None
        broker = engine.broker
        letters, _ = broker.dead_letters(None, 10)
        broker.replay(letters[0].dlq_id, Options())
        return
    from qtasks.client import calls
    from qtasks.client.clients import AsyncClient

    settings = app._settings
    async with AsyncClient(settings.broker, settings.token or "") as client:
        page = await client.send(calls.dead_letters())
        await client.send(calls.replay(page.items[0].dlq_id))


async def test_the_headers_of_a_delivery_are_there_to_read(app: QTasks) -> None:
    @app.task(bind=True)
    def function(context: Context) -> list[str]:
        return sorted(set(context.headers) & {"content-type", "qtasks-signature"})

    assert await (await function.adelay()).aget(SOON_S) == ["content-type", "qtasks-signature"]


async def test_a_hook_that_breaks_is_logged_and_changes_nothing(
    app: QTasks, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(context: Context, result: object) -> None:
        raise ValueError("the hook is broken")

    @app.task(name="ours", on_success=hook)
    async def function() -> int:
        return 5

    assert await (await function.adelay()).aget(SOON_S) == 5
    [record] = [each for each in caplog.records if each.name == "qtasks.task" and each.levelname == "ERROR"]
    assert (record.getMessage(), record.__dict__["task"], record.__dict__["hook"]) == (
        "a hook of a task broke",
        "ours",
        "on_success",
    )


async def test_a_hook_may_ask_for_the_context_and_call_tasks(app: QTasks) -> None:
    from qtasks import current

    called: list[Any] = []
    ran: list[int] = []

    @app.task
    def second(number: int) -> None:
        ran.append(number)

    async def hook(context: Context, result: int) -> None:
        assert current() is context
        called.append(await second.adelay(result))

    @app.task(on_success=hook)
    async def function() -> int:
        return 5

    await (await function.adelay()).aget(SOON_S)
    await called[0].aget(SOON_S)

    assert ran == [5]
