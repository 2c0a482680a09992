"""What tests of faults start from: processes on files of the test's own, and a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.receiver import Receiver

Tell = Callable[[object], None]

# Named like tests, but they are what the tests start.
collect_ignore = ["app_under_test.py", "outbox_under_test.py", "scheduler_under_test.py"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes that share one database file."""
    with Processes(tmp_path) as started:
        yield started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A destination that runs while the test does."""
    with Receiver() as running:
        yield running


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Tell:
    """Prints a figure past the capture, with the name of the test."""

    def print_it(figure: object) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {figure}")

    return print_it
