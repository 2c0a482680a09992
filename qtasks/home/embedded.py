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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qtasks.broker.service import Broker
from qtasks.client import calls
from qtasks.client.clients import Client
from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import Clock
from qtasks.errors import BrokerFailed, BrokerUnavailable, BrokerUnreachable
from qtasks.home.engine import EngineSetup
from qtasks.home.keys import keys_path, load_or_make_keys
from qtasks.home.owner import Owner, open_broker
from qtasks.home.ownership import Ownership, owner_socket
from qtasks.home.questions import Question, about_one, about_some, message_filter
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.forks import call_after_fork
from qtasks.tasks.lanes import batches
from qtasks.tasks.selection import Selection
from qtasks.tasks.senders import HttpSender

log = logging.getLogger("qtasks.home")

T = TypeVar("T")

BUDGET_MS = 5000
PAUSE_MS = 10
TAKEOVER_MS = 500
SERVERS = ("uvicorn", "hypercorn", "granian", "daphne")
LOOK_AGAIN_MS = 200  # without an owner nothing runs: look seldom whether one has come
TRANSIENT_MS = 2000  # a guest that holds the lock for one call is gone by then


@dataclass(frozen=True, slots=True)
class _Forwarder:
    """The way to an owner: for a moment, or to wait there for any number of tasks on one thread."""

    socket: str
    client: Client
    waits: HttpSender

    def close(self) -> None:
        self.client.close()
        self.waits.close()


class EmbeddedHome:
    """Sends to, and asks, the broker on a SQLite file: the same from its owner and from guests."""

    def __init__(self, path: Path, setup: EngineSetup, clock: Clock) -> None:
        self._path = path
        self._setup = setup
        self._clock = clock
        self._owner: Owner | None = None
        self._taking_over: asyncio.Task[None] | None = None
        self._client: _Forwarder | None = None
        self._client_lock = threading.Lock()
        self._is_started = False
        self._has_warned = False
        call_after_fork(self._forget)

    @property
    def is_owner(self) -> bool:
        """Whether this process delivers the tasks of the file."""
        return self._owner is not None

    # --- as sender and result source -------------------------------------------------------------

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue; durable when this returns."""
        owner = self._owner
        own = None if owner is None else owner.broker  # the first that is asked, if there is one
        return self._ask(
            lambda broker: broker.accept(
                messages if broker is own else [each.repeated() for each in messages]
            ),
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
        return self._wait(about_one(task_id), wait_ms)

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `result` does, on an event loop."""
        return await self._await(about_one(task_id), wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or are unknown, waiting for the first of them."""
        return self._wait(about_some(task_ids), wait_ms)

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._await(about_some(task_ids), wait_ms)

    def cancel(self, task_id: str) -> bool:
        """Call a task off; say whether it was under way and not called off before."""
        return self._ask(
            lambda broker: broker.cancel_task(task_id),
            lambda client: client.send(calls.cancel_task(task_id)),
        )

    async def acancel(self, task_id: str) -> bool:
        """Do what `cancel` does, on an event loop."""
        return await asyncio.to_thread(self.cancel, task_id)

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._ask(
            lambda broker: broker.results.forget(task_id),
            lambda client: client.send(calls.forget_result(task_id)),
        )

    async def aforget(self, task_id: str) -> bool:
        """Do what `forget` does, on an event loop."""
        return await asyncio.to_thread(self.forget, task_id)

    def stall(self) -> str | None:
        """Say that nobody runs the tasks, in a server that does not either: its lifespan was forgotten."""
        if self._owner is not None or not self._is_idle_server() or owner_socket(self._path) is not None:
            return None
        return (
            f"no process runs the tasks of {self._path}: pass lifespan=tasks.lifespan to your app, or give a "
            "timeout if another process is about to run them"
        )

    def report_progress(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come; only the owner runs any."""
        owner = self._owner
        if owner is not None:
            owner.broker.results.report(reports)

    def _wait(self, question: Question[T], wait_ms: int) -> T:
        ends_at = self._clock.monotonic() + wait_ms
        while True:
            found = self._once(question, max(0, ends_at - self._clock.monotonic()))
            if question.is_answered(found) or self._clock.monotonic() >= ends_at:
                return found
            self._say_that_nobody_runs()
            threading.Event().wait(LOOK_AGAIN_MS / 1000)

    def _once(self, question: Question[T], wait_ms: int) -> T:
        """Ask once; only a broker that delivers is worth waiting for."""
        try:
            return self._ask(
                lambda broker: question.here(broker, wait_ms if self.is_owner else 0),
                lambda client: client.send(question.there(min(wait_ms, BUDGET_MS))),
            )
        except BrokerUnavailable:  # it is shutting down: whoever is there next is waited for
            if not wait_ms:
                raise
            return self._once(question, 0)

    async def _await(self, question: Question[T], wait_ms: int) -> T:
        ends_at = self._clock.monotonic() + wait_ms
        while True:
            found = await self._aonce(question, max(0, ends_at - self._clock.monotonic()))
            if question.is_answered(found) or self._clock.monotonic() >= ends_at:
                return found
            self._say_that_nobody_runs()
            await self._clock.sleep(LOOK_AGAIN_MS)

    async def _aonce(self, question: Question[T], wait_ms: int) -> T:
        """Ask once; whoever waits takes up no thread, of which an event loop has few."""
        owner = self._owner
        if owner is not None:
            try:
                return await question.ahere(owner.broker, wait_ms)
            except (BrokerFailed, BrokerUnavailable):
                if owner is self._owner:
                    raise
        elif wait_ms:
            waits = await asyncio.to_thread(self._waits_at_owner)
            try:
                if waits is not None:
                    return await waits.aask_once(question.there(wait_ms), wait_ms)
            except (BrokerUnreachable, BrokerUnavailable):
                pass  # it has just died, is shutting down, or is about to listen
        return await asyncio.to_thread(self._once, question, 0)

    def cancel_matching(self, wanted: Selection) -> int:
        """Call off what is selected; say how many calls."""
        return self._ask(
            lambda broker: broker.cancel_matching(message_filter(wanted), None),
            lambda client: client.send(calls.cancel_matching(wanted.filters())),
        )

    async def acancel_matching(self, wanted: Selection) -> int:
        """Do what `cancel_matching` does, on an event loop."""
        return await asyncio.to_thread(self.cancel_matching, wanted)

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
                    return there(self._forwarder(socket).client)
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

    def _forwarder(self, socket: str) -> _Forwarder:
        with self._client_lock:
            if self._client is None or self._client.socket != socket:
                keys = load_or_make_keys(keys_path(self._path), self._setup.ids)
                client = Client("", keys.token, socket=socket, timeout=BUDGET_MS * 2 / 1000)
                waits = HttpSender("", keys.token, socket=socket, clock=self._clock)
                weakref.finalize(self, client.close)
                self._client = _Forwarder(socket, client, waits)
            return self._client

    def _waits_at_owner(self) -> HttpSender | None:
        socket = owner_socket(self._path)
        return None if socket is None else self._forwarder(socket).waits

    def _is_idle_server(self) -> bool:
        return not self._is_started and any(each in sys.modules for each in SERVERS)

    def _warn_if_nobody_runs(self) -> None:
        """Say once, in a server, that it enqueues what nobody will run: its lifespan was forgotten."""
        if self._has_warned or not self._is_idle_server():
            return
        self._has_warned = True
        log.warning(
            "tasks are stored in %s, but no process runs them yet: pass lifespan=tasks.lifespan to your app",
            self._path,
        )

    def _say_that_nobody_runs(self) -> None:
        """Say once, where somebody waits for a task, that it will not run before the app is started."""
        if self._has_warned or self._is_started or owner_socket(self._path) is not None:
            return
        self._has_warned = True
        log.warning("waiting for a task of %s, but no process runs them yet: start the app", self._path)

    # --- as owner --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Become the owner, or stand by to take over from the one there is."""
        self._setup.timetable()  # what is wrong with a schedule shows in every process
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
            client.close()

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
