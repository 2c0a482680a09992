"""The tables that qtasks may have in an app's own database: `qtasks_outbox` and `qtasks_inbox`.

Here is how they are made and pruned. What is written to them is the business of `home/outbox.py` and
of `inbox.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtasks.clock import Clock
from qtasks.errors import ArgumentsError
from qtasks.protocol.durations import span_ms
from qtasks.sql_texts import Statement, load_texts
from qtasks.tasks.connections import POSTGRES, SQLITE, find_connection
from qtasks.tasks.keys import Span

FOLDER = Path(__file__).parent / "sql"
DIALECTS = {"postgresql": POSTGRES, "postgres": POSTGRES, "sqlite": SQLITE}
NO_OUTBOX = "there is no table qtasks_outbox in this database: make it with tasks.outbox.create(connection)"
NO_INBOX = "there is no table qtasks_inbox in this database: make it with tasks.inbox.create(connection)"


def app_statement(dialect: str, name: str, **params: Any) -> Statement:
    """Give one of the statements on these tables."""
    return Statement(load_texts(dialect, FOLDER)[name], params)


class AppTable:
    """A table that an app makes in its own database, by one of these three or by a migration of its own."""

    _parts: Sequence[str] = ()

    def ddl(self, database: str) -> str:
        """Give the SQL that makes the table, for `"postgresql"` or `"sqlite"`."""
        if database not in DIALECTS:
            raise ArgumentsError(f"{database!r} is no database that can have it: postgresql or sqlite")
        texts = load_texts(DIALECTS[database], FOLDER)
        return "".join(f"{texts[part]};\n" for part in self._parts)

    def create(self, connection: object) -> None:
        """Make the table, unless it is there; part of the connection's transaction."""
        found = find_connection(connection)
        for part in self._parts:
            found.rows(app_statement(found.dialect, part))

    async def acreate(self, connection: object) -> None:
        """Do what `create` does, on an async connection."""
        found = find_connection(connection)
        for part in self._parts:
            await found.arows(app_statement(found.dialect, part))


class InboxTable(AppTable):
    """`qtasks_inbox`: which tasks have had their effect, by their ids (`Context.once`)."""

    _parts = ("inbox_create", "inbox_index")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def prune(self, connection: object, older_than: Span = "60d") -> int:
        """Forget effects that are so old that their tasks cannot be repeated any more; say how many.

        A dead letter can be replayed for 30 days after the last retry, so give that much, and more.
        """
        found = find_connection(connection)
        return len(found.rows(self._pruning(found.dialect, older_than)))

    async def aprune(self, connection: object, older_than: Span = "60d") -> int:
        """Do what `prune` does, on an async connection."""
        found = find_connection(connection)
        return len(await found.arows(self._pruning(found.dialect, older_than)))

    def _pruning(self, dialect: str, older_than: Span) -> Statement:
        return app_statement(dialect, "inbox_prune", before=self._clock.now() - span_ms(older_than))
