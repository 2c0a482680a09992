"""Database connections of tasks under Django: none outlives its task, and async tasks share no thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.db import connections

from qtasks import QTasks, TaskFailed
from qtasks.integrations.django import with_tasks
from tests.support.django_site import configure
from tests.support.homes import SOON_S, embedded
from tests.support.lifespans import lifespan_of

used: list[Any] = []


@pytest.fixture
def tasks(store: Path) -> QTasks:
    used.clear()
    return embedded(store, threads=1, defaults={"retries": 0})


@asynccontextmanager
async def site(tasks: QTasks) -> AsyncIterator[None]:
    """Serve a Django site with these tasks."""
    configure()
    async with lifespan_of(with_tasks(get_asgi_application(), tasks)):
        yield


def use_the_database() -> None:
    connection = connections["default"]
    connection.cursor().execute("SELECT 1")
    assert connection.connection is not None
    used.append(connection)


async def test_the_connection_of_a_plain_task_is_closed_after_it_even_if_it_raises(tasks: QTasks) -> None:
    @tasks.task
    def ask(fail: bool) -> None:
        use_the_database()
        if fail:
            raise LookupError("no row")

    async with site(tasks):
        await (await ask.adelay(fail=False)).aget(SOON_S)
        assert [each.connection for each in used] == [None]
        with pytest.raises(TaskFailed, match="no row"):
            await (await ask.adelay(fail=True)).aget(SOON_S)
        assert [each.connection for each in used] == [None, None]


async def test_the_connection_of_an_async_task_is_closed_after_it_even_if_it_raises(tasks: QTasks) -> None:
    @tasks.task
    async def ask(fail: bool) -> None:
        await sync_to_async(use_the_database)()
        if fail:
            raise LookupError("no row")

    async with site(tasks):
        await (await ask.adelay(fail=False)).aget(SOON_S)
        with pytest.raises(TaskFailed, match="no row"):
            await (await ask.adelay(fail=True)).aget(SOON_S)

    assert [each.connection for each in used] == [None, None]


async def test_async_tasks_use_the_orm_side_by_side(tasks: QTasks) -> None:
    both = threading.Barrier(2, timeout=SOON_S)

    @tasks.task
    async def meet() -> int:
        await sync_to_async(both.wait)()
        return await sync_to_async(threading.get_ident)()

    async with site(tasks):
        results = [await meet.adelay() for _ in range(2)]
        first, second = await asyncio.gather(*(each.aget(SOON_S) for each in results))

    assert first != second
