"""Every kind of database, to each of which the conformance tests are put."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qtasks.broker.store.database import Database
from qtasks.broker.store.memory import MemoryDatabase
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from tests.support.store import Verbs


def _sqlite(folder: Path) -> Database:
    return SqliteDatabase(str(folder / "q.db"))


def _memory(folder: Path) -> Database:
    return MemoryDatabase()


DATABASES: dict[str, Callable[[Path], Database]] = {"sqlite": _sqlite, "memory": _memory}


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = DATABASES[request.param](tmp_path)
    yield database
    database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(database: Database, clock: ManualClock) -> Verbs:
    return Verbs(database, clock)
