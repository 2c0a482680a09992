"""Calls in a transaction of the app's own database, relayed from there to a broker that is elsewhere."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from qtasks import QTasks
from tests.support.homes import SOON_S, embedded, until
from tests.support.postgres import Postgres
from tests.support.transactions import ON_POSTGRES, ON_SQLITE, Story


class Shop:
    """An app with a broker on a SQLite file and an outbox elsewhere, and what its task was called with."""

    def __init__(self, folder: Path, outbox: Any) -> None:
        self.folder = folder
        self.seen: list[int] = []
        self.tasks: QTasks = embedded(folder / "q.db", outbox=outbox)
        seen = self.seen

        async def note(number: int) -> int:
            seen.append(number)
            return number

        self.note = self.tasks.task(name="note")(note)


def rows(url: str) -> int:
    """Say how many calls wait in the outbox of a database."""
    connection: Any = sqlite3.connect(url[10:]) if url.startswith("sqlite") else psycopg.connect(url)
    with closing(connection):
        found: int = connection.execute("SELECT count(*) FROM qtasks_outbox").fetchone()[0]
        return found


@pytest.fixture
def on_sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'app.db'}"


@pytest.fixture
def on_postgres(postgres: Postgres) -> str:
    name = f"app_{postgres.new_store().rpartition('=')[2]}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres.url(name)


@pytest.fixture
async def sqlite_shop(tmp_path: Path, on_sqlite: str) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path, on_sqlite)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        shop.tasks.outbox.create(connection)
        connection.commit()
    async with shop.tasks.lifespan():
        yield shop


@pytest.fixture
async def postgres_shop(tmp_path: Path, on_postgres: str) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path, on_postgres)
    connection = await psycopg.AsyncConnection.connect(on_postgres)
    await shop.tasks.outbox.acreate(connection)
    await connection.commit()
    await connection.close()
    async with shop.tasks.lifespan():
        yield shop


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("story", ON_SQLITE.values(), ids=ON_SQLITE)
async def test_calls_in_sqlite_go_out_if_the_caller_commits(
    sqlite_shop: Shop, on_sqlite: str, story: Story, commits: bool
) -> None:
    await story(on_sqlite, sqlite_shop.note, commits)

    await _ends_as_told(sqlite_shop, on_sqlite, commits)


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("story", ON_POSTGRES.values(), ids=ON_POSTGRES)
async def test_calls_in_postgresql_go_out_if_the_caller_commits(
    postgres_shop: Shop, on_postgres: str, story: Story, commits: bool
) -> None:
    await story(on_postgres, postgres_shop.note, commits)

    await _ends_as_told(postgres_shop, on_postgres, commits)


async def _ends_as_told(shop: Shop, url: str, commits: bool) -> None:
    assert await (await shop.note.adelay(7)).aget(SOON_S) == 7
    await until(lambda: rows(url) == 0)
    await until(lambda: len(shop.seen) == (3 if commits else 1))
    assert sorted(shop.seen) == ([1, 3, 7] if commits else [7])
