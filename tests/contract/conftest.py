"""What contract tests start from: a broker in process, one on loopback, or one in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Rig
from tests.support.contract import Bench, MakeBench, Standalone, bench_of, standalone_at
from tests.support.inbox import Inbox
from tests.support.processes import BrokerProcess, Processes


@pytest.fixture
async def make_bench(tmp_path: Path) -> AsyncIterator[MakeBench]:
    """Make a broker in process with the limits that a test is about."""
    async with AsyncExitStack() as stack:

        async def make(**config: Any) -> Bench:
            rig = Rig(tmp_path, **config)
            stack.callback(rig.database.close)
            return await stack.enter_async_context(bench_of(rig))

        yield make


@pytest.fixture
async def bench(make_bench: MakeBench) -> Bench:
    """A broker in process, with a hand-moved clock and destinations that answer as they are told."""
    return await make_bench()


@pytest.fixture
async def standalone(tmp_path: Path) -> AsyncIterator[Standalone]:
    """A broker that listens on loopback, with a destination that shows what arrives byte for byte."""
    async with standalone_at(tmp_path / "q.db") as running:
        yield running


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
