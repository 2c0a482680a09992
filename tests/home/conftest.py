"""What the tests of this room start from: a file for a broker, and an environment that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import quiet_environment


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_environment(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "q.db"
