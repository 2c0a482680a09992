"""Calls that are sent after a commit, by Django's and SQLAlchemy's own hooks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from django.core.management import call_command
from django.db import connections, transaction
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from qtasks import EncodeError, QTasks
from qtasks.integrations import django as on_django
from qtasks.integrations.sqlalchemy import delay_on_commit
from tests.support.django_site import configure
from tests.support.homes import embedded, until
from tests.support.postgres import Postgres
from tests.support.transactions import alchemy_url, django_alias

atomic: Any = transaction.atomic  # Django has no types


class Shop:
    """An app whose task notes its calls."""

    def __init__(self, store: Path) -> None:
        self.tasks: QTasks = embedded(store)
        self.seen: list[int] = []
        seen = self.seen

        async def note(number: int) -> None:
            seen.append(number)

        self.note = self.tasks.task(name="note")(note)

    async def ends_with(self, *numbers: int) -> None:
        """See that these calls were made, and no others before the next one."""
        await self.note.adelay(99)
        await until(lambda: 99 in self.seen and len(self.seen) > len(numbers))
        assert sorted(self.seen) == sorted([*numbers, 99])


@pytest.fixture
async def shop(store: Path) -> AsyncIterator[Shop]:
    made = Shop(store)
    async with made.tasks.lifespan():
        yield made


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    return sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'app.db'}")


async def test_a_session_sends_what_it_has_committed(shop: Shop, engine: Any) -> None:
    with Session(engine) as session:
        delay_on_commit(session, shop.note, 1)
        assert shop.seen == []
        session.commit()
        delay_on_commit(session, shop.note, 2)
        session.rollback()
        delay_on_commit(session, shop.note, 3)
        session.commit()
        session.commit()

    await shop.ends_with(1, 3)


async def test_a_savepoint_that_is_rolled_back_takes_its_calls_along(shop: Shop, engine: Any) -> None:
    with Session(engine) as session, session.begin():
        delay_on_commit(session, shop.note, 1)
        with session.begin_nested():
            delay_on_commit(session, shop.note, 2)
        with session.begin_nested() as undone:
            delay_on_commit(session, shop.note, 3)
            with session.begin_nested():
                delay_on_commit(session, shop.note, 4)
            undone.rollback()

    await shop.ends_with(1, 2)


async def test_a_savepoint_in_a_transaction_that_is_rolled_back_sends_nothing(
    shop: Shop, engine: Any
) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            delay_on_commit(session, shop.note, 1)
        session.rollback()

    await shop.ends_with()


async def test_a_scoped_session_sends_what_it_has_committed(shop: Shop, engine: Any) -> None:
    session = scoped_session(sessionmaker(engine))
    delay_on_commit(session, shop.note, 1)
    session.commit()
    session.remove()

    await shop.ends_with(1)


async def test_an_async_session_sends_what_it_has_committed(shop: Shop, postgres: Postgres) -> None:
    engine = create_async_engine(alchemy_url(postgres.url("postgres")))
    async with AsyncSession(engine) as session:
        delay_on_commit(session, shop.note, 1)
        await session.commit()
        delay_on_commit(session, shop.note, 2)
        await session.rollback()
    await engine.dispose()

    await shop.ends_with(1)


async def test_arguments_are_checked_at_the_call(shop: Shop, engine: Any) -> None:
    wrong: Any = "one"
    with Session(engine) as session:
        with pytest.raises(EncodeError, match="expected int"):
            delay_on_commit(session, shop.note, wrong)
        session.commit()

    await shop.ends_with()


async def test_django_sends_what_it_has_committed(shop: Shop) -> None:
    configure()

    def work() -> None:
        on_django.delay_on_commit(shop.note, 1)
        with atomic():
            on_django.delay_on_commit(shop.note, 2)
            assert len(shop.seen) <= 1
        with atomic():
            on_django.delay_on_commit(shop.note, 3)
            transaction.set_rollback(True)
        connections.close_all()

    await asyncio.to_thread(work)

    await shop.ends_with(1, 2)


def test_django_s_migration_makes_both_tables(tmp_path: Path) -> None:
    alias = django_alias(f"sqlite:///{tmp_path / 'app.db'}")

    call_command("migrate", "qtasks", database=alias, verbosity=0)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
        assert {"qtasks_outbox", "qtasks_inbox"} <= names
    call_command("migrate", "qtasks", "zero", database=alias, verbosity=0)

    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    connections[alias].close()
    assert not {"qtasks_outbox", "qtasks_inbox"} & names
