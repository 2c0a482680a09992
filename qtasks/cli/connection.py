"""Finds the broker that a command is about, wherever it lives, and asks it.

An embedded one is asked over its owner's socket; without an owner the file is opened for a moment, and so
is a database that processes share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from qtasks.client.call import Call, Page, following
from qtasks.client.clients import AsyncClient, Client, in_process
from qtasks.errors import BrokerUnreachable, ConfigurationError
from qtasks.settings import HomeKind, Settings, database_path

T = TypeVar("T")

TIMEOUT_S = 30


class Asked(Protocol):
    """A broker that answers."""

    def send(self, call: Call[T]) -> T:
        """Carry out one operation."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Connection:
    """The way to one broker, opened when it is first asked. `broker` goes before `QTASKS_BROKER`.

    With `settings` nothing is read from the environment.
    """

    def __init__(
        self, broker: str | None = None, *, settings: Settings | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._timeout_s = timeout_s
        self._asked: Asked | None = None
        self.name = "the broker"

    def ask(self, call: Call[T]) -> T:
        """Carry out one operation; raises what `Client` raises."""
        if self._asked is None:
            self._asked = self._open()
        try:
            return self._asked.send(call)
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{self.name} cannot be reached ({error}); is it running? Start it with `qtasks broker`, or "
                "say where it is: --broker URL or QTASKS_BROKER"
            ) from error

    def pages(self, call: Call[Page[T]]) -> Iterator[Page[T]]:
        """Carry out an operation on a page, and again for each page that follows."""
        page = self.ask(call)
        yield page
        while page.cursor is not None:
            page = self.ask(following(call, page.cursor))
            yield page

    def each(self, call: Call[Page[T]], limit: int | None = None) -> Iterator[T]:
        """Give the items of a listing, at most `limit`."""
        return islice((item for page in self.pages(call) for item in page.items), limit)

    def let_go(self) -> None:
        """Let others have a store that was opened here, before a pause; asking opens it again."""
        if isinstance(self._asked, _Visit):
            self.close()

    def close(self) -> None:
        """Close what was opened."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.close()

    def _open(self) -> Asked:
        settings = self.settings()
        if settings.home is HomeKind.SQLITE:
            return self._open_file(settings)
        if settings.home is HomeKind.POSTGRES:
            from qtasks.home.visiting import visiting_postgres

            self.name = "the broker on PostgreSQL"
            return _Visit(visiting_postgres(settings))
        self.name = f"the broker at {settings.address}"
        if settings.token is None:
            raise ConfigurationError(f"{self.name} wants a token; set QTASKS_TOKEN to it")
        return Client(settings.address, settings.token, timeout=self._timeout_s)

    def settings(self) -> Settings:
        """Say what is set, for the broker that was named."""
        settings = self._settings or Settings.from_env()
        return settings if self._broker is None else replace(settings, broker=self._broker)

    def _open_file(self, settings: Settings) -> Asked:
        from qtasks.home.keys import keys_path, load_or_make_keys
        from qtasks.home.ownership import owner_socket
        from qtasks.ids import Ids

        path = database_path(settings.broker)
        self.name = f"the broker of {path}"
        if not path.exists() or not keys_path(path).exists():
            raise BrokerUnreachable(
                f"there is no broker at {path}: start your app, or say where the broker is, with --broker or "
                "QTASKS_BROKER"
            )
        socket = owner_socket(path)
        if socket is None:
            from qtasks.home.visiting import visiting_file

            return _Visit(visiting_file(path, settings))
        token = load_or_make_keys(keys_path(path), Ids()).token
        return Client("", token, socket=socket, timeout=self._timeout_s)


class _Visit:
    """A broker whose store is opened here, for as long as the command takes."""

    def __init__(self, visit: AbstractContextManager[tuple[Any, str]]) -> None:
        self._stack = ExitStack()
        try:
            app, token = self._stack.enter_context(visit)
            self._runner = self._stack.enter_context(asyncio.Runner())
            self._client: AsyncClient = in_process(app, token)
        except BaseException:
            self._stack.close()
            raise

    def send(self, call: Call[T]) -> T:
        """Carry out one operation."""
        return self._runner.run(self._client.send(call))

    def close(self) -> None:
        """Close the file."""
        self._runner.run(self._client.aclose())
        self._stack.close()
