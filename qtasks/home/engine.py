"""The broker of this process at work: a thread with a loop of its own, on which the node runs.

So a task that blocks the app's loop does not stop the broker, and the broker's commits do not stop the
app. Where the store is, and who may write it, is the business of `owner.py` and `shared.py`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import Deliverer, Drop, InProcessDeliverer, RoutedDeliverer, Run
from qtasks.broker.node import Node
from qtasks.broker.security import DestinationRules, parse_rules
from qtasks.broker.service import Broker
from qtasks.clock import Clock
from qtasks.home.listener import Listener
from qtasks.home.periodic import synchronise
from qtasks.ids import Ids
from qtasks.protocol.headers import QueueSpec
from qtasks.tasks.schedules import Timetable

ABANDON_S = 2


def no_more() -> int:
    """Have an app be handed no more than it runs at once."""
    return 1


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """What an embedded broker is made with.

    `run` executes claims of `app` on the app's loop, and `drop` calls one off there; `ahead` says, from any
    thread, how many times as many as it runs at once it is to be handed.
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
    ahead: Callable[[], int] = no_more
    rules: DestinationRules = field(init=False)

    def __post_init__(self) -> None:
        # An embedded broker listens to nobody but this user's processes, so loopback is admitted.
        object.__setattr__(self, "rules", parse_rules(self.allow_destinations, loopback=True))

    @property
    def is_relaxed(self) -> bool:
        """Whether the newest commits may be lost in a power cut."""
        return self.durability == "relaxed"


class Doors:
    """The sockets at which a broker's API is served, to who knows the token. They are its own to close."""

    def __init__(self, sockets: Sequence[socket.socket], token: str) -> None:
        self._sockets = sockets
        self._token = token
        self._listeners: list[Listener] = []

    async def open(self, broker: Broker) -> None:
        """Begin to answer."""
        from qtasks.broker.api import ROUTES, Api

        api = Api(broker, ROUTES, [self._token], is_local=True)
        for each in self._sockets:
            listener = Listener(api, each)
            await listener.start()
            self._listeners.append(listener)

    async def close(self) -> None:
        """Let answers be written, and close."""
        for each in self._listeners:
            await each.stop()

    def bar(self) -> None:
        """Close what was never opened."""
        for each in self._sockets:
            each.close()


class Engine:
    """`start`, then `drain` and `close`, on the app's loop. `open_broker` runs on the engine's thread."""

    broker: Broker

    def __init__(
        self, open_broker: Callable[[], Broker], doors: Doors, setup: EngineSetup, clock: Clock
    ) -> None:
        self._open_broker = open_broker
        self._doors = doors
        self._setup = setup
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qtasks-broker", daemon=True)

    async def start(self, app_loop: asyncio.AbstractEventLoop) -> None:
        """Open the store, recover, dispatch, listen. On failure everything is given back."""
        self._thread.start()
        try:
            await self._on_thread(self._start(app_loop))
        except BaseException:
            self._doors.bar()
            self._end_thread()
            raise

    async def drain(self) -> None:
        """Start nothing more, let deliveries end within the grace, hand back the rest."""
        await self._on_thread(self._drain())

    async def close(self) -> None:
        """Answer nobody any more, and close the store."""
        try:
            await self._on_thread(self._close())
        finally:
            self._end_thread()

    def abandon(self) -> bool:
        """Let go of everything at the end of the process, when no executor works any more.

        What is in flight keeps its lease, and is recovered by others. False if it does not end in time.
        """
        ending = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        try:
            ending.result(ABANDON_S)
        except TimeoutError:
            return False  # the process ends anyway
        self.broker.database.close()
        self._end_thread()
        return True

    async def _on_thread(self, work: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        await asyncio.wrap_future(future)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, app_loop: asyncio.AbstractEventLoop) -> None:
        setup = self._setup
        self.broker = await asyncio.to_thread(self._open_broker)
        try:
            self.broker.declare(setup.queues)
            synchronise(self.broker.schedules, setup.timetable())  # before any of them fires
            in_process = InProcessDeliverer(setup.run, app_loop, setup.drop, setup.ahead)
            self._node = Node(
                self.broker,
                RoutedDeliverer(in_process, self._http()),
                setup.config,
                app=setup.app,
                ids=setup.ids,
            )
            await self._node.start()
            await self._doors.open(self.broker)
        except BaseException:
            self.broker.database.close()
            raise

    def _http(self) -> Deliverer | None:
        """Deliver over HTTP too, where the extra for it is installed."""
        if not has_aiohttp():
            return None
        from qtasks.broker.http_delivery import HttpDeliverer

        return HttpDeliverer(
            self._setup.rules,
            signing_key=self.broker.signing_key,
            max_response_bytes=self._setup.config.max_response_bytes,
            connections=self._setup.config.concurrency,
            clock=self._clock,
            ids=self._setup.ids,
        )

    async def _drain(self) -> None:
        self.broker.is_draining = True
        await self._node.stop(None)

    async def _close(self) -> None:
        self.broker.waiters.close()
        await self._doors.close()
        await asyncio.to_thread(self.broker.database.close)
        await self._loop.shutdown_default_executor()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def has_aiohttp() -> bool:
    """Say whether messages can be delivered over HTTP."""
    return find_spec("aiohttp") is not None
