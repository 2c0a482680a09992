"""Leaves messages in a table of the caller's database, in the caller's transaction.

Of a table that is not there it says what to do; what the table is, its owners know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtasks.errors import ArgumentsError, ConfigurationError
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.sql_texts import Statement
from qtasks.tasks.connections import Connection, Row, has_no_table
from qtasks.tasks.transactions import LEFT


@dataclass(frozen=True, slots=True)
class Leaving:
    """One statement that leaves messages; `missing` is what to tell who has not got its table."""

    statement: Statement
    messages: Sequence[Outgoing]
    dialect: str | None
    missing: str

    def run(self, connection: Connection) -> list[Enqueued]:
        """Leave them on a sync connection."""
        self._check(connection)
        try:
            rows = connection.rows(self.statement)
        except Exception as error:
            raise self._told(error) from error
        return self._answers(rows)

    async def arun(self, connection: Connection) -> list[Enqueued]:
        """Leave them on an async connection, or block."""
        self._check(connection)
        try:
            rows = await connection.arows(self.statement)
        except Exception as error:
            raise self._told(error) from error
        return self._answers(rows)

    def _check(self, connection: Connection) -> None:
        if self.dialect not in (None, connection.dialect):
            raise ArgumentsError(f"this connection leads to {connection.dialect}, but {self.missing}")

    def _told(self, error: Exception) -> Exception:
        return ConfigurationError(self.missing) if has_no_table(error) else error

    def _answers(self, rows: Sequence[Row]) -> list[Enqueued]:
        if not rows or rows[0][0] != len(self.messages):
            raise ConfigurationError(self.missing)
        return [LEFT] * len(self.messages)
