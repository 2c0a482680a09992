"""The pytest plugin, in a pytest of its own: the recipes of the docs are its tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.docs.pages import blocks, text
from tests.support import ROOT
from tests.support.processes import clean_environment

pytestmark = pytest.mark.process

PAGE = "docs/testing.md"
# Where qtasks was installed before it had the plugin, pytest does not find it by itself.
IS_INSTALLED = any(each.name == "qtasks" for each in entry_points(group="pytest11"))


def run_pytest(folder: Path, *arguments: str) -> str:
    """Run the tests in a folder, with no setting of ours; give what pytest says."""
    options = [
        "-p",
        "no:schemathesis",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    ]
    if not IS_INSTALLED:
        options += ["-p", "qtasks.pytest_plugin"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", *options, *arguments],
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ran.stdout + ran.stderr


def write_recipes(folder: Path) -> int:
    """Write the page's app and its tests as their reader would; give the number of tests."""
    app, *tests = (each.text for each in blocks(text(PAGE), "python"))
    (folder / "myapp.py").write_text(app)
    (folder / "test_myapp.py").write_text("\n\n".join(tests))
    return sum(each.count("def test_") for each in tests)


def test_the_recipes_of_the_docs_pass_and_leave_nothing_behind(tmp_path: Path) -> None:
    count = write_recipes(tmp_path)
    before = sorted(tmp_path.iterdir())

    said = run_pytest(tmp_path)

    assert f"{count} passed" in said, said
    assert count >= 14
    assert sorted(tmp_path.iterdir()) == before


def test_the_first_test_of_the_docs_is_short() -> None:
    first = blocks(text(PAGE), "python")[1].text

    assert "def test_" in first
    assert len(first.strip().splitlines()) < 10


def test_a_failing_test_shows_what_its_tasks_raised(tmp_path: Path) -> None:
    write_recipes(tmp_path)
    (tmp_path / "test_myapp.py").write_text(
        "from myapp import tasks\n"
        "@tasks.task\n"
        "def divide(a: int, b: int) -> float:\n"
        "    return a / b\n"
        "def test_it(qtasks_kit):\n"
        "    divide.delay(1, 0)\n"
        "    assert qtasks_kit.drain().succeeded == 1\n"
    )

    said = run_pytest(tmp_path)

    assert "1 failed" in said
    assert "return a / b" in said
    assert "ZeroDivisionError: division by zero" in said


def test_without_its_fixture_the_plugin_loads_nothing_else_of_qtasks(tmp_path: Path) -> None:
    (tmp_path / "test_idle.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    ours = {each for each in sys.modules if each.partition('.')[0] == 'qtasks'}\n"
        "    assert ours <= {'qtasks', 'qtasks.errors', 'qtasks.version', 'qtasks.pytest_plugin'}, ours\n"
        "    assert not {'sqlite3', 'starlette', 'httpx', 'uvicorn'} & set(sys.modules)\n"
    )

    assert "1 passed" in run_pytest(tmp_path, "-p", "no:anyio")


def test_the_plugin_is_announced_to_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["entry-points"]["pytest11"] == {"qtasks": "qtasks.pytest_plugin"}
