"""The owner of a SQLite file at work: an engine on the file, and the socket for guests.

The socket speaks the broker's whole API. Who owns the file is said in `ownership.py`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from qtasks.broker.service import Broker
from qtasks.clock import Clock
from qtasks.home.engine import Doors, Engine, EngineSetup, has_aiohttp
from qtasks.home.keys import key_ring, keys_path, load_or_make_keys
from qtasks.home.ownership import Ownership, bind_socket
from qtasks.home.ports import bind_port
from qtasks.home.stores import open_store


def open_broker(path: Path, setup: EngineSetup, clock: Clock, *, is_staying: bool = False) -> Broker:
    """Open the broker on a file that this process owns, to stay or for a moment; raises `StoreError`."""
    keys_file = keys_path(path)
    keys = load_or_make_keys(keys_file, setup.ids)
    database, room = open_store(
        path, setup.config, durability=setup.durability, clock=clock, is_staying=is_staying
    )
    return Broker(
        database,
        setup.config,
        clock=clock,
        ids=setup.ids,
        rules=setup.rules,
        keys=key_ring(keys, keys_file, setup.ids, clock),
        room=room,
        app=setup.app,
        delivers_http=has_aiohttp(),
    )


class Owner:
    """The running broker of this process: `start`, then `drain` and `close`, on the app's loop."""

    def __init__(self, path: Path, ownership: Ownership, setup: EngineSetup, clock: Clock) -> None:
        self._path = path
        self._ownership = ownership
        self._setup = setup
        self._clock = clock

    @property
    def broker(self) -> Broker:
        """The broker, once it has started."""
        return self._engine.broker

    async def start(self, app_loop: asyncio.AbstractEventLoop) -> None:
        """Open the file, recover, dispatch, listen. On failure everything is given back."""
        try:
            keys = load_or_make_keys(keys_path(self._path), self._setup.ids)
            # A taken port is found out before anything runs.
            ports = [] if self._setup.listen is None else [bind_port(*self._setup.listen)]
            listening, self._socket_path = bind_socket(self._path)
            opening = partial(open_broker, self._path, self._setup, self._clock, is_staying=True)
            doors = Doors([listening, *ports], keys.token)
            self._engine = Engine(opening, doors, self._setup, self._clock)
            await self._engine.start(app_loop)
        except BaseException:
            self._ownership.release()
            raise
        self._ownership.announce(self._socket_path)

    async def drain(self) -> None:
        """Start nothing more, let deliveries end within the grace, hand back the rest."""
        await self._engine.drain()

    async def close(self) -> None:
        """Close, and give the file up."""
        # First, so that guests look for the next owner instead of knocking here in vain.
        await asyncio.to_thread(self._remove_socket)
        try:
            await self._engine.close()
        finally:
            self._ownership.release()

    def abandon(self) -> None:
        """Let go of everything at the end of the process, when no executor works any more.

        What is in flight keeps its lease, and is recovered by the next owner.
        """
        if self._engine.abandon():
            self._remove_socket()
            self._ownership.release()

    def _remove_socket(self) -> None:
        Path(self._socket_path).unlink(missing_ok=True)
