"""The libraries with which an app speaks to its database, each with the same story of one transaction.

It calls a task with 1, then with 2 in a savepoint that is rolled back, then with 3, and ends as it is told.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg
import sqlalchemy
from django.db import connections, transaction
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.support.django_site import configure

atomic: Any = transaction.atomic  # Django has no types
Note = Any
"""A task of one number; of any app."""
Story = Callable[[str, Note, bool], Awaitable[None]]


def alchemy_url(url: str) -> str:
    """Give the address as SQLAlchemy writes it."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


async def with_psycopg(url: str, note: Note, commits: bool) -> None:
    with closing(psycopg.connect(url)) as connection:
        note.delay_in(connection, 1)
        with connection.transaction(force_rollback=True):
            note.delay_in(connection, 2)
        note.delay_in(connection, 3)
        connection.commit() if commits else connection.rollback()


async def with_psycopg_async(url: str, note: Note, commits: bool) -> None:
    connection = await psycopg.AsyncConnection.connect(url)
    try:
        await note.adelay_in(connection, 1)
        async with connection.transaction(force_rollback=True):
            await note.adelay_in(connection, 2)
        await note.adelay_in(connection, 3)
        await (connection.commit() if commits else connection.rollback())
    finally:
        await connection.close()


async def with_sqlite3(url: str, note: Note, commits: bool) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        note.delay_in(connection, 1)
        connection.execute("SAVEPOINT inner")
        note.delay_in(connection, 2)
        connection.execute("ROLLBACK TO inner")
        note.delay_in(connection, 3)
        connection.commit() if commits else connection.rollback()


async def with_sqlalchemy(url: str, note: Note, commits: bool) -> None:
    engine = sqlalchemy.create_engine(alchemy_url(url))
    try:
        with engine.connect() as connection:
            note.delay_in(connection, 1)
            with connection.begin_nested() as inner:
                note.delay_in(connection, 2)
                inner.rollback()
            note.delay_in(connection, 3)
            connection.commit() if commits else connection.rollback()
    finally:
        engine.dispose()


async def with_sqlalchemy_session(url: str, note: Note, commits: bool) -> None:
    engine = sqlalchemy.create_engine(alchemy_url(url))
    try:
        with Session(engine) as session:
            note.delay_in(session, 1)
            with session.begin_nested() as inner:
                note.delay_in(session, 2)
                inner.rollback()
            note.delay_in(session, 3)
            session.commit() if commits else session.rollback()
    finally:
        engine.dispose()


async def with_sqlalchemy_async(url: str, note: Note, commits: bool) -> None:
    engine = create_async_engine(alchemy_url(url))
    try:
        async with engine.connect() as connection:
            await note.adelay_in(connection, 1)
            async with connection.begin_nested() as inner:
                await note.adelay_in(connection, 2)
                await inner.rollback()
            await note.adelay_in(connection, 3)
            await (connection.commit() if commits else connection.rollback())
    finally:
        await engine.dispose()


async def with_sqlalchemy_async_session(url: str, note: Note, commits: bool) -> None:
    engine = create_async_engine(alchemy_url(url))
    try:
        async with AsyncSession(engine) as session:
            await note.adelay_in(session, 1)
            async with session.begin_nested() as inner:
                await note.adelay_in(session, 2)
                await inner.rollback()
            await note.adelay_in(session, 3)
            await (session.commit() if commits else session.rollback())
    finally:
        await engine.dispose()


class _Undo(Exception):
    """Ends a block of Django's with a rollback."""


async def with_django(url: str, note: Note, commits: bool) -> None:
    await asyncio.to_thread(_with_django, url, note, commits)


def _with_django(url: str, note: Note, commits: bool) -> None:
    alias = django_alias(url)
    connection = connections[alias]
    try:
        with atomic(using=alias):
            note.delay_in(connection, 1)
            try:
                with atomic(using=alias):
                    note.delay_in(connection, 2)
                    raise _Undo
            except _Undo:
                pass
            note.delay_in(connection, 3)
            if not commits:
                raise _Undo
    except _Undo:
        pass
    finally:
        connection.close()


def django_alias(url: str) -> str:
    """Make a database known to Django, and give its name there."""
    configure()
    known: Any = connections.databases
    parts = urlsplit(url)
    usual = dict(known["default"])
    if parts.scheme == "sqlite":
        told = {"ENGINE": "django.db.backends.sqlite3", "NAME": url.removeprefix("sqlite:///")}
    else:
        told = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path[1:],
            "USER": parts.username or "",
            "HOST": parts.hostname or "",
            "PORT": str(parts.port),
        }
    alias = f"of_{url}"
    known[alias] = usual | told
    return alias


ON_POSTGRES: dict[str, Story] = {
    "psycopg": with_psycopg,
    "psycopg async": with_psycopg_async,
    "sqlalchemy": with_sqlalchemy,
    "sqlalchemy session": with_sqlalchemy_session,
    "sqlalchemy async": with_sqlalchemy_async,
    "sqlalchemy async session": with_sqlalchemy_async_session,
    "django": with_django,
}
ON_SQLITE: dict[str, Story] = {
    "sqlite3": with_sqlite3,
    "sqlalchemy": with_sqlalchemy,
    "sqlalchemy session": with_sqlalchemy_session,
    "django": with_django,
}
