"""The way from a call to a broker: the `Sender` seam, and `HttpSender` for a broker elsewhere.

The sender of the embedded home is in `home/`, where tasks and broker meet.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

import httpx

from qtasks.client.call import Call
from qtasks.client.clients import AsyncClient
from qtasks.client.kept import KeptClient, Meanwhile, nothing
from qtasks.clock import Clock
from qtasks.errors import BrokerUnavailable, BrokerUnreachable
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.forks import call_after_fork
from qtasks.tasks.lanes import CLOSED, Lanes, in_turn
from qtasks.tasks.retrying import Patience, unanswered

T = TypeVar("T")

BUDGET_MS = 5000
TRIES = 1000
STOP_S = 2
LONG_POLL_MARGIN_MS = 5000


class Sender(Protocol):
    """Takes messages to a broker; a single call and many are the same path."""

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue, in order; durable when this returns. For any thread, also one that runs a loop.

        `meanwhile` may be called while the broker is at work: never, or several times where attempts fail.
        """
        ...

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `send` does without blocking the event loop."""
        ...


class HttpSender:
    """Sends over HTTP, over a few connections that stay open, and asks from one loop thread of its own.

    So `delay` works on any thread and inside a running loop, and no client dies with its loop. Each
    message bears a deduplication id: what got no answer is sent again within the budget. With a `socket`
    it speaks to an embedded broker, and there is no URL.
    """

    def __init__(
        self, url: str, token: str, *, socket: str | None = None, clock: Clock, budget_ms: int = BUDGET_MS
    ) -> None:
        self._url = url
        self._socket = socket
        self._token = token
        self._clock = clock
        self._budget_ms = budget_ms
        self._lock = threading.Lock()
        self._thread: _LoopThread | None = None
        self._lanes: Lanes | None = None
        call_after_fork(self._forget)

    def submit(self, messages: Sequence[Outgoing]) -> Future[list[Enqueued]]:
        """Start sending what goes `in_turn`; the future brings the answers."""
        return self._open_lanes().submit(messages)

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        return [each for part in in_turn(messages) for each in self._open_lanes().send(part, meanwhile)]

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        answers: list[Enqueued] = []
        for part in in_turn(messages):
            of_part = await asyncio.wrap_future(self.submit(part))
            answers += of_part
        return answers

    def ask(self, call: Call[T], wait_ms: int = 0) -> T:
        """Carry out an operation, again and again until the budget is spent; it may wait `wait_ms` itself."""
        return self._loop_thread().start(self._ask(call, wait_ms)).result()

    async def aask(self, call: Call[T], wait_ms: int = 0) -> T:
        """Do what `ask` does without blocking the event loop."""
        return await asyncio.wrap_future(self._loop_thread().start(self._ask(call, wait_ms)))

    async def aask_once(self, call: Call[T], wait_ms: int = 0) -> T:
        """Carry out an operation once; raises `BrokerUnreachable` if there is no answer."""
        return await asyncio.wrap_future(self._loop_thread().start(self._ask_once(call, wait_ms)))

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            thread, self._thread = self._thread, None
            lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.close()
        if thread is not None:
            thread.stop()

    async def _ask(self, call: Call[T], wait_ms: int) -> T:
        thread = self._loop_thread()
        patience_ms = wait_ms + LONG_POLL_MARGIN_MS if wait_ms else 0
        patience = Patience(self._clock, self._budget_ms + patience_ms)
        for tried in range(TRIES):
            try:
                async with asyncio.timeout(patience.left_s()):
                    return await thread.client.send(call)
            except BrokerUnavailable as error:
                pause_ms = patience.unavailable(error)
            except (BrokerUnreachable, TimeoutError) as error:
                pause_ms = patience.unreachable(tried)
                if not pause_ms:
                    raise self._unreachable(error) from error
            await self._clock.sleep(pause_ms)
        raise AssertionError("the budget ends the loop")

    async def _ask_once(self, call: Call[T], wait_ms: int) -> T:
        try:
            async with asyncio.timeout((wait_ms + LONG_POLL_MARGIN_MS) / 1000):
                return await self._loop_thread().client.send(call)
        except TimeoutError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> BrokerUnreachable:
        return unanswered(error, self._url, self._budget_ms)

    def _open_lanes(self) -> Lanes:
        lanes = self._lanes
        if lanes is not None:
            return lanes
        with self._lock:
            if self._lanes is None:
                self._lanes = Lanes(self._new_lane)
                weakref.finalize(self, _close, self._lanes, os.getpid())
            return self._lanes

    def _new_lane(self) -> _HttpLane:
        client = KeptClient(self._url, self._token, socket=self._socket)
        return _HttpLane(client, self._clock, self._budget_ms, self._url)

    def _loop_thread(self) -> _LoopThread:
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread(self._url, self._token, self._socket)
                weakref.finalize(self, _stop, self._thread, os.getpid())
            return self._thread

    def _forget(self) -> None:
        """A forked child has neither the threads nor a right to the connections."""
        self._lock = threading.Lock()
        self._thread = None
        self._lanes = None


def _stop(thread: _LoopThread, pid: int) -> None:
    """Close what a forgotten sender has left open; a forked child has no such thread to ask."""
    if os.getpid() == pid:
        thread.stop()


def _close(lanes: Lanes, pid: int) -> None:
    """Do the same for the connections, which a forked child must leave to its parent."""
    if os.getpid() == pid:
        lanes.close()


class _HttpLane:
    """A connection to the broker, over which a message is sent again until the budget is spent."""

    def __init__(self, client: KeptClient, clock: Clock, budget_ms: int, url: str) -> None:
        self._client = client
        self._clock = clock
        self._budget_ms = budget_ms
        self._url = url
        self._closed = threading.Event()

    def enqueue(self, call: Call[list[Enqueued]], meanwhile: Meanwhile) -> list[Enqueued]:
        patience = Patience(self._clock, self._budget_ms)
        aside = nothing if meanwhile is nothing else partial(patience.spare, meanwhile)
        for tried in range(TRIES):
            try:
                return self._client.send(call, patience.left_s(), aside)
            except BrokerUnavailable as error:
                pause_ms = patience.unavailable(error)
            except BrokerUnreachable as error:
                pause_ms = patience.unreachable(tried)
                if not pause_ms:
                    raise unanswered(error, self._url, self._budget_ms) from error
            if self._closed.wait(pause_ms / 1000):
                raise BrokerUnreachable(CLOSED)
        raise AssertionError("the budget ends the loop")

    def close(self) -> None:
        self._closed.set()
        self._client.close()


class _LoopThread:
    """A daemon thread that runs an event loop, and the HTTP client that lives on it: any number may wait."""

    def __init__(self, url: str, token: str, socket: str | None) -> None:
        self._loop = asyncio.new_event_loop()
        timeout = httpx.Timeout(None, connect=2.0)
        self.client = AsyncClient(url, token, socket=socket, limits=httpx.Limits(), timeout=timeout)
        self._thread = threading.Thread(target=self._loop.run_forever, name="qtasks-asker", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _end(self) -> None:
        """Close the connections, so that everybody who still waits hears that nothing more comes."""
        await self.client.aclose()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        _, left = await asyncio.wait(rest, timeout=STOP_S / 4) if rest else (set(), set())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def stop(self) -> None:
        """Close the connections and end the thread; nothing happens the second time."""
        if self._loop.is_closed():
            return
        self.start(self._end()).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
