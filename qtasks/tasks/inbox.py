"""`Once`: has an effect happen once though its task may run twice, by a mark in the effect's transaction.

The mark is a row of `qtasks_inbox` with the task's id; the table is made by `app_tables.py`.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import orjson

from qtasks.errors import ArgumentsError, ConfigurationError, EncodeError
from qtasks.sql_texts import Statement
from qtasks.tasks.app_tables import NO_INBOX, app_statement
from qtasks.tasks.connections import Connection, Row, find_connection, has_no_table


class Once:
    """A block of `Context.once`: true where the effect is to be made, and false on a repeat.

    What `result` is set to within is kept, as JSON, and is there again on a repeat.
    """

    def __init__(self, connection: Any, id: str, now: int) -> None:
        self.result: Any = None
        self.is_fresh = False
        self._connection: Connection = find_connection(connection)
        self._id = id
        self._now = now

    def __bool__(self) -> bool:
        return self.is_fresh

    def __enter__(self) -> Self:
        self._check()
        try:
            self.is_fresh = bool(self._connection.rows(self._entering()))
            if not self.is_fresh:
                self._read(self._connection.rows(self._statement("inbox_find")))
        except Exception as error:
            raise _told(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.is_fresh and self.result is not None:
            self._connection.rows(self._keeping())
        elif error is not None and self.is_fresh:
            with suppress(Exception):  # the transaction is broken: what is marked goes with it
                self._connection.rows(self._statement("inbox_leave"))

    async def __aenter__(self) -> Self:
        self._check()
        try:
            self.is_fresh = bool(await self._connection.arows(self._entering()))
            if not self.is_fresh:
                self._read(await self._connection.arows(self._statement("inbox_find")))
        except Exception as error:
            raise _told(error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.is_fresh and self.result is not None:
            await self._connection.arows(self._keeping())
        elif error is not None and self.is_fresh:
            with suppress(Exception):  # the transaction is broken: what is marked goes with it
                await self._connection.arows(self._statement("inbox_leave"))

    def _check(self) -> None:
        if self._connection.commits_alone:
            raise ArgumentsError(
                "context.once() needs a transaction, and this connection commits each statement by itself: "
                "a task that dies in between would have its effect never. Begin one around it"
            )

    def _entering(self) -> Statement:
        return self._statement("inbox_enter", now=self._now)

    def _keeping(self) -> Statement:
        try:
            kept = orjson.dumps(self.result).decode()
        except TypeError as error:
            raise EncodeError(f"once.result is kept as JSON, and this is none: {error}") from error
        return self._statement("inbox_keep", result=kept)

    def _read(self, rows: list[Row]) -> None:
        if rows and rows[0][0] is not None:
            self.result = orjson.loads(rows[0][0])

    def _statement(self, name: str, **params: Any) -> Statement:
        return app_statement(self._connection.dialect, name, id=self._id, **params)


def _told(error: Exception) -> Exception:
    return ConfigurationError(NO_INBOX) if has_no_table(error) else error
