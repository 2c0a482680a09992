"""The app's own outbox: a table in its database, for brokers whose tables are elsewhere.

Calls are written to it in the app's transactions; what takes them to the broker is in `outbox_relay.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtasks.errors import ConfigurationError
from qtasks.home.leaving import Leaving
from qtasks.home.outbox_relay import OutboxRelay
from qtasks.protocol.left import write_left
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.settings import database_path
from qtasks.tasks.app_tables import NO_OUTBOX, AppTable, app_statement
from qtasks.tasks.connections import find_connection
from qtasks.tasks.senders import Sender

Connect = Callable[[], Any]
"""Opens a connection of its own for the relay."""
SAFE_WINDOW_MS = 86_400_000
"""A relay may die between sending and deleting; for so long, sending again makes no second message."""


class Outbox(AppTable):
    """`qtasks_outbox` in the database of `where`: a URL, or what opens a connection to it.

    It cannot be in the file of the `broker`, which has one writer. Raises `ConfigurationError`.
    """

    _parts = ("outbox_create",)

    def __init__(self, where: str | Connect | None, broker: Path | None = None) -> None:
        self._connect = None if where is None else connecting(where, broker)
        self._relay: OutboxRelay | None = None

    @property
    def is_told(self) -> bool:
        """Whether there is one."""
        return self._connect is not None

    def leave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Write messages in the transaction of a connection, to be relayed once it has committed."""
        found = find_connection(connection)
        return self._leaving(found.dialect, messages).run(found)

    async def aleave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `leave` does, on an async connection too."""
        found = find_connection(connection)
        return await self._leaving(found.dialect, messages).arun(found)

    def start(self, sender: Sender) -> None:
        """Begin to relay, if there is something to relay from."""
        if self._connect is not None:
            self._relay = OutboxRelay(self._connect, sender.send)
            self._relay.start()

    async def stop(self) -> None:
        """Relay no more."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await asyncio.to_thread(relay.stop)

    def _leaving(self, dialect: str, messages: Sequence[Outgoing]) -> Leaving:
        written = ",".join(write_left(_lasting(each)) for each in messages)
        statement = app_statement(dialect, "outbox_leave", messages=f"[{written}]")
        return Leaving(statement, messages, None, NO_OUTBOX)


class AtOnce:
    """Enqueues at once whatever the transaction comes to: in a test, most are rolled back at the end."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def leave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return self._sender.send(messages)

    async def aleave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return await self._sender.asend(messages)


def connecting(where: str | Connect, broker: Path | None = None) -> Connect:
    """Give what opens a connection for a relay; raises `ConfigurationError` for another URL."""
    if not isinstance(where, str):
        return where
    scheme = where.partition(":")[0].lower()
    if scheme == "sqlite":
        path = database_path(where)
        if path == broker:
            raise ConfigurationError(
                f"{where} is the broker's own file, which nobody else may write to: keep the app's data, and "
                "its outbox, in another one"
            )
        return _sqlite(str(path))
    if scheme in ("postgresql", "postgres"):
        return _psycopg(where)
    raise ConfigurationError(
        f"an outbox cannot be in {scheme}: name the app's database, postgresql://… or sqlite:///app.db, "
        "or give a function that connects to it"
    )


def _sqlite(path: str) -> Connect:
    def connect() -> Any:
        import sqlite3

        return sqlite3.connect(path)

    return connect


def _psycopg(url: str) -> Connect:
    def connect() -> Any:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigurationError(
                "an outbox on PostgreSQL needs psycopg: install qtasks with its extra [postgres]"
            ) from error
        return psycopg.connect(url, connect_timeout=5, application_name="qtasks")

    return connect


def _lasting(message: Outgoing) -> Outgoing:
    """Have the broker know a message again for longer, where it is known by its task's id."""
    options = message.options
    if options.dedup_id != options.task_id or options.dedup_window_ms is not None:
        return message
    return replace(message, options=replace(options, dedup_window_ms=SAFE_WINDOW_MS))
