"""The standalone broker: one process with a store, a node and the API on a TCP port."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import RoutedDeliverer
from qtasks.broker.keys import KeyRing
from qtasks.broker.node import Node
from qtasks.broker.room import Room
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.database import Database
from qtasks.clock import Clock, SystemClock
from qtasks.errors import BrokerFailed, ConfigurationError, StoreBusy
from qtasks.home.garbage import SET_APART
from qtasks.home.keys import Keys, key_ring, keys_path, load_or_make_keys
from qtasks.home.listener import Listener
from qtasks.home.memory import return_large_blocks
from qtasks.home.notify import Supervisor
from qtasks.home.ownership import Ownership, lock_path
from qtasks.home.ports import bind_port
from qtasks.home.stores import is_postgres, open_postgres, open_store, shown_store
from qtasks.ids import Ids
from qtasks.settings import Settings, database_path

Say = Callable[[str], None]
Beside = Callable[[Node, str], AbstractAsyncContextManager[object]]
"""Opens what lives beside a node whose API listens at this URL; it is closed once deliveries have ended."""

LOOK_S = 0.1  # how often the store's health is looked at


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """Where a standalone broker stores, listens and may deliver."""

    store: str = "sqlite:///qtasks.db"
    host: str = "127.0.0.1"
    port: int = 8080
    allow_destinations: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    config: BrokerConfig = field(default_factory=BrokerConfig)
    linger_ms: int = 500
    """How long it answers on after the drain, to have connections closed that are kept open (promise P17)."""


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(url: str) -> str:
    """Give scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def check_setup(setup: ServerSetup) -> Path | None:
    """Refuse what is unsafe or cannot be; gives the path of the database file, None for PostgreSQL."""
    settings = setup.settings
    if not setup.store.startswith("sqlite:") and not is_postgres(setup.store):
        raise ConfigurationError(f"--store {setup.store!r} is no store; use sqlite:///q.db or postgresql://…")
    if not is_loopback(setup.host) and settings.token is None:
        raise ConfigurationError(
            f"a broker on {setup.host} is open to others, so it does not start without a token: "
            "set QTASKS_TOKEN, or listen on 127.0.0.1"
        )
    if len(settings.signing_keys) == 1:
        raise ConfigurationError(
            "set both QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY, or neither"
        )
    if not is_postgres(setup.store):
        return database_path(setup.store)
    if settings.token is None or not settings.signing_keys:
        raise ConfigurationError(
            "the nodes on one PostgreSQL must have the same token and signing keys: set QTASKS_TOKEN, "
            "QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY, alike for all of them"
        )
    return None


class Server:
    """Runs a standalone broker. `say` is given lines for the person who started it.

    With `shows_secrets`, what it made itself is among them: for a terminal that nobody records.
    """

    def __init__(
        self,
        setup: ServerSetup,
        *,
        say: Say,
        shows_secrets: bool = False,
        beside: Beside | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self._setup = setup
        self._beside = beside or (lambda node, url: nullcontext())
        self._path = check_setup(setup)
        origins = (origin_of(each.url) for each in setup.config.apis.values())
        self._rules = parse_rules((*setup.allow_destinations, *origins), loopback=is_loopback(setup.host))
        self._say = say
        self._shows_secrets = shows_secrets
        self._clock = clock or SystemClock()
        self._ids = ids or Ids()
        self._supervisor = Supervisor.from_env(os.environ, self._clock)
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then drain while still listening, and return."""
        return_large_blocks()
        if self._path is None:
            await self._run()
            return
        ownership = Ownership.try_acquire(self._path)
        if ownership is None:
            raise StoreBusy(
                f"{self._path} is in use by another process (it holds {lock_path(self._path)}); "
                "stop it, or name another --store"
            )
        try:
            await self._run()
        finally:
            ownership.release()

    async def _run(self) -> None:
        keys, keys_file = self._keys()
        broker = self._broker(keys, keys_file)
        try:
            node = self._node(broker)
            listening = bind_port(self._setup.host, self._setup.port)
            api = Api(broker, ROUTES, [keys.token], is_local=is_loopback(self._setup.host))
            listener = Listener(api, listening)
            await node.start()
            await listener.start()
            self._heed_signals()  # before anybody reads that it runs
            url = self._url(listening.getsockname()[1])
            self._greet(keys, keys_file, url)
            for risk in broker.database.risks:
                self._say(f"WARNING: {risk}")
            self._supervisor.ready(f"listening on port {listening.getsockname()[1]}")
            async with self._beside(node, url):
                with SET_APART:
                    await self._until_signal(broker)
                self._supervisor.stopping()
                self._say("draining: deliveries in flight may end, new requests are told to come back")
                broker.is_draining = True
                returned = await self._drain(node)
            broker.waiters.close()
            await self._clock.sleep(self._setup.linger_ms)
            await listener.stop()
            self._say(f"stopped; {returned} deliveries handed back")
        finally:
            await asyncio.to_thread(broker.database.close)

    def _keys(self) -> tuple[Keys, Path | None]:
        """Take token and keys from the environment, and what is not there from the file of keys."""
        settings = self._setup.settings
        if settings.token is not None and len(settings.signing_keys) == 2:
            return Keys(settings.token, *settings.signing_keys, secret=""), None
        assert self._path is not None  # PostgreSQL has them all
        path = keys_path(self._path)
        stored = load_or_make_keys(path, self._ids)
        current, following = settings.signing_keys or (stored.current, stored.next)
        token = settings.token or stored.token
        return replace(stored, token=token, current=current, next=following), path

    def _open(self) -> tuple[Database, Room | None]:
        setup = self._setup
        if self._path is None:
            return open_postgres(setup.store), None
        return open_store(
            self._path,
            setup.config,
            durability=setup.settings.durability,
            clock=self._clock,
            is_staying=True,
        )

    def _broker(self, keys: Keys, keys_file: Path | None) -> Broker:
        setup = self._setup
        is_ours = keys_file is not None and not setup.settings.signing_keys
        database, room = self._open()
        return Broker(
            database,
            setup.config,
            clock=self._clock,
            ids=self._ids,
            rules=self._rules,
            room=room,
            keys=key_ring(keys, keys_file, self._ids, self._clock)
            if is_ours and keys_file
            else KeyRing(keys.current, keys.next),
        )

    def _node(self, broker: Broker) -> Node:
        from qtasks.broker.http_delivery import HttpDeliverer

        setup = self._setup
        http = HttpDeliverer(
            self._rules,
            signing_key=broker.signing_key,
            max_response_bytes=setup.config.max_response_bytes,
            connections=setup.config.concurrency,
            apis=setup.config.apis,
            region=setup.config.region,
            clock=self._clock,
            ids=self._ids,
        )
        return Node(broker, RoutedDeliverer(None, http), setup.config, app=None, ids=self._ids)

    def _url(self, port: int) -> str:
        host = f"[{self._setup.host}]" if ":" in self._setup.host else self._setup.host
        return f"http://{host}:{port}"

    def _greet(self, keys: Keys, keys_file: Path | None, url: str) -> None:
        self._say(f"broker on {url}, store {shown_store(self._setup.store, self._path)}")
        if self._setup.settings.durability == "relaxed":
            self._say("durability relaxed: a power cut may lose the newest messages")
        if keys_file is None:
            return
        if not self._shows_secrets:
            self._say(f"token and signing keys are in {keys_file}")
            return
        self._say(f"QSTASH_URL={url}")
        self._say(f"QSTASH_TOKEN={keys.token}")
        self._say(f"QSTASH_CURRENT_SIGNING_KEY={keys.current}")
        self._say(f"QSTASH_NEXT_SIGNING_KEY={keys.next}")

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.stop)

    async def _until_signal(self, broker: Broker) -> None:
        """Wait for a signal; raises `BrokerFailed` as soon as the store has failed (promise P04)."""
        while not self._stopping.is_set():
            if broker.database.failure is not None:
                shown = shown_store(self._setup.store, self._path)
                raise BrokerFailed(f"the store {shown} failed: {broker.database.failure}")
            self._supervisor.alive()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()

    def stop(self) -> None:
        """Do what a signal does: drain and return. The second time, wait for no delivery any more."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def _drain(self, node: Node) -> int:
        """Let deliveries end within the grace; a second signal cuts it short."""
        draining = asyncio.create_task(node.stop())
        hurrying = asyncio.create_task(self._hurrying.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        if hurrying.done():
            node.dispatcher.hurry()
        hurrying.cancel()
        return await draining
