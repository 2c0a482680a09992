"""What the programme makes of figures: bars, tables, JSON, instructions. What machines do is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.benchmarks import report
from tests.benchmarks.bars import BARS, judge, judge_home
from tests.benchmarks.figures import FIGURES
from tests.benchmarks.homes import HOMES
from tests.benchmarks.instructions import per_round, regressed, told
from tests.benchmarks.noise import Noise, foreign_share
from tests.benchmarks.processes import TICKS, cpu_seconds, environment, rss_mib
from tests.benchmarks.run import Journal
from tests.benchmarks.session import KINDS
from tests.support import ROOT

FACTS: dict[str, object] = {
    "qtasks": "0.1.0", "python": "3.11.7", "sqlite": "3.40.1", "postgresql": None, "cores": 2,
    "system": "Linux 6", "runs": 3, "is_quick": False,
}  # fmt: skip
VALUES = {
    "embedded": {
        "raw": [10_000.0, 1_000.0, 5_000.0],
        "delay_1": [7_000.0, 800.0, 3_000.0],
        "idle_p50_ms": [1.0, 2.0, 3.0],
    },
    "postgres-2": {"tasks": [123.4, 100.0, 150.0]},
}


def document(**noise: list[Noise]) -> dict[str, Any]:
    told = {kind: [each.to_json() for each in runs] for kind, runs in noise.items()}
    written = report.document(VALUES, FACTS, {"embedded": told}, ["standalone load: it hung"])
    read: dict[str, Any] = json.loads(json.dumps(written))
    return read


def test_each_run_is_held_against_the_pace_of_the_disk_in_that_run() -> None:
    [bar] = [each for each in BARS["embedded"] if each.figure == "delay_1"]

    found = judge(VALUES["embedded"], bar)

    assert found is not None
    assert found.limit == pytest.approx(3_500)
    assert found.ratio == pytest.approx(1.0)  # of 1.0, 1.14 and 0.86
    assert found.is_met


def test_what_should_be_small_is_met_by_less() -> None:
    assert judge_home("embedded", {"idle_p50_ms": [1.2]})["idle_p50_ms"].is_met
    assert not judge_home("embedded", {"idle_p50_ms": [1.21]})["idle_p50_ms"].is_met


def test_a_bar_that_needs_what_was_not_measured_is_left_out() -> None:
    assert judge_home("standalone", {"delay_1": [500.0], "raw": [5000.0]}) == {}
    assert judge_home("postgres-2", {"tasks": [1.0]}) == {}


def test_a_single_call_over_http_is_held_against_client_and_disk_one_after_the_other() -> None:
    found = judge_home("standalone", {"delay_1": [560.0], "raw": [10_000.0], "exchange": [1000.0]})

    assert found["delay_1"].limit == pytest.approx(0.8 / (1 / 1000 + 1 / 7000))
    assert found["delay_1"].ratio == pytest.approx(0.8)


def test_what_was_measured_once_counts_for_all_runs() -> None:
    values = {"delay_8": [1200.0, 2000.0, 900.0], "raw": [1000.0]}

    assert judge_home("embedded", values)["delay_8"].ratio == pytest.approx(1.0)


def test_people_see_each_figure_with_its_bar_and_what_was_noisy_or_failed() -> None:
    lines = list(
        report.for_people(document(latency=[Noise(0.01, 0.11), Noise(0.12, 0)], enqueue=[Noise(0.05, 0.1)]))
    )

    rows = {each.partition("  ")[0]: each.split() for each in lines}
    assert rows[".delay(), one thread"][-4:] == ["≥", "3,500", "1.00", "ok"]
    assert rows["from call to start, idle, p50"][-4:] == ["≤", "1.20", "0.60", "short"]
    assert rows["tasks run, from a backlog"][-6:] == ["123", "100", "150", "tasks/s", "-", "-"]
    assert lines[-3:] == [
        "1 of the bars are not met",
        "noisy: embedded latency, 2 of 2: the host took up to 12% of the CPU, other processes 11%",
        "failed: standalone load: it hung",
    ]


def test_a_page_gets_the_homes_side_by_side_and_others_below() -> None:
    assert list(report.markdown(document())) == [
        "| | embedded |",
        "| --- | --- |",
        "| commits of one row, database alone, commits/s | 5,000 (1,000 to 10,000) |",
        "| .delay(), one thread, calls/s | 3,000 (800 to 7,000), ≥ 3,500 |",
        "| from call to start, idle, p50, ms | **2.00** (1.00 to 3.00), ≤ 1.20 |",
        "",
        "| | postgres-2 |",
        "| --- | --- |",
        "| tasks run, from a backlog, tasks/s | 123 (100 to 150) |",
    ]


def test_programs_get_values_and_what_can_be_worked_out_of_them() -> None:
    read = document()

    assert read.keys() == {*FACTS, "failures", "noise", "values", "rows"}
    assert read["values"] == VALUES
    assert read["rows"][1] == {
        "home": "embedded", "figure": "delay_1", "unit": "calls/s",
        "median": 3000.0, "least": 800.0, "most": 7000.0,
        "bar": {"limit": 3500.0, "ratio": pytest.approx(1.0), "is_most": False, "is_met": True},
    }  # fmt: skip
    assert read["rows"][-1]["bar"] is None


def test_a_journal_takes_single_values_and_those_of_rounds() -> None:
    journal = Journal()
    journal.note("embedded", "depth", {"deep_ratio": [1.0, 1.1]}, Noise(0, 0))
    journal.note("embedded", "tasks", {"tasks": 5.0}, Noise(0.01, 0))
    journal.note("embedded", "tasks", {"tasks": 6.0}, Noise(0.5, 0.1))

    assert journal.values["embedded"] == {"deep_ratio": [1.0, 1.1], "tasks": [5.0, 6.0]}
    assert journal.noise["embedded"]["tasks"] == [
        {"stolen": 0.01, "foreign": 0},
        {"stolen": 0.5, "foreign": 0.1},
    ]


def test_homes_kinds_bars_and_figures_go_together() -> None:
    names = {each.name for each in FIGURES}

    assert {kind for home in HOMES.values() for kind in home.kinds} == set(KINDS)
    assert BARS.keys() <= HOMES.keys()
    assert {bar.figure for bars in BARS.values() for bar in bars} <= names
    assert len(names) == len(FIGURES)


@pytest.mark.process
def test_a_measurement_finds_figures_that_are_known() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.session", "embedded", "tasks", "--quick"]
    ran = subprocess.run(
        command, env=environment(PYTHONPATH=str(ROOT)), cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    assert found.keys() == {"tasks", "cpu_us"}
    assert found["tasks"] > 0


def test_what_is_neither_ours_nor_idle_nor_stolen_is_of_other_processes() -> None:
    before = [0] * 10
    # user, nice, system, idle, waiting, two kinds of interrupts, stolen; guests count among the users
    after = [30, 0, 10, 40, 5, 0, 5, 10, 3, 3]

    assert foreign_share(before, after, 20 / TICKS) == pytest.approx(0.25)
    assert foreign_share(before, after, 99 / TICKS) == 0


def test_one_round_is_what_more_rounds_take_more() -> None:
    assert per_round(iter([("a", 10, 1100), ("a", 20, 1200), ("b", 5, 7), ("b", 10, 12)])) == {
        "a": 10,
        "b": 1,
    }


def test_a_path_that_became_longer_is_told_and_a_new_one_is_not() -> None:
    reference = {"same": 1000, "longer": 1000, "shorter": 1000}
    counts = {"same": 1029, "longer": 1031, "shorter": 900, "new": 5}

    assert regressed(counts, reference) == ["longer"]
    assert [each.split()[-1] for each in told(counts, reference)] == [
        "CHANGE",
        "+2.9%",
        "regressed",
        "better",
        "-",
    ]


def test_the_cpu_time_and_memory_of_this_process_are_read() -> None:
    before = cpu_seconds([os.getpid()])
    while cpu_seconds([os.getpid()]) == before:  # a tick is a hundredth of a second
        sum(range(10_000))

    assert rss_mib() > 1
