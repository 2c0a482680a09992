"""An app with an outbox and an inbox in its database, for tests that kill it: run in a process of its own.

`serve` runs its tasks until it is killed; `relay` takes calls from the outbox to the broker, and dies before
it has deleted them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from qtasks import Context, QTasks
from qtasks.home.outbox_relay import OutboxRelay
from qtasks.protocol.shapes import Enqueued, Outgoing

URL = os.environ["QTASKS_TEST_DATABASE"]
LEDGER = os.environ["QTASKS_TEST_LEDGER"]
STEP_S = 0.01

tasks = QTasks()


def opened() -> Any:
    """Open the app's database."""
    # Many tasks at once take turns at the one lock of a file.
    return sqlite3.connect(URL[10:], timeout=60) if URL.startswith("sqlite") else psycopg.connect(URL)


def note(kind: str, key: str) -> None:
    """Add a line to the ledger, in one write that no other process can cut in two."""
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{kind} {key}\n".encode())
    finally:
        os.close(descriptor)


@tasks.task(name="charge", bind=True)
def charge(context: Context, key: str) -> str:
    """Have an effect in the database, with time to die before its commit and after."""
    note("start", key)
    connection = opened()
    try:
        with context.once(connection) as fresh:
            if fresh:
                connection.execute(f"INSERT INTO effects (key) VALUES ('{key}')")
                fresh.result = key
        time.sleep(STEP_S)
        connection.commit()
    finally:
        connection.close()
    time.sleep(STEP_S)
    note("end", key)
    return str(fresh.result)


async def serve() -> None:
    """Run the tasks."""
    async with tasks.lifespan():
        print("serving", flush=True)
        await asyncio.Event().wait()


def send_and_die(messages: Sequence[Outgoing]) -> list[Enqueued]:
    """Send, and do nothing more."""
    tasks._home.send(messages)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        OutboxRelay(opened, send_and_die).step(opened())
