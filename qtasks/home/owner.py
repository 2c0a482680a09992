"""The owner of a SQLite file at work: a thread with a loop of its own, on which the node runs.

So a task that blocks the app's loop does not stop the broker, and the broker's commits do not stop
the app. The socket for guests speaks the broker's whole API.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Deliverer, Drop, InProcessDeliverer, RoutedDeliverer, Run
from qtasks.broker.node import Node
from qtasks.broker.security import DestinationRules, parse_rules
from qtasks.broker.service import Broker
from qtasks.clock import Clock
from qtasks.home.keys import Keys, key_ring, keys_path, load_or_make_keys
from qtasks.home.listener import Listener
from qtasks.home.ownership import Ownership, bind_socket
from qtasks.home.periodic import synchronise
from qtasks.home.ports import bind_port
from qtasks.home.stores import open_store
from qtasks.ids import Ids
from qtasks.protocol.headers import QueueSpec
from qtasks.tasks.schedules import Timetable

ABANDON_S = 2


@dataclass(frozen=True, slots=True)
class OwnerSetup:
    """What an embedded broker is made with.

    `run` executes claims of `app` on the app's loop, and `drop` calls one off there.
    """

    app: str
    run: Run
    config: BrokerConfig
    ids: Ids
    timetable: Callable[[], Timetable]
    queues: Mapping[str, QueueSpec] = field(default_factory=dict)
    allow_destinations: tuple[str, ...] = ()
    durability: str = "full"
    listen: tuple[str, int] | None = None
    """Where to serve the API on TCP too."""
    drop: Drop = lambda claim: None
    rules: DestinationRules = field(init=False)

    def __post_init__(self) -> None:
        # An embedded broker listens to nobody but this user's processes, so loopback is admitted.
        object.__setattr__(self, "rules", parse_rules(self.allow_destinations, loopback=True))

    @property
    def is_relaxed(self) -> bool:
        """Whether the newest commits may be lost in a power cut."""
        return self.durability == "relaxed"


def open_broker(path: Path, setup: OwnerSetup, clock: Clock, *, is_staying: bool = False) -> Broker:
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
        keys=key_ring(keys, keys_file, setup.ids),
        room=room,
        app=setup.app,
        delivers_http=_has_aiohttp(),
    )


class Owner:
    """The running broker of this process: `start`, then `drain` and `close`, on the app's loop."""

    broker: Broker

    def __init__(self, path: Path, ownership: Ownership, setup: OwnerSetup, clock: Clock) -> None:
        self._path = path
        self._ownership = ownership
        self._setup = setup
        self._clock = clock
        self._listeners: list[Listener] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qtasks-broker", daemon=True)

    async def start(self, app_loop: asyncio.AbstractEventLoop) -> None:
        """Open the file, recover, listen, dispatch. On failure everything is given back."""
        self._thread.start()
        try:
            await self._on_thread(self._start(app_loop))
        except BaseException:
            self._end_thread()
            self._ownership.release()
            raise

    async def drain(self) -> None:
        """Start nothing more, let deliveries end within the grace, hand back the rest."""
        await self._on_thread(self._drain(None))

    async def close(self) -> None:
        """Close, and give the file up."""
        try:
            await self._on_thread(self._close())
        finally:
            self._end_thread()
            self._ownership.release()

    def abandon(self) -> None:
        """Let go of everything at the end of the process, when no executor works any more.

        What is in flight keeps its lease, and is recovered by the next owner.
        """
        ending = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        try:
            ending.result(ABANDON_S)
        except TimeoutError:
            return  # the process ends anyway, and with it the lock
        self._close_store()
        self._end_thread()
        self._ownership.release()

    async def _on_thread(self, work: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        await asyncio.wrap_future(future)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, app_loop: asyncio.AbstractEventLoop) -> None:
        setup = self._setup
        keys = load_or_make_keys(keys_path(self._path), setup.ids)
        # A taken port is found out before anything runs.
        ports = [] if setup.listen is None else [bind_port(*setup.listen)]
        try:
            self.broker = open_broker(self._path, setup, self._clock, is_staying=True)
        except BaseException:
            _close_all(ports)
            raise
        try:
            self.broker.declare(setup.queues)
            synchronise(self.broker.schedules, setup.timetable())  # before any of them fires
            in_process = InProcessDeliverer(setup.run, app_loop, setup.drop)
            self._node = Node(
                self.broker,
                RoutedDeliverer(in_process, self._http()),
                setup.config,
                app=setup.app,
                clock=self._clock,
                ids=setup.ids,
            )
            await self._node.start()
            await self._listen(keys, ports)
        except BaseException:
            _close_all(ports)
            self.broker.database.close()
            raise

    async def _listen(self, keys: Keys, ports: Sequence[socket.socket]) -> None:
        from qtasks.broker.api import ROUTES, Api

        api = Api(self.broker, ROUTES, [keys.token])
        listening, socket_path = bind_socket(self._path)
        for each in (listening, *ports):
            listener = Listener(api, each)
            await listener.start()
            self._listeners.append(listener)
        self._ownership.announce(socket_path)
        self._socket_path = socket_path

    def _http(self) -> Deliverer | None:
        """Deliver over HTTP too, where the extra for it is installed."""
        if not _has_aiohttp():
            return None
        from qtasks.broker.http_delivery import HttpDeliverer

        return HttpDeliverer(
            self._setup.rules,
            signing_key=self.broker.keys.current,
            max_response_bytes=self._setup.config.max_response_bytes,
            connections=self._setup.config.concurrency,
            clock=self._clock,
            ids=self._setup.ids,
        )

    async def _drain(self, grace_ms: int | None) -> None:
        self.broker.is_draining = True
        await self._node.stop(grace_ms)

    async def _close(self) -> None:
        # First, so that guests look for the next owner instead of knocking here in vain.
        await asyncio.to_thread(Path(self._socket_path).unlink, missing_ok=True)
        self.broker.waiters.close()
        for each in self._listeners:
            await each.stop()
        await asyncio.to_thread(self._close_store)
        await self._loop.shutdown_default_executor()

    def _close_store(self) -> None:
        Path(self._socket_path).unlink(missing_ok=True)  # not so yet where it is abandoned
        self.broker.database.close()


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _has_aiohttp() -> bool:
    from importlib.util import find_spec

    return find_spec("aiohttp") is not None
