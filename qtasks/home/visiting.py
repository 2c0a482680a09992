"""Opens a broker's store beside its app, for as long as somebody looks at it, and serves its API in process.

On SQLite the app must not run, and nothing is delivered meanwhile; on PostgreSQL any process may. What
is changed is there for those that deliver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from starlette.types import ASGIApp

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.config import BrokerConfig
from qtasks.broker.keys import KeyRing
from qtasks.broker.room import Room
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.broker.store.database import Database
from qtasks.clock import SystemClock
from qtasks.errors import BrokerUnreachable
from qtasks.home.keys import key_ring, keys_path, load_or_make_keys
from qtasks.home.ownership import Ownership, lock_path
from qtasks.home.shared import check_shared, shared_keys
from qtasks.home.stores import open_postgres, open_store
from qtasks.ids import Ids
from qtasks.settings import Settings

APP = "app"
"""The name that an app has unless it is told another: a broker takes replays for its own app only."""


@contextmanager
def visiting_file(path: Path, settings: Settings) -> Iterator[tuple[ASGIApp, str]]:
    """Own a file for the block; gives the broker's API and a token for it.

    Raises `BrokerUnreachable` if a process has it that does not listen for others on this machine, and
    `StoreError` if the file cannot be used.
    """
    ownership = Ownership.try_acquire(path)
    if ownership is None:
        raise BrokerUnreachable(
            f"{path} is in use by a process that is just starting, or by a standalone broker (it holds "
            f"{lock_path(path)}); name that one's address: --broker http://127.0.0.1:8080 and QTASKS_TOKEN"
        )
    try:
        clock, ids, config = SystemClock(), Ids(), BrokerConfig()
        keys = key_ring(load_or_make_keys(keys_path(path), ids), keys_path(path), ids, clock)
        database, room = open_store(
            path, config, durability=settings.durability, clock=clock, is_staying=False
        )
        with _served(database, room, keys, settings, config, ids) as served:
            yield served
    finally:
        ownership.release()


@contextmanager
def visiting_postgres(settings: Settings) -> Iterator[tuple[ASGIApp, str]]:
    """Open a shared database for the block; gives the broker's API and a token for it.

    Raises `ConfigurationError` for what processes that share one need and that is not set, and `StoreError`.
    """
    check_shared(settings)
    keys = shared_keys(settings)
    with _served(open_postgres(settings.broker), None, keys, settings, BrokerConfig(), Ids()) as served:
        yield served


@contextmanager
def _served(
    database: Database, room: Room | None, keys: KeyRing, settings: Settings, config: BrokerConfig, ids: Ids
) -> Iterator[tuple[ASGIApp, str]]:
    try:
        broker = Broker(
            database,
            config,
            clock=SystemClock(),
            ids=ids,
            rules=parse_rules(settings.allow_destinations, loopback=True),
            keys=keys,
            room=room,
            app=APP,
            delivers_http=find_spec("aiohttp") is not None,
        )
        token = ids.secret()  # nobody else comes this way
        yield Api(broker, ROUTES, [token]), token
    finally:
        database.close()
