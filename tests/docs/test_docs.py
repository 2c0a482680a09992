"""What the documentation says is so: its code runs, its commands exist, its tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from qtasks.cli import main
from qtasks.cli.broker import broker
from qtasks.settings import Settings
from tests.docs.pages import anchors, blocks, links, rows, shell_commands, text
from tests.support import ROOT
from tests.support.processes import clean_environment

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [each.relative_to(ROOT).as_posix() for each in PAGES]
RUN_WHOLE = [
    "README.md",
    "docs/celery.md",
    "docs/metrics.md",
    "docs/observing.md",
    "docs/periodic.md",
    "docs/quickstart.md",
    "docs/tasks.md",
]
API = "docs/http-api.md"
ENVIRONMENT = re.compile(r"\b(?:QTASKS|QSTASH)_[A-Z]+(?:_[A-Z]+)*\b")
# Written for people and other clients, by the broker or by the reader; read by nothing of ours.
NOT_SETTINGS = {"QSTASH_URL", "QSTASH_DEV", "QTASKS_APP"}  # the last one is for commands
COMMANDS = {"cd", "curl", "export", "python", "set", ".", "qtasks", "uvicorn"}
COMMANDS |= {"docker", "install", "kubectl", "python3", "systemctl"}  # of whoever deploys
MADE = {"/opt/qtasks/bin/pip", ".venv/bin/qtasks", "../../.venv/bin/uvicorn", "../../.venv/bin/python"}


def test_the_readme_s_app_is_the_example_to_the_letter() -> None:
    first = blocks(text("README.md"), "python")[0].text

    assert first == text("examples/hello/app.py")
    assert blocks(text("docs/quickstart.md"), "python")[0].text == first


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_compiles(name: str) -> None:
    for block in blocks(text(name), "python"):
        compile(block.text, f"{name}:{block.line}", "exec", 0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.mark.process
@pytest.mark.parametrize("name", RUN_WHOLE)
def test_the_python_blocks_of_a_page_run_one_after_the_other(name: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.docs.pages", ROOT / name],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in links(text(name)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), f"{name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_exists(name: str) -> None:
    for words in shell_commands(text(name)):
        command = words[0]
        if command.startswith("scripts/"):
            assert (ROOT / command).stat().st_mode & 0o100, f"{name}: {words}"
        elif not re.fullmatch(r"[A-Z_]+=.*", command):
            assert command in COMMANDS | MADE, f"{name}: {words}"
        if command == "cd":
            assert (ROOT / words[1]).is_dir(), f"{name}: {words}"
        if command.endswith("qtasks"):
            check_usage(words[1:])


def check_usage(arguments: Sequence[str]) -> None:
    """Have click read a command line, without running it."""
    command: click.Command | None = main
    context: click.Context | None = None
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        context = click.Context(command, info_name=command.name, parent=context)
        command = command.get_command(context, rest.pop(0))
    assert command is not None, arguments
    try:
        command.make_context(command.name, rest, parent=context, resilient_parsing="--help" in rest)
    except click.BadParameter as error:
        if "does not exist" not in error.message:  # a file of the reader's own
            raise


def test_no_page_names_a_package_that_is_not_ours() -> None:
    for name in NAMES:
        assert "pip install qtasks" not in text(name)


def test_every_setting_is_in_the_docs_and_every_one_in_the_docs_exists() -> None:
    class Recorder(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return default

    read: set[str] = set()
    Settings.from_env(Recorder())
    table = " ".join(row[0] for row in rows(text("docs/brokers.md"), "Settings"))
    named = {each for name in NAMES for each in ENVIRONMENT.findall(text(name))}

    assert set(ENVIRONMENT.findall(table)) == read
    assert named - NOT_SETTINGS <= read


def test_every_option_of_the_broker_is_in_the_docs_and_every_one_in_the_docs_exists() -> None:
    options = {each for option in broker.params for each in option.opts if each.startswith("--")}
    pages = (text("docs/brokers.md"), text(API))

    assert {each for page in pages for each in re.findall(r"`(--[a-z-]+)[ `]", page)} == options | {"--help"}
    assert {row[2].strip("`") for row in rows(text(API), "Limits")} - {""} <= options
