"""What contract tests start from: a real standalone broker and a real destination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inbox import Inbox
from tests.support.processes import BrokerProcess, Processes


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """A destination that keeps what it gets."""
    with Inbox() as running:
        yield running


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A standalone broker in a process of its own."""
    with Processes(tmp_path) as processes:
        yield processes.broker()
