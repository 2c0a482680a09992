"""The embedded home: a broker inside the app's process, on a SQLite file.

The process whose lifespan runs and that gets the file's lock is the owner: it delivers. Any other
process is a guest: it forwards to the owner over a Unix socket or, with no owner, takes the lock for
the time of one call. A guest whose lifespan runs takes over when the owner is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from qtasks.broker.service import Broker
from qtasks.client import calls
from qtasks.client.clients import Client
from qtasks.clock import Clock
from qtasks.errors import BrokerFailed, BrokerUnreachable
from qtasks.home.keys import keys_path, load_or_make_keys
from qtasks.home.owner import Owner, OwnerSetup, open_broker
from qtasks.home.ownership import Ownership, owner_socket
from qtasks.protocol.results import ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.forks import call_after_fork
from qtasks.tasks.senders import batches

log = logging.getLogger("qtasks.home")

T = TypeVar("T")

BUDGET_MS = 5000
PAUSE_MS = 10
TAKEOVER_MS = 500
SERVERS = ("uvicorn", "hypercorn", "granian", "daphne")
TRANSIENT_MS = 2000  # a guest that holds the lock for one call is gone by then


class EmbeddedHome:
    """Sends to, and asks, the broker on a SQLite file: the same from its owner and from guests."""

    def __init__(self, path: Path, setup: OwnerSetup, clock: Clock) -> None:
        self._path = path
        self._setup = setup
        self._clock = clock
        self._owner: Owner | None = None
        self._taking_over: asyncio.Task[None] | None = None
        self._client: tuple[str, Client] | None = None
        self._client_lock = threading.Lock()
        self._is_started = False
        self._has_warned = False
        call_after_fork(self._forget)

    @property
    def is_owner(self) -> bool:
        """Whether this process delivers the tasks of the file."""
        return self._owner is not None

    # --- as sender and result source -------------------------------------------------------------

    def send(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Enqueue; durable when this returns."""
        return self._ask(
            lambda broker: broker.accept(messages),
            lambda client: _forward(client, messages),
        )

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `send` does without blocking the event loop."""
        owner = self._owner
        if owner is not None:
            return await owner.broker.aaccept(messages)
        return await asyncio.to_thread(self.send, messages)

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        ends_at = self._clock.monotonic() + wait_ms
        while True:
            found = self._result_within(task_id, max(0, ends_at - self._clock.monotonic()))
            if found.is_final or found.state == "UNKNOWN" or self._clock.monotonic() >= ends_at:
                return found
            # Without an owner nothing runs: look again, seldom, whether one has come.
            threading.Event().wait(0.2)

    def _result_within(self, task_id: str, wait_ms: int) -> ResultView:
        """Ask once; only a broker that delivers is worth waiting for."""
        return self._ask(
            lambda broker: broker.results.find(task_id, wait_ms if self.is_owner else 0),
            lambda client: client.send(calls.result(task_id, min(wait_ms, BUDGET_MS))),
        )

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        owner = self._owner
        if owner is not None:
            return await owner.broker.results.afind(task_id, wait_ms)
        return await asyncio.to_thread(self.result, task_id, wait_ms)

    def _ask(self, here: Callable[[Broker], T], there: Callable[[Client], T]) -> T:
        """Do it as the owner, through the owner, or as the owner for a moment."""
        owner = self._owner
        if owner is not None:
            try:
                return here(owner.broker)
            except BrokerFailed:
                if owner is self._owner:
                    raise
                # It was given up meanwhile: this process is a guest now.
        ends_at = self._clock.monotonic() + BUDGET_MS
        while True:
            socket = owner_socket(self._path)
            if socket is not None:
                try:
                    return there(self._forwarder(socket))
                except BrokerUnreachable:
                    pass  # it has just died, or is about to listen; whoever is there next is asked
            ownership = Ownership.try_acquire(self._path)
            if ownership is not None:
                try:
                    self._warn_if_nobody_runs()
                    return self._for_a_moment(here)
                finally:
                    ownership.release()
            if self._clock.monotonic() >= ends_at:
                raise BrokerUnreachable(
                    f"the process that owns {self._path} did not answer within {BUDGET_MS / 1000:g} s"
                )
            threading.Event().wait(PAUSE_MS / 1000)

    def _for_a_moment(self, here: Callable[[Broker], T]) -> T:
        broker = open_broker(self._path, self._setup, self._clock)
        try:
            return here(broker)
        finally:
            broker.database.close()

    def _forwarder(self, socket: str) -> Client:
        with self._client_lock:
            if self._client is None or self._client[0] != socket:
                keys = load_or_make_keys(keys_path(self._path), self._setup.ids)
                client = Client("", keys.token, socket=socket, timeout=BUDGET_MS * 2 / 1000)
                weakref.finalize(self, client.close)
                self._client = (socket, client)
            return self._client[1]

    def _warn_if_nobody_runs(self) -> None:
        """Say once, in a server, that it enqueues what nobody will run: its lifespan was forgotten."""
        if self._has_warned or self._is_started or not any(each in sys.modules for each in SERVERS):
            return
        self._has_warned = True
        log.warning(
            "tasks are stored in %s, but no process runs them yet: pass lifespan=tasks.lifespan to your app",
            self._path,
        )

    # --- as owner --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become the owner, or stand by to take over from the one there is."""
        self._is_started = True
        ends_at = self._clock.monotonic() + TRANSIENT_MS
        while not await self._try_to_own():
            if owner_socket(self._path) is not None or self._clock.monotonic() >= ends_at:
                _say(f"process {os.getpid()} forwards its tasks to the process that owns {self._path}")
                self._taking_over = asyncio.create_task(self._take_over(), name="qtasks-take-over")
                return
            await self._clock.sleep(PAUSE_MS)

    async def _try_to_own(self) -> bool:
        ownership = await asyncio.to_thread(Ownership.try_acquire, self._path)
        if ownership is None:
            return False
        is_new = not self._path.exists()
        owner = Owner(self._path, ownership, self._setup, self._clock)
        await owner.start(asyncio.get_running_loop())
        self._owner = owner
        _say(
            f"process {os.getpid()} runs the tasks of {self._path}"
            + (" (just made)" if is_new else "")
            + (", durability relaxed: a power cut may lose the newest" if self._setup.is_relaxed else "")
            + "; other processes forward to it"
        )
        return True

    async def _take_over(self) -> None:
        while True:
            await self._clock.sleep(TAKEOVER_MS)
            try:
                if await self._try_to_own():
                    return
            except Exception:  # a loop step's wall: the next turn may succeed
                log.exception("cannot take over %s", self._path)

    async def stop(self) -> None:
        """Let deliveries in flight end, hand the rest back, give the file up."""
        if self._taking_over is not None:
            self._taking_over.cancel()
            await asyncio.gather(self._taking_over, return_exceptions=True)
            self._taking_over = None
        owner = self._owner
        if owner is not None:
            await owner.drain()
            self._owner = None  # calls go the way of a guest from here on
            await owner.close()
        self._is_started = False
        with self._client_lock:
            client, self._client = self._client, None
        if client is not None:
            client[1].close()

    def abandon(self) -> None:
        """Give the file up at the end of the process, when the app's loop is gone already."""
        if self._owner is not None:
            self._owner.abandon()
            self._owner = None

    def _forget(self) -> None:
        """A forked child is a guest: the owner's threads and connections are not its own."""
        self._owner = None
        self._taking_over = None
        self._client = None
        self._client_lock = threading.Lock()
        self._is_started = False


def _forward(client: Client, messages: Sequence[Outgoing]) -> list[Enqueued]:
    """Send to the owner, as many in one request as its body may hold."""
    if len(messages) == 1:
        return [client.send(calls.send(messages[0]))]
    answers: list[Enqueued] = []
    for batch in batches(messages):
        sent = client.send(calls.batch(batch))
        answers += sent
    return answers


def _say(line: str) -> None:
    sys.stderr.write(f"qtasks: {line}\n")
    sys.stderr.flush()
