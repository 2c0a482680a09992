"""What tests of commands share: an environment of their own, a broker, and a shell to it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qtasks.tasks.registry import Registry
from tests.support.cli import Shell
from tests.support.homes import TOKEN, running_server, server_setup, url_said
from tests.support.wire import WireServer


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("QTASKS_", "QSTASH_")) or name == "NO_COLOR":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_foreign_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what other test modules declared without an app, which every app of a process shares."""
    monkeypatch.setattr("qtasks.home.loading.DEFAULT", Registry())


@pytest.fixture
async def hook() -> AsyncIterator[WireServer]:
    """A destination that answers 200 unless it is told otherwise."""
    async with WireServer() as server:
        yield server


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """A shell whose environment names a standalone broker."""
    async with running_server(server_setup(tmp_path / "q.db")) as said:
        yield Shell({"QTASKS_BROKER": url_said(said), "QTASKS_TOKEN": TOKEN})
