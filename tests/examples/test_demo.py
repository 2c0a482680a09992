"""The demo is run as people run it, and shown to notice when something is wrong."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from examples.demo import checks
from examples.demo.checks import Call, Outcome
from examples.demo.table import Progress, Row, render
from examples.demo.tasks import charge, journals
from qtasks.protocol.results import ResultView
from qtasks.protocol.shapes import DeadLetter, MessageView
from tests.support import BATCH_ENV, ROOT

LIMIT_S = 60
COMMAND = [sys.executable, "-m", "examples.demo.main"]
CALL = Call("tsk_1", charge.name, ["tests", 7], "payments")


def environment(temporary: Path) -> dict[str, str]:
    return os.environ | BATCH_ENV | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}


def run_demo(temporary: Path, *, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND,
        cwd=root,
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@contextmanager
def running_demo(temporary: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    demo = subprocess.Popen(
        [*COMMAND, *options],
        cwd=ROOT,
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with demo:
        try:
            yield demo
        finally:
            demo.terminate()


def read_until(demo: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"the demo never said {pattern!r}, but:\n{''.join(said)}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def leftovers(temporary: Path) -> Sequence[Path]:
    return list(temporary.glob("qtasks-demo-*"))


@pytest.mark.process
def test_the_demo_runs_every_task_and_finds_all_as_it_should_be(tmp_path: Path) -> None:
    demo = run_demo(tmp_path)

    assert (demo.returncode, demo.stderr) == (0, "")
    assert "runs the tasks of" in demo.stdout
    assert re.search(r"^task +calls +queue +attempts +state +time$", demo.stdout, re.MULTILINE)
    assert re.search(r"^stumble +1 +web +3 +SUCCEEDED", demo.stdout, re.MULTILINE)
    assert re.search(r"^fail +1 +default +2 +FAILED", demo.stdout, re.MULTILINE)
    assert re.search(r"^write +20 +diary +20 +SUCCEEDED", demo.stdout, re.MULTILINE)
    assert re.search(r"^\d+ tasks, all as it should be", demo.stdout, re.MULTILINE)
    assert leftovers(tmp_path) == []


@pytest.mark.process
def test_the_demo_serves_until_it_is_interrupted_and_leaves_the_database(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--serve") as demo:
        found = read_until(demo, r"is up at (http://\S+) .* its database is (\S+)\.$")
        url, database = found[1], Path(found[2])
        with httpx.Client(base_url=url, trust_env=False) as web:
            assert "curl" in web.get("/").text
            assert web.post("/measure", params={"file": "../../etc/passwd"}).status_code == 404
            task_id = web.post("/measure", params={"file": "json/decoder.py"}).json()["id"]
            answer = finished(web, task_id)
            # All of it can be done again: what one run counts is no other's.
            assert web.post("/start").status_code == 202

        demo.send_signal(signal.SIGINT)

        assert demo.wait(LIMIT_S) == 0
    assert answer["state"] == "SUCCEEDED"
    assert database.exists()
    assert leftovers(tmp_path) == [database.parent]


def finished(web: httpx.Client, task_id: str) -> dict[str, object]:
    ends_at = time.monotonic() + LIMIT_S
    while True:
        answer: dict[str, object] = web.get(f"/tasks/{task_id}").json()
        if answer["state"] in ("SUCCEEDED", "FAILED"):
            return answer
        assert time.monotonic() < ends_at, answer
        time.sleep(0.02)


@pytest.mark.process
def test_a_demo_that_is_stopped_half_way_takes_its_app_and_its_folder_along(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        app_pid = int(read_until(demo, r"process (\d+) runs the tasks")[1])
        read_until(demo, "has enqueued")

        demo.terminate()

        assert demo.wait(LIMIT_S) == 130
    assert not is_alive(app_pid)
    assert leftovers(tmp_path) == []


def copy_of_the_demo(folder: Path, name: str, old: str, new: str) -> Path:
    """Give a root with another demo, in which `old` is `new` in one file."""
    shutil.copytree(ROOT / "examples" / "demo", folder / "examples" / "demo")
    file = folder / "examples" / "demo" / name
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    return folder


@pytest.mark.process
def test_the_demo_says_what_is_wrong_when_a_result_is_not_that_of_a_direct_call(tmp_path: Path) -> None:
    # In the app, the count is one too many.
    wrong = 'return len(journal.charged) + ("uvicorn" in __import__("sys").modules)'
    root = copy_of_the_demo(tmp_path, "tasks.py", "return len(journal.charged)", wrong)

    demo = run_demo(tmp_path, root=root)

    assert demo.returncode == 1
    assert re.fullmatch(r"WRONG  charge\('\w+', 7\): result is 2, should be 1\n", demo.stderr)
    assert "all as it should be" not in demo.stdout


@pytest.mark.process
def test_the_demo_shows_the_last_words_of_an_app_that_does_not_start(tmp_path: Path) -> None:
    root = copy_of_the_demo(tmp_path, "app.py", "\nLINES = 20\n", '\nraise SystemExit("no such luck")\n')

    demo = run_demo(tmp_path, root=root)

    assert demo.returncode == 1
    assert demo.stderr.startswith("WRONG  the app did not start:\n")
    assert "no such luck" in demo.stderr


def test_each_difference_between_a_task_and_a_direct_call_is_told() -> None:
    found = Outcome("SUCCEEDED", 2, 2)

    problems = checks.compare(CALL, found, Outcome("SUCCEEDED", 1, 1))

    assert problems == [
        "charge('tests', 7): attempts is 2, should be 1",
        "charge('tests', 7): result is 2, should be 1",
    ]


def test_a_task_that_has_not_ended_differs_from_the_direct_call() -> None:
    found = checks.outcome_of(ResultView(task_id="tsk_1", state="RETRYING", attempts=1))

    assert checks.compare(CALL, found, Outcome("SUCCEEDED", 1, None)) == [
        "charge('tests', 7): state is 'RETRYING', should be 'SUCCEEDED'"
    ]


def test_a_direct_call_is_repeated_as_often_as_the_broker_would() -> None:
    fail = Call("tsk_2", "examples.demo.tasks.fail", ["no"], "default")
    stumble = Call("tsk_3", "examples.demo.tasks.stumble", ["tests-stumble", 2], "web")

    assert checks.call_directly(fail) == Outcome("FAILED", 2, ["ValueError", "no"])
    assert checks.call_directly(stumble) == Outcome("SUCCEEDED", 3, "succeeded after 2 failures")


def test_a_task_that_did_not_wait_is_told() -> None:
    view = ResultView(task_id="tsk_1", state="SUCCEEDED", finished_at=1_000_500)

    assert checks.check_delay(CALL, view, 1_000_000) == [
        "charge('tests', 7): ended 500 ms after the call, should have waited for 2000"
    ]
    assert checks.check_delay(CALL, view, 998_500) == []


def test_a_dead_letter_too_few_or_too_many_is_told() -> None:
    message = MessageView(
        message_id="msg_1",
        url="http://app.qtasks.internal/",
        body=b'{"id": "tsk_9", "task": "fail"}',
        max_retries=1,
        not_before=0,
        created_at=0,
    )
    body = b'{"error": {"type": "KeyError"}}'
    letter = DeadLetter(dlq_id="1", message=message, response_status=500, response_body=body)

    assert checks.check_dead_letters([], [CALL]) == ["the dead letter queue holds [], should hold ['tsk_1']"]
    assert checks.check_dead_letters([letter], []) == [
        "the dead letter queue holds ['tsk_9'], should hold []",
        "dead letter fail: 500 KeyError",
    ]


def test_lines_out_of_order_are_told() -> None:
    journals["tests-order"].written.extend([0, 1])

    problems = checks.check_journal("tests-order", {"stumbles": 0, "charged": [], "written": [1, 0]})

    assert problems == ["journal: written is [1, 0], should be [0, 1]"]


def test_the_table_gathers_neighbours_of_one_name() -> None:
    rows = [
        Row("write", "diary", 1, "SUCCEEDED", 1000, 1100),
        Row("write", "diary", 2, "FAILED", 1050, 1300),
        Row("ask", "web", 1, "SUCCEEDED", 1000, 1010),
    ]

    assert list(render(rows)) == [
        "task   calls  queue  attempts  state                    time",
        "-----  -----  -----  --------  ---------------------  ------",
        "write      2  diary         3  1 SUCCEEDED, 1 FAILED  0.30 s",
        "ask        1  web           1  SUCCEEDED              0.01 s",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_that_changes_on_a_terminal() -> None:
    terminal = Terminal()
    progress = Progress({"files": 2}, terminal)

    progress.show({"files": 1}, 0.1)
    progress.show({"files": 0}, 0.2)
    progress.end()

    assert terminal.getvalue() == "\r\x1b[K  0.1 s  files 1/2\r\x1b[K  0.2 s  files 2/2\n"


def test_progress_is_a_few_plain_lines_elsewhere() -> None:
    pipe = io.StringIO()
    progress = Progress({"files": 3}, pipe)

    for at_s, left in ((0.0, 3), (0.1, 2), (0.6, 1), (1.2, 1), (1.3, 0)):
        progress.show({"files": left}, at_s)
    progress.end()

    assert pipe.getvalue() == "  0.0 s  files 0/3\n  0.6 s  files 2/3\n  1.3 s  files 3/3\n"
