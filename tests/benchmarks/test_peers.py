"""What `scripts/bench-peers` measures by: it counts right, leaves no process behind, and tells it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.peers.children import Child
from tests.benchmarks.peers.contestants import BY_NAME, CONTESTANTS
from tests.benchmarks.peers.driver import measure
from tests.benchmarks.peers.environments import REQUIREMENTS
from tests.benchmarks.peers.machine import is_running, tree
from tests.benchmarks.peers.measuring import Amounts, measured
from tests.benchmarks.peers.run import Outcome, least_disturbed
from tests.benchmarks.peers.table import BEGIN, END, page, rewritten
from tests.benchmarks.peers.tally import VARIABLE, Tally
from tests.support import ROOT

TINY = Amounts(backlog=8000, single=5, each_of_8=3, samples=5, budget_s=5)
RUN: dict[str, float] = {
    "delay_1": 2000,
    "delay_8": 3000,
    "delay_many": 12_345,
    "tasks": 9000,
    "cpu_us": 100,
    "start_p50_ms": 2,
    "start_p99_ms": 8,
    "memory_mib": 50,
    "commits": 5000,
    "stolen": 0.01,
    "others": 0.02,
}


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the benchmarks read Linux's /proc")
def test_a_contestant_is_measured_from_its_backlog_to_its_results(tmp_path: Path) -> None:
    contestant = BY_NAME["qtasks-embedded"]

    figures, versions = measured(contestant, Path(sys.executable), tmp_path, TINY)

    # Samples are counted like the backlog, and so are the ten calls before them.
    assert Tally(tmp_path / "tally").started == TINY.backlog + TINY.samples + 10
    assert figures["ran_twice"] == 0
    wanted = {
        "delay_1",
        "delay_8",
        "delay_many",
        "tasks",
        "cpu_us",
        "start_p50_ms",
        "result_p50_ms",
        "memory_mib",
    }
    assert {name for name in wanted if figures[name] > 0} == wanted
    assert "uvicorn" in versions


def test_tasks_are_counted_over_all_processes(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "tally")
    code = "import os; from tests.benchmarks.peers.tally import ran; ran(); os.fork(); ran(); ran()"
    env = os.environ | {VARIABLE: str(tally.path), "PYTHONPATH": str(ROOT)}

    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)

    assert tally.started == 2 * (1 + 2 + 2)
    assert tally.last_at_ns > 0


def called_app(calls: list[str]) -> Any:
    """Make an app whose calls block."""

    @contextmanager
    def opened() -> Iterator[None]:
        yield

    return SimpleNamespace(opened=opened, delay=calls.append, result=lambda text: text)


def awaited_app(calls: list[str]) -> Any:
    """Make an app whose calls are awaited."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        yield

    async def delay(text: str) -> None:
        await asyncio.sleep(0)
        calls.append(text)

    async def delay_many(text: str, count: int) -> None:
        calls.extend([text] * count)

    async def result(text: str) -> str:
        return text

    return SimpleNamespace(opened=opened, delay=delay, delay_many=delay_many, result=result)


@pytest.mark.parametrize("make", [called_app, awaited_app])
def test_a_backlog_has_as_many_calls_as_were_asked_for(make: Callable[[list[str]], Any]) -> None:
    calls: list[str] = []
    options = {"backlog": 100, "single": 10, "each_of_8": 5, "samples": 3, "budget_s": 0}

    rates = measure(make(calls), "fill", options)
    spans = measure(make(calls), "results", options)

    assert calls == ["x" * 64] * 100
    assert set(rates) == {"delay_1", "delay_8", "delay_many"}
    assert set(spans) == {"result_p50_ms", "result_p99_ms"}


def test_a_result_that_is_wrong_is_no_measurement() -> None:
    app = called_app([])
    app.result = lambda text: text + "!"

    with pytest.raises(AssertionError, match="is not what the task returned"):
        measure(app, "results", {"samples": 1, "budget_s": 0})


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmarks read Linux's /proc")
def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn + '; time.sleep(60)'!r}])"
    )
    with Child("parent", [sys.executable, "-c", code], tmp_path, os.environ) as child:
        child.wait_for(lambda: "up" in child.output, 30)
        family = tree([child.pid])

    assert len(family) == 2
    assert not [pid for pid in family if is_running(pid)]


def test_a_process_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such queue'); raise SystemExit(3)"]

    with (
        Child("worker", command, tmp_path, os.environ) as child,
        pytest.raises(RuntimeError, match="ended with 3"),
    ):
        child.wait_for(lambda: None, 30)
    assert "no such queue" in child.output


def outcomes(*disturbances: tuple[float, float]) -> Callable[[], Outcome]:
    """Make what measures once for each pair of a stolen share and one that other processes took."""
    left = iter(enumerate(disturbances))

    def measure() -> Outcome:
        number, (stolen, others) = next(left)
        return {"tasks": number, "stolen": stolen, "others": others}, {}

    return measure


def test_a_disturbed_measurement_is_made_again_and_the_least_disturbed_counts() -> None:
    quiet = least_disturbed(outcomes((0.2, 0), (0.01, 0.02), (0, 0)), 3)
    restless = least_disturbed(outcomes((0.2, 0), (0, 0.15), (0.3, 0.3), (0, 0)), 3)

    assert (quiet[0]["tasks"], quiet[0]["tries"]) == (1, 2)
    assert (restless[0]["tasks"], restless[0]["tries"]) == (1, 3)


def found(**figures: list[dict[str, float]]) -> dict[str, Any]:
    """Give the outcome of a comparison."""
    machine = {"cores": 2, "processor": "Some CPU", "kernel": "6.1", "python": "3.11.7", "sqlite": "3.40.1"}
    named = {name.replace("_", "-"): runs for name, runs in figures.items()}
    return {"machine": machine, "versions": {"huey": "3.5.4"}, "backlog": 10_000, "runs": 3, "figures": named}


def test_a_table_has_medians_with_least_and_greatest() -> None:
    runs = [RUN | {"tasks": tasks} for tasks in (9000, 12_000, 10_040)]

    lines = page(found(qtasks_embedded=runs)).splitlines()

    assert lines[0].startswith("2 cores (Some CPU, Linux 6.1), Python 3.11.7, SQLite 3.40.1, huey 3.5.4. ")
    row = next(line for line in lines if line.startswith("| qtasks, embedded | 2,000"))
    assert "| 10,000 (9,000 to 12,000) |" in row
    assert "SQLite alone committed 5,000 single rows a second (5,000 to 5,000)" in lines[0]
    assert "has none" in next(line for line in lines if line.startswith("| qtasks, embedded | 2.0"))


def test_figures_of_a_busy_machine_are_said_to_be_such() -> None:
    assert "was busy" not in page(found(huey=[RUN]))
    assert "was busy" in page(found(huey=[RUN, RUN | {"others": 0.3}]))


def test_qtasks_is_set_against_the_best_peer_and_the_best_that_fsyncs() -> None:
    quick, durable = RUN | {"tasks": 18_000, "cpu_us": 50}, RUN | {"tasks": 3000, "cpu_us": 400}

    lines = page(found(qtasks_embedded=[RUN], huey=[quick], celery_always=[durable])).splitlines()

    tasks = next(line for line in lines if line.startswith("| tasks/s of a backlog |"))
    bests = "| huey, fsync each second: 18,000 | Celery, fsync always: 3,000 |"
    assert tasks == f"| tasks/s of a backlog {bests} 0.50 / 3.00 |"
    cpu = next(line for line in lines if line.startswith("| CPU µs a task |"))
    assert cpu.endswith("| 0.50 / 4.00 |")


def test_a_setup_is_told_once_however_many_servers_it_was_measured_on() -> None:
    text = page(found(huey=[RUN], huey_always=[RUN]))

    assert text.count("`notify_result`") == 1


def test_tables_are_written_between_the_marks_of_a_page() -> None:
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"

    assert rewritten(text, "new") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nAfter.\n"
    with pytest.raises(ValueError, match="to write between"):
        rewritten("# Title\n", "new")


def test_every_peer_has_pinned_versions() -> None:
    for peer in {each.setup.peer for each in CONTESTANTS} - {None}:
        lines = (REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
        assert [line for line in lines if "==" not in line] == [], peer
