"""Opens the broker on a SQLite file whose app does not run, for as long as somebody looks at it.

Nothing is delivered meanwhile: what is changed is there for the next owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.types import ASGIApp

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.config import BrokerConfig
from qtasks.clock import SystemClock
from qtasks.errors import BrokerUnreachable
from qtasks.home.keys import keys_path, load_or_make_keys
from qtasks.home.owner import OwnerSetup, open_broker
from qtasks.home.ownership import Ownership, lock_path
from qtasks.ids import Ids


@contextmanager
def visiting(path: Path, app: str = "app") -> Iterator[tuple[ASGIApp, str]]:
    """Own a file for the block; gives the broker's API and its token. `app` is the name of the file's app.

    Raises `BrokerUnreachable` if a process has it that does not listen for others on this machine.
    """
    ids = Ids()
    ownership = Ownership.try_acquire(path)
    if ownership is None:
        raise BrokerUnreachable(
            f"{path} is in use by a process that is just starting, or by a standalone broker (it holds "
            f"{lock_path(path)}); name that one's address: --broker http://127.0.0.1:8080 and QTASKS_TOKEN"
        )
    try:
        setup = OwnerSetup(app=app, run=lambda claims, tell: None, config=BrokerConfig(), ids=ids)
        broker = open_broker(path, setup, SystemClock())
        try:
            token = load_or_make_keys(keys_path(path), ids).token
            yield Api(broker, ROUTES, [token]), token
        finally:
            broker.database.close()
    finally:
        ownership.release()
