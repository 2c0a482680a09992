"""The home on PostgreSQL: every process of the app speaks to the store itself, and runs tasks if it serves.

There is no owner: a process whose lifespan runs is a node, and any other only enqueues and asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from qtasks.broker.keys import KeyRing
from qtasks.broker.service import Broker
from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import Clock
from qtasks.errors import ConfigurationError
from qtasks.home.engine import Doors, Engine, EngineSetup, has_aiohttp
from qtasks.home.leaving import Leaving
from qtasks.home.ports import bind_port
from qtasks.home.questions import Question, about_one, about_some, message_filter
from qtasks.home.stores import open_postgres, shown_store
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.settings import Settings
from qtasks.tasks.connections import POSTGRES, find_connection
from qtasks.tasks.forks import call_after_fork
from qtasks.tasks.selection import Selection

T = TypeVar("T")


class SharedHome:
    """Sends to, and asks, the broker on a PostgreSQL that other processes and machines share."""

    def __init__(self, settings: Settings, setup: EngineSetup, clock: Clock) -> None:
        self._settings = settings
        self._setup = setup
        self._clock = clock
        self._lock = threading.Lock()
        self._broker: Broker | None = None
        self._engine: Engine | None = None
        call_after_fork(self._forget)

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue; durable when this returns."""
        return self._get_broker().accept(messages)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `send` does without blocking the event loop."""
        return await (await self._aget_broker()).aaccept(messages)

    def leave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Have messages enqueued if the transaction of a connection to the same database commits."""
        found = find_connection(connection)
        return self._leaving(self._get_broker(), messages).run(found)

    async def aleave(self, connection: Any, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `leave` does, on an async connection too."""
        found = find_connection(connection)
        broker = await self._aget_broker()
        return await (await asyncio.to_thread(self._leaving, broker, messages)).arun(found)

    def _leaving(self, broker: Broker, messages: Sequence[Outgoing]) -> Leaving:
        missing = (
            f"the broker's tables are in {shown_store(self._settings.broker, None)}, which is another "
            "database than this connection's: give one to that, or the app an outbox where its connections "
            'lead, QTasks(outbox="postgresql://…")'
        )
        return Leaving(broker.leaving(messages), messages, POSTGRES, missing)

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        return about_one(task_id).here(self._get_broker(), wait_ms)

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._ask(about_one(task_id), wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown, waiting for the first of them."""
        return about_some(task_ids).here(self._get_broker(), wait_ms)

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._ask(about_some(task_ids), wait_ms)

    def cancel(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        return self._get_broker().cancel_task(task_id)

    async def acancel(self, task_id: str) -> bool:
        """Do what `cancel` does, on an event loop."""
        return await asyncio.to_thread(self.cancel, task_id)

    def cancel_matching(self, wanted: Selection) -> int:
        """Call off what is selected; say how many calls."""
        return self._get_broker().cancel_matching(message_filter(wanted), None)

    async def acancel_matching(self, wanted: Selection) -> int:
        """Do what `cancel_matching` does, on an event loop."""
        return await asyncio.to_thread(self.cancel_matching, wanted)

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._get_broker().results.forget(task_id)

    async def aforget(self, task_id: str) -> bool:
        """Do what `forget` does, on an event loop."""
        return await asyncio.to_thread(self.forget, task_id)

    def stall(self) -> str | None:
        """Say nothing: whether another process runs the tasks is not known here."""
        return None

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come."""
        self._get_broker().results.report(reports)

    async def start(self) -> None:
        """Become a node; raises `StoreError` if the database cannot be used."""
        check_shared(self._settings)
        ports = [] if self._setup.listen is None else [bind_port(*self._setup.listen)]
        doors = Doors(ports, self._settings.token or "")
        engine = Engine(self._open, doors, self._setup, self._clock)
        await engine.start(asyncio.get_running_loop())
        self._engine = engine
        store = shown_store(self._settings.broker, None)
        sys.stderr.write(f"qtasks: process {os.getpid()} runs tasks as a node of {store}\n")
        for risk in engine.broker.database.risks:
            sys.stderr.write(f"qtasks: WARNING: {risk}\n")
        sys.stderr.flush()

    async def stop(self) -> None:
        """Let deliveries in flight end, hand the rest back, let go of the database."""
        engine = self._engine
        if engine is not None:
            await engine.drain()
            self._engine = None  # calls of what still runs open the store again
            await engine.close()
        with self._lock:
            broker, self._broker = self._broker, None
        if broker is not None:
            await asyncio.to_thread(broker.database.close)

    def abandon(self) -> None:
        """Let go at the end of the process, when the app's loop is gone already."""
        if self._engine is not None:
            self._engine.abandon()
            self._engine = None

    async def _ask(self, question: Question[T], wait_ms: int) -> T:
        return await question.ahere(await self._aget_broker(), wait_ms)

    async def _aget_broker(self) -> Broker:
        if self._engine is not None or self._broker is not None:
            return self._get_broker()
        return await asyncio.to_thread(self._get_broker)

    def _get_broker(self) -> Broker:
        engine = self._engine
        if engine is not None:
            return engine.broker
        with self._lock:
            if self._broker is None:
                check_shared(self._settings)
                self._broker = self._open()
            return self._broker

    def _open(self) -> Broker:
        settings = self._settings
        return Broker(
            open_postgres(settings.broker),
            self._setup.config,
            clock=self._clock,
            ids=self._setup.ids,
            rules=self._setup.rules,
            keys=shared_keys(settings),
            app=self._setup.app,
            delivers_http=has_aiohttp(),
        )

    def _forget(self) -> None:
        """A forked child has neither the threads nor a right to the connections."""
        self._lock = threading.Lock()
        self._broker = self._engine = None


def check_shared(settings: Settings) -> None:
    """Raise `ConfigurationError` naming what processes that share a database need and that is not set."""
    if not settings.secrets:
        raise ConfigurationError(
            "with a broker on PostgreSQL all processes must sign tasks with the same QTASKS_SECRET; make one "
            "with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    if len(settings.signing_keys) == 1:
        raise ConfigurationError(
            "set both QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY, or neither"
        )
    if settings.listen is not None and settings.token is None:
        raise ConfigurationError("QTASKS_LISTEN serves the API, which needs a token: set QTASKS_TOKEN")


def shared_keys(settings: Settings) -> KeyRing:
    """Give the signing keys that all processes have which share a database and are set up alike."""
    current, following = settings.signing_keys or _derived(settings.secrets[0])
    return KeyRing(current, following)


def _derived(secret: str) -> tuple[str, ...]:
    """Make the signing keys that all processes come to, for destinations outside the app."""
    digests = (
        hmac.digest(secret.encode(), f"qtasks.signing.{which}".encode(), hashlib.sha256)
        for which in ("current", "next")
    )
    return tuple(f"sig_{each.hex()}" for each in digests)
