"""Calls in a transaction of the app's own database, relayed from there to a broker that is elsewhere."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy

from qtasks import ConfigurationError, QTasks, Queue
from qtasks.testing import Kit
from tests.support.homes import SOON_S, embedded, remote_settings, running_server, server_setup, until
from tests.support.postgres import Postgres
from tests.support.processes import free_port
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


async def test_calls_of_a_block_go_out_in_their_order(tmp_path: Path, on_sqlite: str) -> None:
    seen: list[int] = []
    tasks = embedded(tmp_path / "q.db", outbox=on_sqlite, queues={"line": Queue(ordered=True, parallelism=1)})

    @tasks.task(queue="line")
    async def note(number: int) -> None:
        seen.append(number)

    async with tasks.lifespan():
        with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
            tasks.outbox.create(connection)
            for number in range(10):
                note.delay_in(connection, number)
            with tasks.transaction(connection):
                note.delay_many(note.call(number) for number in range(10, 1000))
            connection.commit()
        await until(lambda: len(seen) == 1000)

    assert seen == list(range(1000))
    assert rows(on_sqlite) == 0


async def test_a_wait_for_a_call_begins_before_it_is_relayed(sqlite_shop: Shop, on_sqlite: str) -> None:
    with closing(sqlite3.connect(on_sqlite[10:])) as connection:
        result = sqlite_shop.note.delay_in(connection, 5)
        connection.commit()

    assert await result.aget(SOON_S) == 5


async def test_a_call_that_the_broker_refuses_is_kept_with_its_problem(
    sqlite_shop: Shop, on_sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    note = sqlite_shop.note
    with closing(sqlite3.connect(on_sqlite[10:])) as connection:
        note.delay_in(connection, 1)
        note.with_options(expires=0.001).delay_in(connection, 2)
        note.delay_in(connection, 3)
        connection.execute("UPDATE qtasks_outbox SET message = 'nothing' WHERE id = 3")
        note.delay_in(connection, 4)
        await asyncio.sleep(0.01)
        connection.commit()

    await until(lambda: len(sqlite_shop.seen) == 2)
    await until(lambda: rows(on_sqlite) == 2)
    assert sqlite_shop.seen == [1, 4]
    with closing(sqlite3.connect(on_sqlite[10:])) as connection:
        problems = connection.execute("SELECT id, problem FROM qtasks_outbox ORDER BY id").fetchall()
    assert [id for id, _ in problems] == [2, 3]
    assert "Qtasks-Expires" in problems[0][1]
    assert "cannot be read" in problems[1][1]
    assert [each.levelname for each in caplog.records if each.name == "qtasks.outbox"] == ["ERROR"] * 2


async def test_calls_wait_for_a_broker_that_does_not_answer(tmp_path: Path, on_sqlite: str) -> None:
    port = free_port()
    settings = replace(remote_settings(f"http://127.0.0.1:{port}"), send_budget_ms=100)
    tasks = QTasks(outbox=on_sqlite, settings=settings)

    @tasks.task
    async def note(number: int) -> None: ...

    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        tasks.outbox.create(connection)
        for number in range(3):
            note.delay_in(connection, number)
        connection.commit()
    async with tasks.lifespan():
        await asyncio.sleep(0.3)
        assert rows(on_sqlite) == 3
        async with running_server(server_setup(tmp_path / "q.db", port=port)):
            await until(lambda: rows(on_sqlite) == 0)

    with closing(sqlite3.connect(tmp_path / "q.db")) as stored:
        assert stored.execute("SELECT count(*) FROM messages").fetchone() == (3,)


@pytest.mark.parametrize("kind", ["sqlite3", "sqlalchemy", "psycopg"])
async def test_a_function_may_open_the_connection(
    tmp_path: Path, on_sqlite: str, on_postgres: str, kind: str
) -> None:
    engine = sqlalchemy.create_engine(on_sqlite)
    ways: dict[str, Any] = {
        "sqlite3": lambda: sqlite3.connect(tmp_path / "app.db"),
        "sqlalchemy": engine.connect,
        "psycopg": lambda: psycopg.connect(on_postgres),
    }
    opening = ways[kind]
    shop = Shop(tmp_path, opening)

    async with shop.tasks.lifespan():
        with closing(opening()) as connection:
            shop.tasks.outbox.create(connection)
            shop.note.delay_in(connection, 1)
            connection.commit()
        await until(lambda: shop.seen == [1])
    engine.dispose()


async def test_without_an_outbox_the_error_says_what_to_do(tmp_path: Path) -> None:
    shop = Shop(tmp_path, None)

    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        with pytest.raises(ConfigurationError, match=r'need an outbox there: QTasks\(outbox="postgresql://'):
            shop.note.delay_in(connection, 1)
        with shop.tasks.transaction(connection), pytest.raises(ConfigurationError, match="need an outbox"):
            await shop.note.adelay(1)


def test_without_the_table_the_error_says_how_to_make_it(tmp_path: Path, on_sqlite: str) -> None:
    shop = Shop(tmp_path, on_sqlite)

    with (
        closing(sqlite3.connect(tmp_path / "app.db")) as connection,
        pytest.raises(ConfigurationError, match=r"make it with tasks\.outbox\.create\(connection\)"),
    ):
        shop.note.delay_in(connection, 1)


def test_an_outbox_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"an outbox cannot be in mysql: name the app's database"):
        Shop(tmp_path, "mysql://host/app")


def test_the_broker_s_own_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"q\.db is the broker's own file, which nobody else may"):
        Shop(tmp_path, f"sqlite:///{tmp_path / 'q.db'}")


async def test_under_test_calls_go_out_at_once(tmp_path: Path, on_sqlite: str) -> None:
    shop = Shop(tmp_path, on_sqlite)

    with Kit(shop.tasks) as kit, closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        shop.note.delay_in(connection, 1)
        await shop.note.adelay_in(connection, 2)
        with shop.tasks.transaction(connection):
            shop.note.delay(3)
        connection.rollback()
        await kit.adrain()

    assert sorted(shop.seen) == [1, 2, 3]
