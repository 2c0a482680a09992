"""procrastinate as a contestant: workers on one connection pool each, callers on another that blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from tests.benchmarks.peers.tally import ran

PACKAGES = ("procrastinate", "psycopg", "psycopg-pool")
CHUNK = 1000

app = App(connector=PsycopgConnector(conninfo=os.environ["PEERS_URL"], max_size=20))
client = App(connector=SyncPsycopgConnector(conninfo=os.environ["PEERS_URL"], min_size=8, max_size=8))


@app.task(name="noop")
async def noop(text: str) -> None:
    ran()


called = client.configure_task("noop", allow_unknown=True)


@contextmanager
def opened() -> Iterator[None]:
    with client.open():
        if os.environ["PEERS_PHASE"] == "fill":
            client.schema_manager.apply_schema()
        yield
        client.connector.execute_query("ANALYZE procrastinate_jobs")


def delay(text: str) -> None:
    called.defer(text=text)


def delay_many(text: str, count: int) -> None:
    for first in range(0, count, CHUNK):
        called.batch_defer(*({"text": text} for _ in range(min(CHUNK, count - first))))
