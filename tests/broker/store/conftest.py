"""Every kind of database, to each of which the conformance tests are put."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from qtasks.broker.store.database import Database
from qtasks.broker.store.memory import MemoryDatabase
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from tests.support.postgres import Postgres
from tests.support.store import Verbs


def _sqlite(request: pytest.FixtureRequest) -> Database:
    return SqliteDatabase(str(request.getfixturevalue("tmp_path") / "q.db"))


def _memory(request: pytest.FixtureRequest) -> Database:
    return MemoryDatabase()


def _postgres(request: pytest.FixtureRequest) -> Database:
    server: Postgres = request.getfixturevalue("postgres")
    return PostgresDatabase(server.new_store())


DATABASES: dict[str, Callable[[pytest.FixtureRequest], Database]] = {
    "sqlite": _sqlite,
    "memory": _memory,
    "postgres": _postgres,
}


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = DATABASES[request.param](request)
    yield database
    database.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(database: Database, clock: ManualClock) -> Verbs:
    return Verbs(database, clock)
