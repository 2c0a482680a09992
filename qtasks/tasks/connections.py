"""Runs a statement in the transaction of a connection of the caller's, whichever library it is from.

Kinds are told apart by the names of their types, and their libraries are not imported. Nothing here begins
or ends a transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from qtasks.errors import ArgumentsError
from qtasks.sql_texts import PARAMETER, Statement

Row = tuple[Any, ...]

POSTGRES, SQLITE = "postgres", "sqlite"
_DIALECTS = {"postgresql": POSTGRES, "sqlite": SQLITE}
_NO_TABLE = ("42P01", "3F000")  # PostgreSQL's undefined_table, and invalid_schema_name


class Connection(Protocol):
    """What is needed of a connection. An async one refuses `rows`; all have `arows`."""

    @property
    def dialect(self) -> str:
        """`postgres` or `sqlite`; raises `ArgumentsError` for another database."""
        ...

    @property
    def commits_alone(self) -> bool:
        """Whether no transaction is open and each statement would be committed by itself."""
        ...

    def rows(self, statement: Statement) -> list[Row]:
        """Run it and give all rows, if there are any; raises what the connection does."""
        ...

    async def arows(self, statement: Statement) -> list[Row]:
        """Do what `rows` does; on a sync connection it blocks the event loop as all use of it does."""
        ...


def find_connection(connection: Any) -> Connection:
    """Give what runs statements on a connection; raises `ArgumentsError` for what is none that we know."""
    for base in type(connection).__mro__:
        made = _KINDS.get((base.__module__.partition(".")[0], base.__name__))
        if made is not None:
            return made(connection)
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    raise ArgumentsError(
        f"{kind} is no connection that can take calls: "
        "give one of psycopg or sqlite3, a connection or session of SQLAlchemy, or Django's"
    )


def written(statement: Statement, style: str) -> tuple[str, Any]:
    """Write a statement in a driver's style of parameters, as PEP 249 names them.

    >>> written(Statement("SELECT :a, '%', :b", {"a": 1, "b": 2}), "format")
    ("SELECT %s, '%%', %s", (1, 2))
    """
    text, params = statement.text, statement.params
    if style == "named":
        return text, dict(params)
    if style == "pyformat":
        return PARAMETER.sub(r"%(\1)s", text.replace("%", "%%")), dict(params)
    values = tuple(params[name] for name in PARAMETER.findall(text))
    if style == "format":
        return PARAMETER.sub("%s", text.replace("%", "%%")), values
    if style == "qmark":
        return PARAMETER.sub("?", text), values
    for place in range(len(values)):  # "numeric_dollar"
        text = PARAMETER.sub(f"${place + 1}", text, count=1)
    return text, values


def has_no_table(error: BaseException) -> bool:
    """Say whether an error of a driver, or of a library around it, is about a table that is not there."""
    causes = (error, getattr(error, "orig", None), error.__cause__)
    states = {getattr(each, name, None) for each in causes for name in ("sqlstate", "pgcode")}
    return not states.isdisjoint(_NO_TABLE) or any(str(each).startswith("no such table") for each in causes)


class _Sync(ABC):
    """What a sync connection does the same in both worlds."""

    @abstractmethod
    def rows(self, statement: Statement) -> list[Row]: ...

    async def arows(self, statement: Statement) -> list[Row]:
        return self.rows(statement)


class _Async:
    """What only an event loop can do."""

    connection: Any

    def rows(self, statement: Statement) -> list[Row]:
        kind = type(self.connection).__name__
        raise ArgumentsError(f"{kind} is async: call adelay, adelay_in and their kin, and await them")


def _tuples(cursor: Any) -> type[tuple[Any, ...]]:
    """A row factory of psycopg, whichever one the connection has."""
    return tuple


class _Psycopg(_Sync):
    dialect = POSTGRES

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @property
    def commits_alone(self) -> bool:
        return bool(self.connection.autocommit) and self.connection.info.transaction_status.name == "IDLE"

    def rows(self, statement: Statement) -> list[Row]:
        with self.connection.cursor(row_factory=_tuples) as cursor:
            cursor.execute(*written(statement, "pyformat"))
            return cursor.fetchall() if cursor.description else []


class _AsyncPsycopg(_Async):
    dialect = POSTGRES
    commits_alone = _Psycopg.commits_alone

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def arows(self, statement: Statement) -> list[Row]:
        async with self.connection.cursor(row_factory=_tuples) as cursor:
            await cursor.execute(*written(statement, "pyformat"))
            return await cursor.fetchall() if cursor.description else []


class _Sqlite(_Sync):
    dialect = SQLITE

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @property
    def commits_alone(self) -> bool:
        is_told = getattr(self.connection, "autocommit", None) is True  # from Python 3.12 on
        return (is_told or self.connection.isolation_level is None) and not self.connection.in_transaction

    def rows(self, statement: Statement) -> list[Row]:
        cursor = self.connection.cursor()
        cursor.row_factory = None
        try:
            return list(cursor.execute(*written(statement, "named")).fetchall())
        finally:
            cursor.close()


class _Django(_Sync):
    """`django.db.connection`, one of `connections`, or what they stand for."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @property
    def dialect(self) -> str:
        return _dialect(self.connection.vendor)

    @property
    def commits_alone(self) -> bool:
        return bool(self.connection.get_autocommit())

    def rows(self, statement: Statement) -> list[Row]:
        with self.connection.cursor() as cursor:
            cursor.execute(*written(statement, "format"))
            return [tuple(each) for each in cursor.fetchall()] if cursor.description else []


class _Alchemy(_Sync):
    """A connection, or a session, which has one."""

    def __init__(self, connection: Any) -> None:
        is_session = hasattr(connection, "get_bind")
        self.connection = connection.connection() if is_session else connection

    @property
    def dialect(self) -> str:
        return _dialect(self.connection.dialect.name)

    @property
    def commits_alone(self) -> bool:
        return _driver_commits_alone(self.connection)

    def rows(self, statement: Statement) -> list[Row]:
        result = self.connection.exec_driver_sql(*written(statement, self.connection.dialect.paramstyle))
        return [tuple(each) for each in result.fetchall()] if result.returns_rows else []


class _AsyncAlchemy(_Async):
    """The same of its asyncio."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @property
    def dialect(self) -> str:
        return _dialect(self._bind().dialect.name)

    @property
    def commits_alone(self) -> bool:
        inner = getattr(self.connection, "sync_connection", None)
        return inner is not None and _driver_commits_alone(inner)

    async def arows(self, statement: Statement) -> list[Row]:
        connection = await self.connection.connection() if self._is_session else self.connection
        style = self._bind().dialect.paramstyle
        result = await connection.exec_driver_sql(*written(statement, style))
        return [tuple(each) for each in result.fetchall()] if result.returns_rows else []

    @property
    def _is_session(self) -> bool:
        return hasattr(self.connection, "get_bind")

    def _bind(self) -> Any:
        return self.connection.get_bind() if self._is_session else self.connection


def _driver_commits_alone(connection: Any) -> bool:
    """SQLAlchemy's transaction is none on a driver that commits by itself."""
    try:
        return find_connection(connection.connection.driver_connection).commits_alone
    except ArgumentsError:
        return False  # a driver that we know only by way of SQLAlchemy, which has it hold transactions open


def _dialect(name: str) -> str:
    if name not in _DIALECTS:
        raise ArgumentsError(f"a connection to {name} cannot take calls: they go to PostgreSQL or SQLite")
    return _DIALECTS[name]


_KINDS: dict[tuple[str, str], Callable[[Any], Connection]] = {
    ("psycopg", "Connection"): _Psycopg,
    ("psycopg", "AsyncConnection"): _AsyncPsycopg,
    ("sqlite3", "Connection"): _Sqlite,
    ("sqlalchemy", "Connection"): _Alchemy,
    ("sqlalchemy", "Session"): _Alchemy,
    ("sqlalchemy", "scoped_session"): _Alchemy,
    ("sqlalchemy", "AsyncConnection"): _AsyncAlchemy,
    ("sqlalchemy", "AsyncSession"): _AsyncAlchemy,
    ("sqlalchemy", "async_scoped_session"): _AsyncAlchemy,
    ("django", "BaseDatabaseWrapper"): _Django,
    ("django", "ConnectionProxy"): _Django,
}
