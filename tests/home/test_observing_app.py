"""What a whole app shows of its tasks: hooks around them, its log, and its traces."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from qtasks import Context, Flow, QTasks, TaskFailed, task
from tests.support import ROOT
from tests.support.homes import SOON_S, embedded
from tests.support.processes import clean_environment

PRIVATE = "a-private-name"


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    tasks = embedded(store)
    async with tasks.lifespan():
        yield tasks


@task(name="tests.home.module_level")
def module_level(number: int) -> int:
    return number


async def test_hooks_go_around_tasks_of_the_app_and_of_modules(app: QTasks) -> None:
    ran: list[str] = []

    @app.around
    def hook(context: Context) -> Iterator[None]:
        ran.append(context.task)
        yield

    @app.around
    async def async_hook(context: Context) -> AsyncIterator[None]:
        ran.append(f"async {context.task}")
        yield

    @app.task(name="own")
    async def own(number: int) -> int:
        return number

    assert await (await own.adelay(1)).aget(SOON_S) == 1
    assert await app.result((await app.asend("tests.home.module_level", 2)).id).aget(SOON_S) == 2
    assert ran == ["own", "async own", "async tests.home.module_level", "tests.home.module_level"]


async def test_no_line_of_the_app_or_its_broker_shows_an_argument(
    app: QTasks, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where a key is made of it, where it fails for good, and where it does not fit."""

    def fail(name: str) -> str:
        raise ValueError("broken")

    once = app.task(name="once", retries=1, retry_delay=0.001, unique="{name}")(fail)
    limited = app.task(name="limited", retries=0, flow=Flow(parallelism=1, key="{name}"))(fail)
    app.task(name="numbers")(number_only)

    with caplog.at_level(logging.DEBUG, "qtasks"):
        results = [
            await once.adelay(PRIVATE),
            await limited.adelay(PRIVATE),
            await app.asend("numbers", PRIVATE),
        ]
        for each in results:
            with pytest.raises(TaskFailed):
                await each.aget(SOON_S)

    own = [each for each in caplog.records if each.name.startswith("qtasks")]
    assert {each.name for each in own} >= {"qtasks.task", "qtasks.dispatcher"}
    for record in own:
        assert PRIVATE not in str(vars(record)), record.getMessage()
        assert PRIVATE not in logging.Formatter().format(record)


def number_only(number: int) -> int:
    return number


# --- OpenTelemetry: in processes of their own, for which it is installed or not, and has a provider -------

APP = """
import asyncio, json, sys
from qtasks import QTasks, Settings

tasks = QTasks(settings=Settings(broker="sqlite:///q.db", durability="relaxed"))

@tasks.task(name="inner")
async def inner(n: int) -> int:
    return n

@tasks.task(name="outer")
def outer(n: int) -> str:
    return inner.delay(n).id

async def main():
    async with tasks.lifespan():
        inner_id = await (await outer.adelay(1)).aget(10)
        return await tasks.result(inner_id).aget(10)
"""

PLAIN = """
print(json.dumps([asyncio.run(main()), sys.modules.get("opentelemetry.trace") is not None]))
"""

TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

async def request():
    with trace.get_tracer("web").start_as_current_span("request"):
        return await main()

asyncio.run(request())
spans = {each.context.span_id: each for each in exporter.get_finished_spans()}
print(json.dumps([
    [each.name, each.attributes.get("messaging.qtasks.task"), each.parent and spans[each.parent.span_id].name]
    for each in sorted(spans.values(), key=lambda each: each.start_time)
]))
"""


def run(code: str, folder: Path) -> object:
    """Run Python code in a process of its own, and give what it prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.process
@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.trace"])
def test_without_opentelemetry_or_its_api_all_works(tmp_path: Path, missing: str) -> None:
    block = f"import sys; sys.modules[{missing!r}] = None\n"

    assert run(block + APP + PLAIN, tmp_path) == [1, False]


@pytest.mark.process
def test_a_provider_that_is_set_later_gets_one_trace_of_a_request_and_its_tasks(tmp_path: Path) -> None:
    spans = run(APP + TRACED, tmp_path)

    assert spans == [
        ["request", None, None],
        ["send default", "outer", "request"],
        ["process default", "outer", "send default"],
        ["send default", "inner", "process default"],
        ["process default", "inner", "send default"],
    ]
