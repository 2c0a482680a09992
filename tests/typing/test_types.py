"""What the type checkers see: right calls pass with the right types, wrong ones are errors.

`assert_type` does nothing when run; the checkers run over this file with all others. The wrong calls
stand in `wrong_calls.py`, each marked with the error that mypy must report on its line, and no other;
pyright must find some error on each of these lines.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any, assert_type

from fastapi import Depends
from sqlalchemy.orm import Session

from qtasks import (
    AsyncResult,
    Buffer,
    BufferedCall,
    Context,
    Progress,
    QTasks,
    Queue,
    RemoteError,
    TaskInfo,
    as_completed,
    cron,
    current,
    every,
    task,
    track,
)
from qtasks.integrations.sqlalchemy import delay_on_commit
from tests.support import ROOT, require

WRONG = Path(__file__).with_name("wrong_calls.py")

tasks = QTasks("sqlite:///never_opened.db", queues={"mail": Queue(parallelism=2)})


@tasks.task
def add(a: int, b: int = 2) -> int:
    return a + b


@tasks.task(queue="mail", retries=5)
async def greet(name: str, *, loud: bool = False) -> str:
    return name.upper() if loud else name


def scheduled() -> None:
    """Is never called: a schedule of an app that lives on would fire in tests of other things."""
    app = QTasks("sqlite:///never_opened.db")

    @app.task(schedule=[cron("@daily", args=("Ada",)), every(hours=1, kwargs={"name": "Bo"})])
    async def greet(name: str) -> str:
        return name

    assert_type(greet.delay("Ada"), AsyncResult[str])


@task(name="tests.typing.halve", retry_delay="10s")
def halve(n: int) -> float:
    return n / 2


@tasks.task(bind=True, queue="mail")
def count(context: Context, items: list[str], *, step: int = 1) -> int:
    return context.attempt * step * len(items)


@task(name="tests.typing.fetch", bind=True)
async def fetch(context: Context, url: str) -> bytes:
    return url.encode()


@task(name="tests.typing.mixed_right")
def mixed(first: int, /, second: str = "", *rest: float, named: bool, other: bytes = b"") -> list[int]:
    return [first]


@tasks.task(bind=False, retries=1)
def halve_again(n: int) -> float:
    return n / 2


@tasks.around
def hook(context: Context) -> Iterator[None]:
    yield


@tasks.around
async def async_hook(context: Context) -> AsyncIterator[None]:
    yield


def types_of_hooks() -> None:
    assert_type(hook(current()), Iterator[None])
    assert_type(async_hook(current()), AsyncIterator[None])


def get_factor() -> float:
    return 2.0


@tasks.task
def scale(n: int, factor: float = Depends(get_factor)) -> float:
    return n * factor


def types_of_a_function_with_dependencies() -> None:
    assert_type(scale.delay(3), AsyncResult[float])
    assert_type(scale(3, factor=0.5), float)
    assert_type(scale.delay_many([scale.call(3)]), list[AsyncResult[float]])


def types_of_a_bound_function() -> None:
    assert_type(count(["a"]), int)
    assert_type(count.delay(["a"], step=2), AsyncResult[int])
    assert_type(count.delay_many([count.call(["a"])]), list[AsyncResult[int]])
    assert_type(halve_again.delay(1), AsyncResult[float])
    assert_type(current(), Context)


def types_of_mixed_parameters() -> None:
    assert_type(mixed(1, named=True), list[int])
    assert_type(mixed.delay(1, named=True), AsyncResult[list[int]])
    assert_type(mixed.delay(1, "b", 1.5, 2.5, named=True, other=b"c").get(), list[int])
    assert_type(mixed.with_options(retries=0).delay(1, second="b", named=True).get(), list[int])
    assert_type(mixed.delay_many([mixed.call(1, "b", named=False)])[0].get(), list[int])


async def types_of_a_bound_coroutine() -> None:
    assert_type(await fetch("a"), bytes)
    assert_type(await fetch.adelay("a"), AsyncResult[bytes])
    assert_type(await fetch.with_options(retries=0).adelay(url="a"), AsyncResult[bytes])
    assert_type(await fetch.adelay_many([fetch.call("a")]), list[AsyncResult[bytes]])
    assert_type(await (await fetch.adelay("a")).aget(timeout=1), bytes)


def types_of_a_plain_function() -> None:
    assert_type(add(1), int)
    assert_type(add.delay(1, b=3), AsyncResult[int])
    assert_type(add.delay(1).get(timeout=1), int)
    assert_type(add.with_options(retries=0).delay(1), AsyncResult[int])
    assert_type(add.apply_async((1,), countdown=5, queue="mail"), AsyncResult[int])
    assert_type(halve.delay(3), AsyncResult[float])
    assert_type(add.delay_many(add.call(n, b=n) for n in range(3)), list[AsyncResult[int]])
    assert_type(add.with_options(retries=0).delay_many([add.call(1)]), list[AsyncResult[int]])
    assert_type(tasks.send("elsewhere", 1, b=2), AsyncResult[Any])


def types_of_buffered_calls() -> None:
    with tasks.buffered(size=10, ms=1) as buffer:
        assert_type(buffer, Buffer)
        assert_type(buffer.delay(add, 1, b=3), BufferedCall[int])
        assert_type(buffer.delay(greet, "a", loud=True).result(timeout=1), AsyncResult[str])
        assert_type(buffer.delay(count.with_options(retries=0), ["a"]).future(), Future[AsyncResult[int]])
        assert_type(buffer.apply_async(add, (1,), countdown=5, queue="mail"), BufferedCall[int])


async def types_of_awaited_buffered_calls() -> None:
    async with tasks.buffered() as buffer:
        assert_type(await buffer.adelay(fetch, "a"), BufferedCall[bytes])
        assert_type(await (await buffer.adelay(greet, "a")), AsyncResult[str])
        assert_type(await buffer.aapply_async(greet, ("a",)), BufferedCall[str])


async def types_of_a_coroutine() -> None:
    await assert_type(greet("a", loud=True), Coroutine[Any, Any, str])
    assert_type(await greet("a"), str)
    assert_type(greet.delay("a"), AsyncResult[str])
    assert_type(await greet.adelay("a", loud=True), AsyncResult[str])
    assert_type(await (await greet.adelay("a")).aget(), str)
    assert_type(await greet.adelay_many([greet.call("a", loud=True)]), list[AsyncResult[str]])
    assert_type(await greet.with_options(queue="slow").adelay("a"), AsyncResult[str])


def takes_anything(result: AsyncResult[object]) -> None: ...


def types_of_results() -> None:
    result = add.delay(1)
    assert_type(result.result, int | None)
    assert_type(result.info(), TaskInfo[int])
    assert_type(result.info().result, int | None)
    assert_type(result.error, RemoteError | None)
    assert_type(result.progress, Progress | None)
    assert_type(result.get(timeout=1, allow_in_task=True), int)
    assert_type(result.cancel(), bool)
    takes_anything(result)
    for each in as_completed([result, result], timeout=1):
        assert_type(each, AsyncResult[int])


async def types_of_awaited_results() -> None:
    result = await greet.adelay("a")
    assert_type(await result.ainfo(), TaskInfo[str])
    assert_type(await result.acancel(), bool)
    async for each in as_completed([result]):
        assert_type(await each.aget(timeout=0), str)


async def types_of_calls_in_transactions(connection: object, context: Context) -> None:
    assert_type(add.delay_in(connection, 1, b=2), AsyncResult[int])
    assert_type(await greet.adelay_in(connection, "a", loud=True), AsyncResult[str])
    with tasks.transaction(connection):
        add.delay(1)
    async with tasks.transaction(connection), context.once(connection) as fresh:
        assert_type(bool(fresh), bool)
    with context.once(connection, "charge") as charge:
        assert_type(charge.is_fresh, bool)
    delay_on_commit(Session(), greet, "a", loud=True)


def types_of_tracked_loops(rows: list[bytes], stream: AsyncIterator[bytes]) -> None:
    assert_type(track(rows, "Importing"), Iterator[bytes])
    assert_type(track(stream, total=3), AsyncIterator[bytes])


def types_of_options() -> None:
    QTasks(defaults={"retries": 5, "label": ["a", "b"], "no_retry_on": (KeyError, OSError)})
    Queue(retries=1, retry_delay="10s", label="mail", retry_on=OSError)
    tasks.task(aliases=["old"], retry_on=(OSError,), label="a")(add.function)
    add.with_options(label=("a", "b"))


def test_a_task_keeps_the_parameters_of_its_function_at_run_time_too() -> None:
    assert add(1, b=3) == 4
    assert (add.__name__, halve.name) == ("add", "tests.typing.halve")


def marked() -> dict[int, str]:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {n: mark[1] for n, line in enumerate(lines, 1) if (mark := re.search(r"# error: ([a-z-]+)", line))}


def printed_by(*command: str, at: Path = ROOT) -> str:
    run = [sys.executable, "-m", *command, str(WRONG)]
    return subprocess.run(run, cwd=at, capture_output=True, text=True, timeout=120, check=False).stdout


def test_mypy_reports_exactly_the_wrong_calls() -> None:
    require(find_spec("mypy") is not None, "mypy is not installed; scripts/install installs it")

    printed = printed_by("mypy", "--no-error-summary", "--show-error-codes")

    found: dict[int, str] = {}
    for n, code in re.findall(r":(\d+): error: .*\[([a-z-]+)\]", printed):
        found.setdefault(int(n), code)
    assert found == marked(), printed
    assert len(found) >= 60


def test_pyright_reports_exactly_the_wrong_calls(tmp_path: Path) -> None:
    require(find_spec("pyright") is not None, "pyright is not installed; scripts/install installs it")

    # Where it runs it finds a configuration: that of the repository leaves this file out.
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")

    report = json.loads(printed_by("pyright", "--outputjson", "--pythonpath", sys.executable, at=tmp_path))

    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    assert {each["range"]["start"]["line"] + 1 for each in errors} == {*marked()}, errors
