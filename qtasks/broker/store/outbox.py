"""The outbox of a store on PostgreSQL: what callers leave there, each in a transaction of its own.

A caller's transaction may be long, and must not hold the lock of writers; so it leaves its messages in
a table, and nodes take them in once it has committed. What they make of them stands in `broker/relay.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qtasks.broker.store.changes import Changes
from qtasks.broker.store.database import Params, Row, Session
from qtasks.sql_texts import Statement

WORD = "outbox"
"""What a notification says when messages were left; any other one is about work that was committed."""


@dataclass(frozen=True, slots=True)
class Left:
    """A message as it was left: JSON, by the process of `app` if that is to run it."""

    id: int
    app: str | None
    message: str


class Outbox:
    """Where messages are left. `text` is run on a caller's connection; `identify` gives the store's id.

    `patience` says how long one may wait, instead of so long, for news that might not be heard.
    """

    def __init__(self, text: str, identify: Callable[[], str], patience: Callable[[int], int]) -> None:
        self.changes = Changes()
        self._text = text
        self._identify = identify
        self._patience = patience
        self._store: str | None = None

    def leaving(self, app: str | None, messages: Sequence[str]) -> Statement:
        """Give what leaves messages there; its one row begins with their number, or 0 in another database.

        May ask the store, the first time; raises `StoreError`.
        """
        if self._store is None:
            self._store = self._identify()
        params: dict[str, Any] = {"store": self._store, "app": app, "messages": f"[{','.join(messages)}]"}
        return Statement(self._text, params)

    async def changed(self, wait_ms: int) -> None:
        """Return when somebody has committed what he left, or after `wait_ms`."""
        await self.changes.wait(self._patience(wait_ms))


def has_rows(session: Session) -> bool:
    """Say whether there is anything to take."""
    return session.one("outbox_has_rows", {}) is not None


def take(session: Session, count: int) -> list[Left]:
    """Take up to `count` messages out, in the order in which they were written."""
    rows: list[Row] = session.all("outbox_take", {"count": count})
    return [Left(*row) for row in sorted(rows)]


def set_aside(session: Session, left: Left, problem: str) -> None:
    """Put back what cannot be taken in, so that a person finds it; it is not taken again."""
    row: Params = {"id": left.id, "app": left.app, "message": left.message, "problem": problem}
    session.run("outbox_set_aside", row)
