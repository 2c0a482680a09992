"""Calling tasks off in each home: what waits, by label, name and queue; what runs, over real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount as Route

from qtasks import ArgumentsError, AsyncResult, Context, QTasks, TaskFailed, current
from tests.support.every_home import HOMES, OURS, MakeApp, Mount
from tests.support.homes import (
    SOON_S,
    embedded,
    remote_settings,
    running_server,
    served,
    server_setup,
    until,
    url_said,
)


@pytest.fixture(params=OURS)
async def make(request: pytest.FixtureRequest, store: Path) -> MakeApp:
    return partial(HOMES[request.param], store)


@pytest.fixture
async def app(make: MakeApp) -> AsyncIterator[QTasks]:
    async with make(defaults={"retry_delay": 0.001}) as tasks:
        yield tasks


async def states(*results: AsyncResult[Any]) -> list[str]:
    return [(await each._source.aresult(each.id)).state for each in results]


async def ended(result: AsyncResult[Any]) -> TaskFailed:
    """Wait for a task that does not succeed."""
    with pytest.raises(TaskFailed) as caught:
        await result.aget(SOON_S)
    return caught.value


# --- what waits -----------------------------------------------------------------------------------


def later(task: Any, **options: Any) -> AsyncResult[Any]:
    result: AsyncResult[Any] = task.with_options(**options).apply_async(countdown="1h")
    return result


async def three(app: QTasks) -> list[AsyncResult[Any]]:
    """Enqueue three calls that wait: of two tasks, in two queues, with two labels."""

    @app.task(name="mail", aliases=["post"])
    async def mail() -> None: ...

    @app.task(name="video", queue="slow")
    async def video() -> None: ...

    make = (partial(later, mail, label="red"), partial(later, video, label=["red", "tall"]))
    return [await asyncio.to_thread(each) for each in (*make, partial(later, mail, label="blue"))]


@pytest.mark.parametrize(
    ("wanted", "which"),
    [
        ({"label": "red"}, [0, 1]),
        ({"label": ["tall", "blue"]}, [1, 2]),
        ({"task": "mail"}, [0, 2]),
        ({"queue": "slow"}, [1]),
        ({"task": "mail", "label": "red"}, [0]),
        ({"task": "nothing"}, []),
        ({"task": "mail", "queue": "slow"}, []),
    ],
    ids=str,
)
async def test_what_waits_is_called_off_by_what_is_said_of_it(
    app: QTasks, wanted: dict[str, Any], which: list[int]
) -> None:
    results = await three(app)

    count = await app.acancel(**wanted)

    assert count == len(which)
    assert await states(*results) == [
        "CANCELLED" if number in which else "SCHEDULED" for number in range(len(results))
    ]


async def test_a_task_stands_for_its_old_names_too(app: QTasks) -> None:
    await three(app)
    [mail] = [each for each in app._registry if each.name == "mail"]
    before = await asyncio.to_thread(later, mail)
    mail.name, mail.aliases = "letter", ("mail", "post")  # as the next version of the app has it

    assert await app.acancel(task=mail) == 3
    assert await states(before) == ["CANCELLED"]


async def test_what_is_called_off_twice_counts_once(app: QTasks) -> None:
    await three(app)

    assert [await app.acancel(label="red"), await app.acancel(label="red")] == [2, 0]


async def test_the_tasks_of_other_apps_are_left_alone(store: Path) -> None:
    first, second = Mount(), Mount()
    async with running_server(server_setup(store)) as said, served(first) as one, served(second) as two:
        first.app = QTasks(settings=remote_settings(url_said(said), public_url=one))
        second.app = QTasks(settings=remote_settings(url_said(said), public_url=two))
        async with first.app.lifespan(), second.app.lifespan():
            mine, theirs = await three(first.app), await three(second.app)

            assert await first.app.acancel(label=["red", "blue"]) == 3
            assert await states(*mine, *theirs) == ["CANCELLED"] * 3 + ["SCHEDULED"] * 3


def test_a_script_calls_off_as_well(store: Path) -> None:
    app = embedded(store)

    @app.task(label="red")
    def job() -> None: ...

    result = job.apply_async(countdown="1h")

    assert (app.cancel(label="red"), result.state) == (1, "CANCELLED")


@pytest.mark.parametrize(
    "wanted",
    [{}, {"label": ""}, {"label": None, "task": "mail"}, {"task": ""}, {"queue": [""]}, {"tag": "x"}],
)
def test_nothing_stands_for_everything(store: Path, wanted: dict[str, Any]) -> None:
    with pytest.raises(ArgumentsError, match=r"cancel\("):
        embedded(store).cancel(**wanted)


# --- what runs ------------------------------------------------------------------------------------


async def test_a_coroutine_that_runs_is_cancelled(app: QTasks) -> None:
    seen: list[object] = []

    @app.task(name="job", retries=5)
    async def job() -> None:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(current().cancelled)

    result = await job.adelay()
    await until(lambda: seen)
    count = await app.acancel(task="job")
    error = await ended(result)
    await until(lambda: len(seen) == 2)

    assert (count, seen) == (1, ["begun", True])
    assert (error.state, error.type) == ("CANCELLED", "Cancelled")
    assert (await result._source.aresult(result.id)).attempts == 1


async def test_a_function_that_runs_can_see_it(app: QTasks) -> None:
    seen: list[object] = []

    @app.task(bind=True, label="red")
    def job(context: Context) -> None:
        seen.append("begun")
        while not context.cancelled:
            threading.Event().wait(0.002)
        seen.append("stopped")
        raise RuntimeError("stopped")

    result = await job.adelay()
    await until(lambda: seen)
    await app.acancel(label="red")
    error = await ended(result)
    await until(lambda: len(seen) == 2)

    assert (error.state, error.type, seen) == ("CANCELLED", "Cancelled", ["begun", "stopped"])


async def test_a_shielded_section_that_runs_comes_to_its_end(app: QTasks) -> None:
    seen: list[object] = []
    contexts: list[Context] = []
    may_end = asyncio.Event()

    @app.task(bind=True, label="red")
    async def job(context: Context) -> None:
        contexts.append(context)
        with context.shield():
            seen.append("begun")
            await may_end.wait()
            seen.append("paid")
        seen.append("never")

    result = await job.adelay()
    await until(lambda: seen)
    await app.acancel(label="red")
    await until(lambda: contexts[0].cancelled)
    may_end.set()

    assert (await ended(result)).state == "CANCELLED"
    await until(lambda: not app._get_executor().running)
    assert seen == ["begun", "paid"]


async def test_only_one_of_those_that_run_together_is_called_off(app: QTasks) -> None:
    begun = 0
    may_end = asyncio.Event()

    @app.task
    async def job(number: int) -> int:
        nonlocal begun
        begun += 1
        await may_end.wait()
        return number

    results = [await job.with_options(label=f"number{number}").adelay(number) for number in range(3)]
    await until(lambda: begun == 3)
    await app.acancel(label="number1")
    assert (await ended(results[1])).state == "CANCELLED"
    assert await states(*results) == ["RUNNING", "CANCELLED", "RUNNING"]
    may_end.set()

    assert [await results[number].aget(SOON_S) for number in (0, 2)] == [0, 2]


async def test_in_process_the_state_waits_for_the_real_end(store: Path) -> None:
    app = embedded(store)
    begun, may_end = threading.Event(), threading.Event()

    @app.task(label="red")
    def job() -> str:
        begun.set()
        may_end.wait(SOON_S)
        return "done all the same"

    async with app.lifespan():
        result = await job.adelay()
        assert await asyncio.to_thread(begun.wait, SOON_S)
        await app.acancel(label="red")
        assert await states(result) == ["RUNNING"]
        may_end.set()

        assert await result.aget(SOON_S) == "done all the same"


# --- requests that are dropped --------------------------------------------------------------------


async def _outer(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


async def test_a_request_is_dropped_through_middleware(store: Path) -> None:
    seen: list[str] = []
    mount = Mount()
    outer = Starlette(
        routes=[Route("/qtasks", mount)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=_outer)]
    )
    async with running_server(server_setup(store)) as said, served(outer) as address:
        app = mount.app = QTasks(settings=remote_settings(url_said(said), public_url=f"{address}/qtasks"))

        @app.task(label="red")
        async def job() -> None:
            seen.append("begun")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        result = await job.adelay()
        await until(lambda: seen)
        await app.acancel(label="red")

        assert (await ended(result)).state == "CANCELLED"
        await until(lambda: len(seen) == 2)
    assert seen == ["begun", "cancelled"]


async def test_a_broker_that_dies_in_the_middle_calls_its_attempts_off(store: Path) -> None:
    seen: list[str] = []
    mount = Mount()
    async with served(mount) as address:
        async with running_server(server_setup(store)) as said:
            app = mount.app = QTasks(settings=remote_settings(url_said(said), public_url=address))

            @app.task
            async def job() -> None:
                seen.append("begun")
                try:
                    await asyncio.Event().wait()
                finally:
                    seen.append("cancelled")

            result = await job.adelay()
            await until(lambda: seen)
            assert await states(result) == ["RUNNING"]
        await until(lambda: len(seen) == 2)  # it let go after its grace, and hands the message back

    assert seen == ["begun", "cancelled"]
