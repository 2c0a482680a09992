"""Brings a SQLite file to the schema of this version: numbered migrations, forward only.

Each migration commits whole or not at all, together with its number, so a process that is killed
in the middle leaves the schema before it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from qtasks.broker.store.queries import load_migrations
from qtasks.errors import StoreTooNew, StoreUnusable

APPLICATION_ID = 0x71746B73  # "qtks", in the header of every file of ours


def migrate_sqlite(connection: sqlite3.Connection, path: str) -> None:
    """Check that the file is ours, or empty, and apply what is missing.

    Raises `StoreUnusable` for a file of another program and `StoreTooNew` for one of a newer version.
    """
    version = _check_ours(connection, path)
    for number, text in load_migrations("sqlite"):
        if number > version:
            _apply(connection, number, text)


def _check_ours(connection: sqlite3.Connection, path: str) -> int:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if owner != APPLICATION_ID and (owner or tables or version):
        raise StoreUnusable(
            f"{path} is a database of another program; name another file, "
            "for example QTASKS_BROKER=sqlite:///qtasks.db"
        )
    newest = load_migrations("sqlite")[-1][0]
    if version > newest:
        raise StoreTooNew(
            f"{path} has schema {version}, made by a newer version of qtasks; this version knows "
            f"up to schema {newest}. Upgrade qtasks, or name another file"
        )
    return version


def _apply(connection: sqlite3.Connection, number: int, text: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(text):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(text: str) -> Iterator[str]:
    """Split at the ends of statements: `executescript` would commit half-way."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
