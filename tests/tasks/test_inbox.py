"""An effect that happens once: marked in the effect's own transaction, by the id of its task."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from django.db import connections, transaction
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from qtasks import ArgumentsError, ConfigurationError, Context, EncodeError
from qtasks.clock import ManualClock
from qtasks.tasks.app_tables import InboxTable
from qtasks.tasks.context import make_context
from tests.support.postgres import Postgres
from tests.support.transactions import alchemy_url, django_alias

CLOCK = ManualClock()
DAY_MS = 86_400_000
atomic: Any = transaction.atomic  # Django has no types
Opening = Callable[[], AbstractContextManager[Any]]
"""Opens a transaction that is committed at the end of a block, or rolled back by an exception."""


def context(task_id: str = "tsk_1") -> Context:
    """Give the context of an attempt of a task."""
    return make_context("charge", task_id, "msg_1", retried=0, enqueued_at=CLOCK.now(), clock=CLOCK)


@pytest.fixture
def on_postgres(postgres: Postgres) -> str:
    name = f"inbox_{postgres.new_store().rpartition('=')[2]}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    with psycopg.connect(postgres.url(name)) as connection:
        InboxTable(CLOCK).create(connection)
        connection.execute("CREATE TABLE effects (number INT)")
    return postgres.url(name)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        InboxTable(CLOCK).create(connection)
        connection.execute("CREATE TABLE effects (number INT)")
        connection.commit()
    return f"sqlite:///{tmp_path / 'app.db'}"


@contextmanager
def in_psycopg(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as connection:
        yield connection


@contextmanager
def in_sqlite3(url: str) -> Iterator[Any]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        yield connection


@contextmanager
def in_sqlalchemy(url: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(alchemy_url(url))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def in_session(url: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(alchemy_url(url))
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


@contextmanager
def in_django(url: str) -> Iterator[Any]:
    alias = django_alias(url)
    try:
        with atomic(using=alias):
            yield connections[alias]
    finally:
        connections[alias].close()


SYNC = {
    "psycopg": ("on_postgres", in_psycopg),
    "sqlalchemy on postgresql": ("on_postgres", in_sqlalchemy),
    "session on postgresql": ("on_postgres", in_session),
    "django on postgresql": ("on_postgres", in_django),
    "sqlite3": ("on_sqlite", in_sqlite3),
    "sqlalchemy on sqlite": ("on_sqlite", in_sqlalchemy),
    "session on sqlite": ("on_sqlite", in_session),
    "django on sqlite": ("on_sqlite", in_django),
}


@pytest.fixture(params=SYNC.values(), ids=list(SYNC))
def opening(request: pytest.FixtureRequest) -> Opening:
    place, open_it = request.param
    url = request.getfixturevalue(place)
    return lambda: open_it(url)


class Lost(Exception):
    """What a test lets fail."""


def test_a_repeat_finds_the_effect_made_and_its_result(opening: Opening) -> None:
    with opening() as connection, context().once(connection) as fresh:
        assert fresh
        fresh.result = {"charged": 5}

    with opening() as connection, context().once(connection) as repeat:
        assert not repeat
        assert repeat.result == {"charged": 5}
    with opening() as connection, context("tsk_2").once(connection) as other:
        assert other


def test_a_rollback_leaves_the_effect_to_be_made(opening: Opening) -> None:
    def effect_and_loss() -> None:
        with opening() as connection:
            with context().once(connection) as fresh:
                assert fresh
            raise Lost

    with pytest.raises(Lost):
        effect_and_loss()

    with opening() as connection, context().once(connection) as again:
        assert again


def test_an_error_in_the_block_leaves_the_effect_to_be_made(opening: Opening) -> None:
    with opening() as connection, pytest.raises(Lost), context().once(connection):
        raise Lost

    with opening() as connection, context().once(connection) as again:
        assert again


def test_each_key_is_an_effect_of_its_own(on_postgres: str) -> None:
    with (
        in_psycopg(on_postgres) as connection,
        context().once(connection, "charge") as charge,
        context().once(connection, "ship") as ship,
    ):
        assert charge
        assert ship

    with in_psycopg(on_postgres) as connection, context().once(connection, "charge") as charge:
        assert not charge
        assert charge.result is None


def test_whoever_comes_second_waits_for_the_first(on_postgres: str) -> None:
    answers: list[tuple[bool, Any]] = []

    def second() -> None:
        with in_psycopg(on_postgres) as connection, context().once(connection) as fresh:
            answers.append((bool(fresh), fresh.result))

    with in_psycopg(on_postgres) as connection:
        with context().once(connection) as fresh:
            fresh.result = "first"
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert answers == []
    waiting.join(10)

    assert answers == [(False, "first")]


async def test_an_async_connection_of_psycopg_does_the_same(on_postgres: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(on_postgres) as connection,
        context().once(connection) as fresh,
    ):
        assert fresh
        fresh.result = [1]
    async with await psycopg.AsyncConnection.connect(on_postgres) as connection:
        with pytest.raises(Lost):
            async with context("tsk_2").once(connection):
                raise Lost
        async with context("tsk_2").once(connection) as again:
            assert again
        async with context().once(connection) as repeat:
            assert (bool(repeat), repeat.result) == (False, [1])


async def test_an_async_session_of_sqlalchemy_does_the_same(on_postgres: str) -> None:
    engine = create_async_engine(alchemy_url(on_postgres))
    async with AsyncSession(engine) as session, session.begin(), context().once(session) as fresh:
        assert fresh
        fresh.result = "kept"
    async with engine.begin() as connection, context().once(connection) as repeat:
        assert (bool(repeat), repeat.result) == (False, "kept")
    await engine.dispose()


def test_a_connection_that_commits_by_itself_is_refused(on_postgres: str, on_sqlite: str) -> None:
    engine = sqlalchemy.create_engine(alchemy_url(on_postgres), isolation_level="AUTOCOMMIT")
    alias = django_alias(on_postgres)
    path = on_sqlite.removeprefix("sqlite:///")
    with (
        psycopg.connect(on_postgres, autocommit=True) as direct,
        closing(sqlite3.connect(path, isolation_level=None)) as file,
        engine.connect() as by_engine,
        Session(engine) as session,
        closing(connections[alias]) as by_django,
    ):
        for connection in (direct, file, by_engine, session, by_django):
            with pytest.raises(ArgumentsError, match=r"needs a transaction.*Begin one around it"):
                context().once(connection).__enter__()
        with direct.transaction(), context().once(direct) as fresh:
            assert fresh
        file.execute("BEGIN")
        with context().once(file) as fresh:
            assert fresh
        file.execute("COMMIT")
    engine.dispose()


def test_without_the_table_the_error_says_how_to_make_it(tmp_path: Path, postgres: Postgres) -> None:
    for opened in (in_sqlite3(f"sqlite:///{tmp_path / 'no.db'}"), in_psycopg(postgres.url("template1"))):
        with opened as connection:
            once = context().once(connection)
            with pytest.raises(ConfigurationError, match=r"make it with tasks\.inbox\.create\(connection\)"):
                once.__enter__()


def test_what_is_no_json_cannot_be_kept(on_sqlite: str) -> None:
    def keep_an_object() -> None:
        with in_sqlite3(on_sqlite) as connection, context().once(connection) as fresh:
            fresh.result = object()

    with pytest.raises(EncodeError, match=r"once\.result is kept as JSON"):
        keep_an_object()

    with in_sqlite3(on_sqlite) as connection, context().once(connection) as again:
        assert again


def test_old_marks_are_pruned(opening: Opening) -> None:
    clock = ManualClock()
    with opening() as connection:
        for task_id in ("tsk_1", "tsk_2"):
            made = make_context("charge", task_id, "msg_1", retried=0, enqueued_at=0, clock=clock)
            with made.once(connection):
                clock.advance(DAY_MS)

    with opening() as connection:
        assert InboxTable(clock).prune(connection, older_than="36h") == 1
    with opening() as connection, context("tsk_2").once(connection) as kept:
        assert not kept
    with opening() as connection, context("tsk_1").once(connection) as pruned:
        assert pruned


def test_the_ddl_can_be_had_as_text(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.executescript(InboxTable(CLOCK).ddl("sqlite"))
        with connection, context().once(connection) as fresh:
            assert fresh
    assert "BIGINT" in InboxTable(CLOCK).ddl("postgresql")
    with pytest.raises(ArgumentsError, match="'oracle' is no database that can have it"):
        InboxTable(CLOCK).ddl("oracle")


async def test_the_async_ways_of_the_table(on_postgres: str) -> None:
    table = InboxTable(CLOCK)
    async with await psycopg.AsyncConnection.connect(on_postgres) as connection:
        await table.acreate(connection)
        async with context().once(connection):
            await asyncio.sleep(0)
        assert await table.aprune(connection, older_than="1d") == 0
