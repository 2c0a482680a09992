"""Sessions on PostgreSQL: one that reads, and one that writes and waits for nothing but what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qtasks.broker.store.database import Params, Row

if TYPE_CHECKING:
    import psycopg

    from qtasks.broker.store.arrivals import Arrival
    from qtasks.broker.store.postgres_pipeline import Pipeline, Query


class ReadingSession:
    """A `Session` on one connection, for what does not write."""

    recall = None

    def __init__(self, connection: psycopg.Connection[Any], queries: dict[str, str]) -> None:
        self._cursor = connection.cursor(binary=True)
        self._queries = queries

    def one(self, query: str, params: Params) -> Row | None:
        row: Row | None = self._cursor.execute(self._queries[query].encode(), params).fetchone()
        return row

    def all(self, query: str, params: Params) -> list[Row]:
        return self._cursor.execute(self._queries[query].encode(), params).fetchall()

    def run(self, query: str, params: Params) -> int:
        return self._cursor.execute(self._queries[query].encode(), params).rowcount

    def insert_many(self, query: str, rows: Sequence[Params]) -> None:
        self._cursor.executemany(self._queries[query].encode(), rows)

    update_many = insert_many
    delete_many = insert_many

    def claim_along(self, arrival: Arrival) -> bool:
        """Have nobody: nothing arrives in a snapshot."""
        return False

    def announce(self) -> None:
        """Do nothing: there is no news."""


class WritingSession:
    """A `Session` in a pipeline, in the transaction that was begun there."""

    recall = None  # other nodes write to the store too

    def __init__(self, pipeline: Pipeline, queries: Mapping[str, Query]) -> None:
        self._pipeline = pipeline
        self._queries = queries
        self.announced = False

    def one(self, query: str, params: Params) -> Row | None:
        rows = self.all(query, params)
        return rows[0] if rows else None

    def all(self, query: str, params: Params) -> list[Row]:
        return self._pipeline.rows(self._queries[query], params)

    def run(self, query: str, params: Params) -> int:
        return self._pipeline.count(self._queries[query], params)

    def insert_many(self, query: str, rows: Sequence[Params]) -> None:
        at_once = self._queries.get(f"{query}_many")
        if at_once is not None and len(rows) > 1:
            self._pipeline.send(at_once, [{name: [row[name] for row in rows] for name in rows[0]}])
        else:
            self._pipeline.send(self._queries[query], rows)

    update_many = insert_many
    delete_many = insert_many

    def claim_along(self, arrival: Arrival) -> bool:
        """Have it join the line: what is claimed along is claimed there, in the same round trip."""
        return False

    def announce(self) -> None:
        self.announced = True
