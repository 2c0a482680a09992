"""`qtasks bench`: what it measures and prints, that it touches nothing of others and leaves nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from qtasks.cli.bench.figures import FIGURES, Figure, percentile, shown, stolen_share, summarise
from qtasks.cli.bench.measuring import KINDS, Sizes
from qtasks.cli.bench.places import listen, with_schema
from qtasks.errors import ConfigurationError
from tests.support.cli import Shell, run
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.waiting import eventually

FEW = ("bench", "--tasks", "100", "--runs", "1")
QUICK_NAMES = {"idle_p50_ms", "idle_p99_ms", "memory_mib", "raw"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to be in."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_is_measured_on_a_new_file_that_is_gone_afterwards(project: Path) -> None:
    ran = run(*FEW, "--json")

    found = {each["figure"]: each for each in ran.json["figures"]}
    assert ran.code == 0
    assert list(found) == [each.name for each in FIGURES]
    assert all(0 < each["least"] <= each["median"] <= each["most"] for each in found.values())
    assert found["idle_p50_ms"]["median"] <= found["idle_p99_ms"]["median"]
    assert (ran.json["durability"], ran.json["tasks"], ran.json["size"]) == ("synchronous=FULL", 100, 64)
    assert ran.err == f"run 1 of 1: embedded, a new file in {project}\n"
    assert [each.name for each in project.iterdir()] == ["pyproject.toml"]


def test_people_get_a_table_with_what_it_was_measured_on() -> None:
    ran = run(*FEW, "--only", "latency", "--durability", "relaxed")

    first, second, _, titles, *rows = ran.out.splitlines()
    assert first.startswith("qtasks 0.1.0, Python 3.")
    assert second.endswith("synchronous=NORMAL, so a power cut may lose the newest")
    assert titles.split() == ["FIGURE", "MEDIAN", "LEAST", "MOST", "UNIT"]
    assert [each.split("  ")[0] for each in rows] == [
        each.label for each in FIGURES if each.name in QUICK_NAMES
    ]


def test_lines_of_json_are_the_figures() -> None:
    ran = run(*FEW, "--only", "latency", "--jsonl", "--size", "5000")

    assert {each["figure"] for each in ran.lines} == QUICK_NAMES


def test_a_file_that_is_named_is_left_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "disk").mkdir()
    mine = project / "disk" / "mine.db"
    mine.write_bytes(b"the tasks of somebody")
    monkeypatch.setenv("QTASKS_BROKER", f"sqlite:///{mine}")

    by_option = run(*FEW, "--only", "latency", "--broker", f"sqlite:///{mine}")
    by_environment = run(*FEW, "--only", "latency")

    assert f"a new file in {project / 'disk'}" in by_option.err
    assert f"a new file in {project}\n" in by_environment.err
    assert mine.read_bytes() == b"the tasks of somebody"
    assert [each.name for each in (project / "disk").iterdir()] == ["mine.db"]


async def test_a_broker_elsewhere_is_measured_by_a_queue_that_is_removed(shell: Shell) -> None:
    url = shell.env["QTASKS_BROKER"]
    ran = await shell(*FEW, "--broker", url, "--json")
    left = await shell("queues", "ls", "--json")

    found = {each["figure"]: each["median"] for each in ran.json["figures"]}
    assert ran.code == 0
    assert found.keys() == {each.name for each in FIGURES} - {"memory_mib", "raw"}
    assert ran.json["broker"] == f"the broker at {url}"
    assert "removed the queue qtasks-bench-" in ran.err
    assert left.json == []


async def test_a_wrong_token_ends_it_before_anything_is_measured(shell: Shell) -> None:
    ran = await shell(*FEW, "--broker", shell.env["QTASKS_BROKER"], QTASKS_TOKEN="wrong")

    assert (ran.code, ran.out) == (4, "")


def test_a_database_is_measured_in_a_schema_that_is_dropped(postgres: Postgres) -> None:
    before = _schemas(postgres)

    ran = run(*FEW, "--only", "latency", "--json", "--broker", postgres.new_store())

    assert ran.code == 0
    assert {each["figure"] for each in ran.json["figures"]} == QUICK_NAMES
    assert ran.json["durability"] == "fsync=off, synchronous_commit=on"
    assert _schemas(postgres) == before


def _schemas(postgres: Postgres) -> list[tuple[str]]:
    import psycopg

    with psycopg.connect(postgres.url("postgres")) as connection:
        return connection.execute("SELECT nspname FROM pg_namespace ORDER BY 1").fetchall()


@pytest.mark.process
def test_one_that_is_interrupted_leaves_nothing_either(project: Path) -> None:
    with Processes(project) as processes:
        ran = processes.python("-m", "qtasks", "bench", "--tasks", "100000", "--only", "tasks")
        ran.expect("run 1 of 3")
        eventually(lambda: [*project.glob(".qtasks-bench-*/bench.db")], "its database", of=[ran])
        ran.send(signal.SIGINT)
        code = ran.wait()

    assert code == 1
    assert "Aborted!" in ran.output
    assert not [*project.glob(".qtasks-bench-*")]


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (["--broker", "https://qstash.upstash.io"], 2, "hosted QStash is not measured"),
        (["--broker", "http://127.0.0.1:9", "--durability", "relaxed"], 2, "--durability is for SQLite"),
        (["--address", "http://10.0.0.1:9000"], 2, "--address is for a broker elsewhere"),
        (["--broker", "http://127.0.0.1:9"], 2, "wants a token"),
        (["--broker", "sqlite:////proc/nowhere/q.db"], 2, "no folder can be made in /proc/nowhere"),
        (["--tasks", "1"], 2, "--tasks"),
        (["--only", "speed"], 2, "--only"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], code: int, complaint: str) -> None:
    ran = run(*FEW, *options)

    assert (ran.code, ran.out) == (code, "")
    assert complaint in ran.err


def test_a_broker_that_is_not_there_is_unreachable() -> None:
    ran = run(*FEW, "--broker", "http://127.0.0.1:9", env={"QTASKS_TOKEN": "some-token"})

    assert (ran.code, ran.out) == (5, "")


@pytest.mark.parametrize(
    "address", ["http://10.0.0.1", "https://app.example:1", "http://10.0.0.1:80/x", "10.0.0.1:1"]
)
def test_an_address_that_is_no_port_of_this_machine_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="http://HOST:PORT"):
        listen(address)


def test_runs_are_told_by_their_median_and_ends_and_what_none_measured_is_left_out() -> None:
    figures = [Figure("fast", "Fast", "calls/s"), Figure("never", "Never", "ms")]

    [found] = summarise([{"fast": 3.0}, {"fast": 1.0}, {"fast": 8.0}], figures)

    assert found.to_json() == {
        "figure": "fast", "unit": "calls/s", "median": 3.0, "least": 1.0, "most": 8.0,
        "values": [3.0, 1.0, 8.0],
    }  # fmt: skip


def test_percentiles_are_values_that_were_seen() -> None:
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.99, 1)] == [1, 51, 100, 100]
    assert percentile([7], 0.99) == 7


def test_stolen_time_is_a_share_of_all_time_and_none_where_it_is_not_counted() -> None:
    before = [100, 0, 50, 800, 5, 0, 5, 40, 0, 0]
    after = [160, 0, 60, 820, 5, 0, 5, 50, 9, 9]

    assert stolen_share(before, after) == pytest.approx(10 / 100)
    assert stolen_share([], []) == 0


def test_a_value_has_the_places_that_say_something() -> None:
    assert [shown(each) for each in (0.5, 9.994, 12.34, 99.95, 100, 1234567)] == [
        "0.50", "9.99", "12.3", "100.0", "100", "1,234,567",
    ]  # fmt: skip


def test_a_schema_of_its_own_replaces_the_one_that_was_named() -> None:
    url = "postgresql:///db?host=/run/pg&schema=mine&application_name=a%20b"

    assert (
        with_schema(url, "other") == "postgresql:///db?host=%2Frun%2Fpg&application_name=a%20b&schema=other"
    )


def test_what_is_done_grows_with_the_backlog_and_never_to_nothing() -> None:
    small, large = Sizes.of(100), Sizes.of(100_000)

    assert min(small.single, small.each_of_8, small.together, small.many, small.backlog, small.stamps) > 0
    assert (large.backlog, large.many, large.stamps) == (100_000, 100_000, 300)
    assert set(KINDS) == {"latency", "results", "enqueue", "tasks"}
