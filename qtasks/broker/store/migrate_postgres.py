"""Brings a schema in PostgreSQL to this version: numbered migrations, forward only, under one lock.

All that are missing commit together with their number, so a node that is killed in the middle leaves the
schema before them, and nodes that start at once wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtasks.broker.store.postgres_links import Place
from qtasks.broker.store.queries import load_migrations
from qtasks.errors import StoreTooNew, StoreUnusable

if TYPE_CHECKING:
    import psycopg

OLDEST = 140_000


def migrate_postgres(connection: psycopg.Connection[Any], place: Place) -> None:
    """Apply what is missing; raises `StoreUnusable` and `StoreTooNew`."""
    if connection.info.server_version < OLDEST:
        raise StoreUnusable(
            f"{place} is PostgreSQL {connection.info.server_version // 10_000}; 14 or newer is needed"
        )
    known = load_migrations("postgres")
    if _version(connection, place) == known[-1][0]:
        return  # most starts find nothing to do, and need no right to make a schema
    with connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({place.lock})".encode())
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {place.schema}".encode())
        connection.execute(f"SET LOCAL search_path TO {place.schema}".encode())
        connection.execute(b"CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        row = connection.execute(b"SELECT version FROM schema_version").fetchone()
        version = row[0] if row else 0
        if version > known[-1][0]:
            raise StoreTooNew(
                f"{place} is at schema {version}, made by a newer version of qtasks; this version knows "
                f"up to schema {known[-1][0]}. Upgrade qtasks, or name another schema with ?schema="
            )
        for number, text in known:
            if number > version:
                connection.execute(text.encode())
        connection.execute(b"DELETE FROM schema_version")
        connection.execute(f"INSERT INTO schema_version VALUES ({known[-1][0]})".encode())


def _version(connection: psycopg.Connection[Any], place: Place) -> int | None:
    found = connection.execute(f"SELECT to_regclass('{place.schema}.schema_version')".encode()).fetchone()
    if found is None or found[0] is None:
        return None
    row = connection.execute(f"SELECT version FROM {place.schema}.schema_version".encode()).fetchone()
    return None if row is None else row[0]
