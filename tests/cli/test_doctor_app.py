"""`qtasks doctor --app`: what an app declares, against its own limits, hosted QStash and its plans."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qtasks import QTasks, Queue, Settings, cron, every
from tests.docs.pages import text
from tests.support.cli import Ran, run
from tests.support.homes import embedded

MODULE = "shop_of_test_doctor_app"
OK, WARN, FAIL = "OK", "WARN", "FAIL"


def found(ran: Ran, name: str) -> tuple[str, str, str]:
    """Give level, text and remedy of a check."""
    [finding] = [each for each in ran.lines if each["name"] == name]
    return finding["level"], finding["text"], finding["remedy"] or ""


def doctor(monkeypatch: pytest.MonkeyPatch, tasks: QTasks, *arguments: str, **env: str) -> Ran:
    """Ask the doctor about an app."""
    module = type(sys)(MODULE)
    vars(module).update(tasks=tasks)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return run("doctor", "--app", MODULE, *arguments, env=env)


def _sound(tasks: QTasks) -> None:
    @tasks.task(name="shop.welcome", retries=2, schedule=cron("0 9 * * *"))
    def welcome(to: str = "ada") -> None: ...


def _unique(tasks: QTasks) -> None:
    @tasks.task(name="shop.once", unique=True)
    def once(to: str) -> None: ...


def _remembered(tasks: QTasks) -> None:
    @tasks.task(name="shop.once", dedup_window="1d")
    def once(to: str) -> None: ...


def _uneven(tasks: QTasks) -> None:
    @tasks.task(name="shop.tick", schedule=every(seconds=7))
    def tick() -> None: ...


def _skipping(tasks: QTasks) -> None:
    @tasks.task(name="shop.tick", schedule=cron("* * * * *", overlap="skip"))
    def tick() -> None: ...


def _stubborn(tasks: QTasks) -> None:
    @tasks.task(name="shop.try", retries=50)
    def attempt() -> None: ...


def _busy(tasks: QTasks) -> None:
    @tasks.task(name="shop.tick", schedule=[cron(f"{minute} * * * *") for minute in range(11)])
    def tick() -> None: ...


BEYOND_HOSTED: dict[str, tuple[Callable[[QTasks], None], str, str, str]] = {
    "uniqueness": (_unique, "hosted-options", "task shop.once", "give equal calls an equal task_id"),
    "another window": (_remembered, "hosted-options", "task shop.once", "its window is ten minutes"),
    "an odd interval": (_uneven, "hosted-options", "every 7 s", "choose minutes that divide an hour"),
    "an overlap": (_skipping, "hosted-options", "cannot do overlap for a schedule", "leave it away"),
    "retries": (_stubborn, "hosted-plan", "task shop.try: retries=50, at most 5", "Ask for less"),
    "schedules": (_busy, "hosted-plan", "11 schedules, and the plan 'free' allows 10", "name your plan"),
}


@pytest.mark.parametrize("case", BEYOND_HOSTED)
def test_what_hosted_qstash_does_not_do_is_named(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    define, name, told, remedy = BEYOND_HOSTED[case]
    tasks = QTasks(settings=Settings(broker=f"sqlite:///{tmp_path}/q.db", plan="free"))
    define(tasks)

    here = doctor(monkeypatch, tasks, "--jsonl")
    ran = doctor(monkeypatch, tasks, "--jsonl", "--target", "hosted")

    assert here.code == 0
    assert ran.code == 1
    assert found(ran, name)[0] == FAIL
    assert told in found(ran, name)[1]
    assert remedy in found(ran, name)[2]


def test_an_app_that_hosted_qstash_can_serve_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = embedded(tmp_path / "q.db")
    _sound(tasks)

    ran = doctor(monkeypatch, tasks, "--jsonl", "--target", "hosted")

    assert found(ran, "hosted-options")[0] == OK
    assert found(ran, "hosted-plan")[:2] == (OK, "pay-as-you-go allows what the app declares")
    assert ran.code == 0


def test_limits_that_an_app_does_not_keep_itself_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = embedded(tmp_path / "q.db", queues={"wide": Queue(parallelism=50)}, concurrency=20)

    @tasks.task(name="shop.long", timeout="3h")
    def long() -> None: ...

    ran = doctor(monkeypatch, tasks, "--jsonl")

    assert found(ran, "concurrency") == (
        WARN,
        "declared for more at once than the 20 that one process runs: wide",
        "give QTasks(concurrency=) as much, or the queues less",
    )
    assert found(ran, "timeouts")[0] == WARN
    assert "shop.long" in found(ran, "timeouts")[1]
    assert "split what they do" in found(ran, "timeouts")[2]


def _golden(report: str, folder: Path) -> str:
    """Write what differs between machines as a word."""
    without_sqlite = re.sub(r"^(OK  |WARN)  sqlite .*\n(  +->.*\n)?", "", report, flags=re.MULTILINE)
    known = without_sqlite.replace(str(folder), "FOLDER")
    known = re.sub(r"(open-files +)up to \d+", r"\1up to MANY", known)
    return re.sub(r"(filesystem +)\w+", r"\1DISK", known)


SOUND = """\
OK    settings     set in the environment: QTASKS_BROKER
OK    broker       embedded: FOLDER/q.db, by QTASKS_BROKER
OK    secret       tasks are signed with the secret that stands beside the database
OK    durability   full: what was accepted outlives a power cut
OK    app          1 task, 0 queues declared
OK    concurrency  64 at once in each process
OK    database     FOLDER/q.db, which the first start makes
OK    disk         there is room
OK    filesystem   DISK
OK    open-files   up to MANY
"""

TROUBLED = """\
OK    settings           set in the environment: QSTASH_TOKEN, QTASKS_BROKER, QTASKS_QSTASH_PLAN, QTASKS_TOKEN
WARN  shadowed-settings  set twice, and not alike: QTASKS_TOKEN wins over QSTASH_TOKEN
                         -> unset QSTASH_TOKEN
OK    broker             embedded: FOLDER/none/q.db, by QTASKS_BROKER
OK    secret             tasks are signed with the secret that stands beside the database
OK    durability         full: what was accepted outlives a power cut
OK    app                1 task, 0 queues declared
OK    concurrency        64 at once in each process
OK    hosted-options     hosted QStash can do all that tasks ask for
FAIL  hosted-plan        QTASKS_QSTASH_PLAN is 'gold'
                         -> it must be one of free, pay-as-you-go, fixed-1m, fixed-10m
WARN  hosted-results     hosted QStash keeps no results, nor does the app: get() raises ResultsUnavailable
                         -> set QTASKS_RESULTS=sqlite:///results.db, unless nobody asks for results
FAIL  database           there is no folder FOLDER/none
                         -> make it: mkdir -p FOLDER/none
OK    open-files         up to MANY
"""


def test_the_report_of_a_sound_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"QTASKS_BROKER": f"sqlite:///{tmp_path}/q.db"}
    with monkeypatch.context() as here:
        here.setenv("QTASKS_BROKER", env["QTASKS_BROKER"])
        tasks = QTasks()
    _sound(tasks)

    ran = doctor(monkeypatch, tasks, **env)

    assert _golden(ran.out, tmp_path) == SOUND
    assert re.fullmatch(r"11 checks: 1[01] ok, [01] to look at, 0 failed\n", ran.err)
    assert ran.code == 0


def test_the_report_of_a_setup_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {
        "QTASKS_BROKER": f"sqlite:///{tmp_path}/none/q.db",
        "QTASKS_QSTASH_PLAN": "gold",
        "QTASKS_TOKEN": "one",
        "QSTASH_TOKEN": "another",
    }
    with monkeypatch.context() as here:
        for name, value in env.items():
            here.setenv(name, value)
        tasks = QTasks()
    _sound(tasks)

    ran = doctor(monkeypatch, tasks, "--target", "hosted", **env)

    assert _golden(ran.out, tmp_path) == TROUBLED
    assert TROUBLED.replace("FOLDER", "/srv/shop").replace("MANY", "1048576") in text("docs/doctor.md")
    assert re.fullmatch(r"13 checks: \d+ ok, [23] to look at, 2 failed\n", ran.err)
    assert ran.code == 1
