"""Calls that belong to a transaction of the caller's: `delay_in`, and the block of `QTasks.transaction`.

Which table they go to is the business of an `Outlet`, which the homes have; how a connection is spoken to,
of `connections.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

from qtasks.client.kept import Meanwhile, nothing
from qtasks.errors import ConfigurationError
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.many import Block, find_block
from qtasks.tasks.senders import Sender


class Outlet(Protocol):
    """Takes messages in the transaction of a connection, so that they go out if it commits."""

    def leave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Write them; raises `RequestError` if the broker would refuse them, and what the connection does."""
        ...

    async def aleave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `leave` does, on an async connection too."""
        ...


LEFT = Enqueued("")
"""The answer for a message that was left: it gets its id when it is taken in."""


class Sending:
    """A `Sender` that leaves messages in the innermost transaction that is open around a call, if one is."""

    def __init__(self, sender: Sender, outlet: Outlet | None) -> None:
        self._sender = sender
        self._outlet = outlet

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        around = find_block(self, Transaction)
        if around is None:
            return self._sender.send(messages, meanwhile)
        return self.leave(around.connection, messages)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        around = find_block(self, Transaction)
        if around is None:
            return await self._sender.asend(messages)
        return await self.aleave(around.connection, messages)

    def leave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Leave messages in the transaction of a connection; `ConfigurationError` says that it cannot be."""
        return self._found().leave(connection, messages)

    async def aleave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `leave` does without blocking the event loop, if the connection does not."""
        return await self._found().aleave(connection, messages)

    def _found(self) -> Outlet:
        if self._outlet is None:
            raise ConfigurationError(
                "this broker's tables are in no database of yours, so calls in a transaction need an outbox "
                'there: QTasks(outbox="postgresql://…"), or sqlite:///app.db; see docs/transactions.md'
            )
        return self._outlet


class Transaction(Block):
    """A block whose calls are written to a connection at once, and go out if that commits.

    It neither begins nor ends a transaction. `with` and `async with` are the same.
    """

    maker = "transaction"

    def __init__(self, sender: Sender, connection: Any) -> None:
        super().__init__(sender)
        self.connection = connection

    def __enter__(self) -> None:
        self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> None:
        self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
