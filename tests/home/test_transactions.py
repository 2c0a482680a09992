"""Calls in a transaction of the caller's, where the broker's tables are in the same PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from statistics import median
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from qtasks import ArgumentsError, ConfigurationError, QTasks, Queue, RequestError, ResultError, Settings
from qtasks.broker.relay import LONGEST_WAIT_MS
from qtasks.home.stores import open_postgres
from tests.support import BATCH
from tests.support.homes import SECRET, SOON_S, until
from tests.support.postgres import Postgres
from tests.support.transactions import ON_POSTGRES, Story

NUMBERS = 1000


class Shop:
    """An app on a PostgreSQL, and what its task has been called with."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.tasks = QTasks(name="shop", settings=Settings(broker=url, secrets=(SECRET,), batch=BATCH))
        self.seen: list[int] = []
        self.note = self.tasks.task(name="note", queue="line")(self._make())

    def has_seen(self, count: int) -> bool:
        return len(self.seen) == count

    def _make(self) -> Any:
        async def note(number: int) -> int:
            self.seen.append(number)
            return number

        return note


@pytest.fixture
async def shop(postgres: Postgres) -> AsyncIterator[Shop]:
    made = Shop(postgres.new_store())
    async with made.tasks.lifespan():
        yield made


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.url("postgres")


def outbox_rows(shop: Shop) -> list[tuple[Any, ...]]:
    """Give what lies in the outbox, committed."""
    with closing(open_postgres(shop.url)) as store, psycopg.connect(store.place.conninfo) as connection:
        query = f"SELECT id, app, message, problem FROM {store.place.schema}.outbox ORDER BY id"
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize("story", ON_POSTGRES.values(), ids=ON_POSTGRES)
async def test_calls_go_out_when_the_caller_commits(shop: Shop, database: str, story: Story) -> None:
    await story(database, shop.note, True)

    await until(lambda: len(shop.seen) == 2)
    assert sorted(shop.seen) == [1, 3]
    assert outbox_rows(shop) == []


@pytest.mark.parametrize("story", ON_POSTGRES.values(), ids=ON_POSTGRES)
async def test_calls_are_gone_with_the_caller_s_rollback(shop: Shop, database: str, story: Story) -> None:
    await story(database, shop.note, False)

    assert outbox_rows(shop) == []
    assert await (await shop.note.adelay(7)).aget(SOON_S) == 7
    assert shop.seen == [7]


async def test_a_commit_wakes_the_node(shop: Shop, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    took_ms: list[float] = []
    with closing(psycopg.connect(database)) as connection:
        for number in range(20):
            await asyncio.sleep(0.02)
            shop.note.delay_in(connection, number)
            connection.commit()
            began = time.perf_counter()
            await until(partial(shop.has_seen, number + 1))
            took_ms.append(1000 * (time.perf_counter() - began))

    with capsys.disabled():
        print(f"\nfrom commit to task: median {median(took_ms):.0f} ms, at most {max(took_ms):.0f} ms")
    assert median(took_ms) < LONGEST_WAIT_MS / 4  # without the wake-up it would be half of that


async def test_a_node_behind_a_pooler_looks_often(postgres: Postgres) -> None:
    shop = Shop(f"{postgres.new_store()}&pooler=on")
    async with shop.tasks.lifespan():
        await asyncio.sleep(0.3)
        with closing(psycopg.connect(postgres.url("postgres"))) as connection:
            shop.note.delay_in(connection, 1)
            connection.commit()
        began = time.perf_counter()
        await until(lambda: shop.seen == [1])

        assert time.perf_counter() - began < LONGEST_WAIT_MS / 1000


async def test_a_call_is_unknown_until_the_caller_commits(shop: Shop, database: str) -> None:
    with closing(psycopg.connect(database)) as connection:
        result = shop.note.delay_in(connection, 1)
        assert await asyncio.to_thread(lambda: result.state) == "UNKNOWN"
        connection.commit()

    assert await result.aget(SOON_S) == 1


async def test_waiting_for_a_call_that_was_rolled_back_ends(
    shop: Shop, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtasks.tasks.patience.GRACE_MS", 100)
    with closing(psycopg.connect(database)) as connection:
        result = shop.note.delay_in(connection, 1)
        connection.rollback()

    with pytest.raises(ResultError, match="never accepted"):
        await result.aget(SOON_S)


async def test_every_call_in_a_block_belongs_to_the_transaction(shop: Shop, database: str) -> None:
    note = shop.note
    with closing(psycopg.connect(database)) as connection:
        with shop.tasks.transaction(connection):
            note.delay(1)
            note.delay_many(note.call(number) for number in (2, 3))
            await note.adelay(4)
            note.apply_async((5,), countdown=0.01)
            with shop.tasks.collect():
                note.delay(6)
            with connection.transaction(force_rollback=True):
                note.delay(7)
        note.delay(8)  # no longer in the block
        await until(lambda: shop.seen == [8])
        connection.commit()

    await until(lambda: len(shop.seen) == 7)
    assert sorted(shop.seen) == [1, 2, 3, 4, 5, 6, 8]


async def test_the_innermost_block_counts(shop: Shop, database: str) -> None:
    with closing(psycopg.connect(database)) as connection:
        with shop.tasks.collect():
            shop.note.delay(1)
            with shop.tasks.transaction(connection):
                shop.note.delay(2)
        await until(lambda: shop.seen == [1])
        connection.rollback()

    assert outbox_rows(shop) == []


async def test_an_async_block_takes_an_async_connection(shop: Shop, database: str) -> None:
    connection = await psycopg.AsyncConnection.connect(database)
    try:
        async with shop.tasks.transaction(connection):
            await shop.note.adelay(1)
            with pytest.raises(ArgumentsError, match="AsyncConnection is async: call adelay"):
                shop.note.delay(2)
        await connection.commit()
    finally:
        await connection.close()

    await until(lambda: shop.seen == [1])


async def test_row_factories_of_the_caller_do_not_matter(shop: Shop, database: str) -> None:
    told: dict[str, Any] = {"row_factory": dict_row}
    with closing(psycopg.connect(database, **told)) as connection:
        shop.note.delay_in(connection, 1)
        connection.commit()

    await until(lambda: shop.seen == [1])


async def test_calls_run_in_the_order_in_which_a_transaction_made_them(postgres: Postgres) -> None:
    seen: list[int] = []
    settings = Settings(broker=postgres.new_store(), secrets=(SECRET,), batch=BATCH)
    tasks = QTasks(name="shop", queues={"line": Queue(ordered=True, parallelism=1)}, settings=settings)

    @tasks.task(queue="line")
    async def note(number: int) -> None:
        seen.append(number)

    async with tasks.lifespan():
        with closing(psycopg.connect(postgres.url("postgres"))) as connection:
            for number in range(10):
                note.delay_in(connection, number)
            with tasks.transaction(connection):
                note.delay_many(note.call(number) for number in range(10, 100))
            connection.commit()
        await until(lambda: len(seen) == 100)

    assert seen == list(range(100))


async def test_a_thousand_calls_of_one_transaction_run_once_each(shop: Shop, database: str) -> None:
    with closing(psycopg.connect(database)) as connection:
        with shop.tasks.transaction(connection):
            shop.note.delay_many(shop.note.call(number) for number in range(NUMBERS))
        connection.commit()

    await until(lambda: len(shop.seen) >= NUMBERS)
    assert sorted(shop.seen) == list(range(NUMBERS))
    assert outbox_rows(shop) == []


async def test_a_long_transaction_keeps_nobody_waiting(shop: Shop, database: str) -> None:
    with closing(psycopg.connect(database)) as slow, closing(psycopg.connect(database)) as quick:
        shop.note.delay_in(slow, 1)
        shop.note.delay_in(quick, 2)
        quick.commit()
        await shop.note.adelay(3)
        await until(lambda: len(shop.seen) == 2)
        slow.commit()

    await until(lambda: len(shop.seen) == 3)
    assert shop.seen[-1] == 1


async def test_what_the_broker_refuses_is_refused_at_the_call(shop: Shop, database: str) -> None:
    @shop.tasks.task
    def keep(text: str) -> None: ...

    with closing(psycopg.connect(database)) as connection:
        with pytest.raises(RequestError, match="maxMessageSize"):
            keep.delay_in(connection, "x" * (10 * 1024 * 1024))
        connection.execute("SELECT 1")  # the transaction is as it was
        connection.commit()

    assert outbox_rows(shop) == []


async def test_what_became_impossible_is_kept_with_its_problem(
    shop: Shop, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(psycopg.connect(database)) as connection:
        shop.note.delay_in(connection, 1)
        schema = open_place(shop)
        connection.execute(f"UPDATE {schema}.outbox SET message = '{{}}'".encode())
        shop.note.delay_in(connection, 2)
        connection.commit()

    await until(lambda: shop.seen == [2])
    [(_, app, message, problem)] = outbox_rows(shop)
    assert (app, message) == ("shop", "{}")
    assert "cannot be read" in problem
    assert [each.message for each in caplog.records if each.name == "qtasks.relay"] == [
        "a message in the outbox was refused"
    ]


def open_place(shop: Shop) -> str:
    with closing(open_postgres(shop.url)) as store:
        return store.place.schema


async def test_a_store_of_the_same_name_in_another_database_takes_nothing(
    shop: Shop, postgres: Postgres, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE other_{open_place(shop)}".encode())
    other = postgres.url(f"other_{open_place(shop)}")

    def call() -> None:
        with closing(psycopg.connect(other)) as connection:
            shop.note.delay_in(connection, 1)

    with pytest.raises(ConfigurationError, match="another database than this connection's"):
        call()
    open_postgres(f"{other}?schema={open_place(shop)}").close()
    with pytest.raises(ConfigurationError, match="another database than this connection's"):
        call()
    with closing(psycopg.connect(other)) as connection:
        assert connection.execute(f"SELECT count(*) FROM {open_place(shop)}.outbox".encode()).fetchone() == (
            0,
        )


async def test_what_is_no_connection_is_refused(shop: Shop) -> None:
    with pytest.raises(ArgumentsError, match=r"builtins\.object is no connection that can take calls"):
        shop.note.delay_in(object(), 1)


async def test_a_call_of_another_app_is_taken_in_for_that_app(shop: Shop, database: str) -> None:
    other = Shop(shop.url)
    other.tasks = QTasks(name="mail", settings=Settings(broker=shop.url, secrets=(SECRET,), batch=BATCH))
    note = other.tasks.task(name="note")(other._make())
    with closing(psycopg.connect(database)) as connection:
        await asyncio.to_thread(note.delay_in, connection, 1)
        connection.commit()

    await until(lambda: outbox_rows(shop) == [])
    with psycopg.connect(database) as connection:
        query = f"SELECT app FROM {open_place(shop)}.pending"
        assert connection.execute(query.encode()).fetchall() == [("mail",)]
    assert shop.seen == []
    async with other.tasks.lifespan():
        pass  # closes what the call has opened
