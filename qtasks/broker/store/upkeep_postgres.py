"""Looks after a store on PostgreSQL: what holds in it, and its figures. Copies are made by its own tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtasks.broker.store.postgres import psycopg_text
from qtasks.broker.store.postgres_links import NOW, Place, link, meaning_of
from qtasks.broker.store.presence import LIFE_MS
from qtasks.broker.store.queries import FOLDER, load_migrations, load_queries
from qtasks.broker.store.upkeep import Ask, Stats, contradictions, counted
from qtasks.errors import StoreTooNew, StoreUnusable

if TYPE_CHECKING:
    import psycopg


PROMISES = ("fsync", "synchronous_commit")
"""Parameters of PostgreSQL by which what is committed outlives a crash, or not."""


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL: its version as it numbers it itself, what it promises, and the schema of our store.

    `nodes` is how many of them are alive, None where there is no store yet.
    """

    version: int
    parameters: Mapping[str, str]
    schema: int
    nodes: int | None


def server_of(place: Place) -> Server:
    """Say what a store is on, changing nothing; `schema` is 0 if there is none yet."""
    with _snapshot(place) as connection:
        parameters = {
            name: str(row[0])
            for name in PROMISES
            if (row := connection.execute(b"SELECT current_setting(%s)", (name,)).fetchone()) is not None
        }
        schema = _schema(connection)
        nodes = _nodes(connection) if schema else None
        return Server(connection.info.server_version, parameters, schema, nodes)


def newest_schema() -> int:
    """Give the number of the schema that this version makes."""
    return load_migrations("postgres")[-1][0]


def schema_of(place: Place) -> int:
    """Give the number of the schema of a store; 0 if there is nothing yet."""
    with _snapshot(place) as connection:
        return _schema(connection)


def stats(place: Place) -> Stats:
    """Count what a store holds; the schema must be this version's."""
    with _checked(place) as connection:
        ask = _asking(connection)
        [[size]] = ask(load_queries("postgres", FOLDER / "sizes")["bytes"], {})
        return Stats({"schema": newest_schema(), "bytes": size}, counted(ask))


def check(place: Place) -> list[str]:
    """Say which rows contradict each other, nothing if none do."""
    with _checked(place) as connection:
        return contradictions(_asking(connection))


def _asking(connection: psycopg.Connection[Any]) -> Ask:
    return lambda text, params: connection.execute(psycopg_text(text).encode(), params).fetchall()


@contextmanager
def _checked(place: Place) -> Iterator[psycopg.Connection[Any]]:
    with _snapshot(place) as connection:
        schema, newest = _schema(connection), newest_schema()
        if schema > newest:
            raise StoreTooNew(
                f"{place} has schema {schema}, this version knows up to {newest}; upgrade qtasks"
            )
        if schema < newest:
            raise StoreUnusable(
                f"{place} has schema {schema}, this version works with {newest}; "
                "start a broker, or run qtasks db migrate"
            )
        yield connection


@contextmanager
def _snapshot(place: Place) -> Iterator[psycopg.Connection[Any]]:
    """Open one snapshot, on which a question may take as long as it takes."""
    with closing(link(place)) as connection:
        try:
            connection.execute(place.begin_reading)
            connection.execute(f"SET LOCAL search_path TO {place.schema}".encode())
            connection.execute(b"SET LOCAL statement_timeout TO 0")
            yield connection
        except Exception as error:
            raise meaning_of(error, place) or error from error


def _nodes(connection: psycopg.Connection[Any]) -> int:
    text = f"SELECT count(*) FROM nodes WHERE seen_at >= {NOW} - {LIFE_MS}"
    [count] = connection.execute(text.encode()).fetchone() or (0,)
    return int(count)


def _schema(connection: psycopg.Connection[Any]) -> int:
    there = connection.execute(b"SELECT to_regclass('schema_version')").fetchone()
    if there is None or there[0] is None:
        return 0
    row = connection.execute(b"SELECT version FROM schema_version").fetchone()
    return row[0] if row else 0
