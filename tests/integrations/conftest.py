"""What the tests of this room start from: a file for a broker, and an environment that says nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import quiet_environment


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_environment(monkeypatch)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Some frameworks set up logging for the whole process as soon as an app is made."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "q.db"
