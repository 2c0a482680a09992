"""Opens the broker on a SQLite file whose app does not run, for as long as somebody looks at it.

Nothing is delivered meanwhile: what is changed is there for the next owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from starlette.types import ASGIApp

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.config import BrokerConfig
from qtasks.broker.security import parse_rules
from qtasks.broker.service import Broker
from qtasks.clock import SystemClock
from qtasks.errors import BrokerUnreachable
from qtasks.home.keys import key_ring, keys_path, load_or_make_keys
from qtasks.home.ownership import Ownership, lock_path
from qtasks.home.stores import open_store
from qtasks.ids import Ids
from qtasks.settings import Settings


@contextmanager
def visiting(path: Path, settings: Settings, app: str = "app") -> Iterator[tuple[ASGIApp, str]]:
    """Own a file for the block; gives the broker's API and its token. `app` is the name of the file's app.

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
        broker, token = _open(path, settings, app)
        try:
            yield Api(broker, ROUTES, [token]), token
        finally:
            broker.database.close()
    finally:
        ownership.release()


def _open(path: Path, settings: Settings, app: str) -> tuple[Broker, str]:
    clock, ids, config = SystemClock(), Ids(), BrokerConfig()
    keys = load_or_make_keys(keys_path(path), ids)
    database, room = open_store(path, config, durability=settings.durability, clock=clock, is_staying=False)
    broker = Broker(
        database,
        config,
        clock=clock,
        ids=ids,
        rules=parse_rules(settings.allow_destinations, loopback=True),
        keys=key_ring(keys, keys_path(path), ids, clock),
        room=room,
        app=app,
        delivers_http=find_spec("aiohttp") is not None,
    )
    return broker, keys.token
