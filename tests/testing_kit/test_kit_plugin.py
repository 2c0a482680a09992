"""The pytest plugin, in a pytest of its own: the recipes of the docs are its tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import blocks, text
from tests.support import ROOT
from tests.support.processes import clean_environment

pytestmark = pytest.mark.process

PAGE = "docs/testing.md"


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that says of the package what an installation of it would: its entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path_factory.mktemp("site")
    facts = folder / f"qtasks_http-{project['version']}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Name: qtasks-http\nVersion: {project['version']}\n")
    lines = [f"{name} = {target}" for name, target in project["entry-points"]["pytest11"].items()]
    (facts / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return folder


def run_pytest(folder: Path, site: Path, *arguments: str) -> str:
    """Run the tests in a folder, with no setting of ours; give what pytest says."""
    options = ["-p", "no:schemathesis", "-p", "no:cacheprovider"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    path = os.pathsep.join(map(str, (site, ROOT)))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", *options, *arguments],
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
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


def test_the_recipes_of_the_docs_pass_and_leave_nothing_behind(tmp_path: Path, site: Path) -> None:
    count = write_recipes(tmp_path)
    before = sorted(tmp_path.iterdir())

    said = run_pytest(tmp_path, site)

    assert f"{count} passed" in said, said
    assert count >= 14
    assert sorted(tmp_path.iterdir()) == before


def test_the_first_test_of_the_docs_is_short() -> None:
    first = blocks(text(PAGE), "python")[1].text

    assert "def test_" in first
    assert len(first.strip().splitlines()) < 10


def test_a_failing_test_shows_what_its_tasks_raised(tmp_path: Path, site: Path) -> None:
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

    said = run_pytest(tmp_path, site)

    assert "1 failed" in said
    assert "return a / b" in said
    assert "ZeroDivisionError: division by zero" in said


def test_without_its_fixture_the_plugin_loads_nothing_else_of_qtasks(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_idle.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    ours = {each for each in sys.modules if each.partition('.')[0] == 'qtasks'}\n"
        "    assert ours <= {'qtasks', 'qtasks.errors', 'qtasks.version', 'qtasks.pytest_plugin'}, ours\n"
        "    assert not {'sqlite3', 'starlette', 'httpx', 'uvicorn'} & set(sys.modules)\n"
    )

    assert "1 passed" in run_pytest(tmp_path, site, "-p", "no:anyio")
