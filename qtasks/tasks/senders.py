"""The way from a call to a broker: the `Sender` seam, and `HttpSender` for a broker elsewhere.

The sender of the embedded home is in `home/`, where tasks and broker meet.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx

from qtasks.client.calls import Call, batch, send
from qtasks.client.clients import AsyncClient
from qtasks.clock import Clock
from qtasks.errors import BrokerUnavailable, BrokerUnreachable, RequestError
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.forks import call_after_fork

T = TypeVar("T")

BUDGET_MS = 5000
CONNECTIONS = 4
BATCH_MESSAGES = 100
STOP_S = 2
CLOSED = "the connections to the broker were closed before it answered"
BATCH_BYTES = 1024 * 1024
LONG_POLL_MARGIN_MS = 5000


class Sender(Protocol):
    """Takes messages to a broker; a single call and many are the same path."""

    def send(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Enqueue, in order; durable when this returns. For any thread, also one that runs a loop."""
        ...

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """Do what `send` does without blocking the event loop."""
        ...


def batches(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Split messages, in order, into what goes into one request each."""
    start, size = 0, 0
    for place, each in enumerate(messages):
        size += len(each.body)
        if place > start and (size > BATCH_BYTES or place - start == BATCH_MESSAGES):
            yield messages[start:place]
            start, size = place, len(each.body)
    if start < len(messages):
        yield messages[start:]


class HttpSender:
    """Sends over HTTP from one loop thread of its own, over a few connections that stay open.

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
        call_after_fork(self._forget)

    def submit(self, messages: Sequence[Outgoing]) -> Future[list[Enqueued]]:
        """Start sending; the future brings the answers."""
        return self._loop_thread().start(self._enqueue(messages))

    def send(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return self.submit(messages).result()

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return await asyncio.wrap_future(self.submit(messages))

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
        if thread is not None:
            thread.stop()

    async def _enqueue(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        waiting = self._loop_thread().waiting
        tickets = [_Ticket(each, asyncio.get_running_loop().create_future()) for each in messages]
        waiting.tickets.extend(tickets)
        while waiting.tickets and waiting.flights < CONNECTIONS:
            waiting.flights += 1
            flight = asyncio.create_task(self._fly(waiting))
            waiting.tasks.add(flight)
            flight.add_done_callback(waiting.tasks.discard)
        answers = await asyncio.gather(*(each.answer for each in tickets), return_exceptions=True)
        for each in answers:
            if isinstance(each, BaseException):
                raise each
        return [each for each in answers if isinstance(each, Enqueued)]

    async def _fly(self, waiting: _Waiting) -> None:
        """Carry what waits, as long as something does: calls that pile up share a request."""
        try:
            while waiting.tickets:
                await self._carry(waiting.take())
        finally:
            waiting.flights -= 1

    async def _carry(self, tickets: Sequence[_Ticket]) -> None:
        messages = [each.message for each in tickets]
        try:
            if len(messages) == 1:
                answers = [await self._within_budget(send(messages[0]))]
            else:
                answers = await self._within_budget(batch(messages))
        except RequestError as error:
            if len(tickets) == 1:
                tickets[0].fail(error)
                return
            for each in tickets:  # one of them is refused, and the others with it: find out which
                await self._carry([each])
        except asyncio.CancelledError:
            for each in tickets:
                each.fail(BrokerUnreachable(CLOSED))
            raise
        except Exception as error:  # a wall: every caller must hear what became of its call
            for each in tickets:
                each.fail(error)
        else:
            for each, answer in zip(tickets, answers, strict=True):
                each.settle(answer)

    async def _ask(self, call: Call[T], wait_ms: int) -> T:
        # Waiters have a client of their own: they must not take the connections of enqueues.
        patience_ms = wait_ms + LONG_POLL_MARGIN_MS if wait_ms else 0
        return await self._within_budget(call, patience_ms, waits=True)

    async def _ask_once(self, call: Call[T], wait_ms: int) -> T:
        try:
            async with asyncio.timeout((wait_ms + LONG_POLL_MARGIN_MS) / 1000):
                return await self._loop_thread().waiting_client.send(call)
        except TimeoutError as error:
            raise self._unreachable(error) from error

    async def _within_budget(self, call: Call[T], patience_ms: int = 0, *, waits: bool = False) -> T:
        """Send, and send again after a lost answer, until the budget is spent."""
        thread = self._loop_thread()
        ends_at = self._clock.monotonic() + self._budget_ms + patience_ms
        for tried in range(1000):
            left_ms = ends_at - self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.001, left_ms / 1000)):
                    return await (thread.waiting_client if waits else thread.client).send(call)
            except BrokerUnavailable as error:
                pause_ms = int(1000 * (error.retry_after or 0.5))
                if self._clock.monotonic() + pause_ms >= ends_at:
                    raise
            except (BrokerUnreachable, TimeoutError) as error:
                pause_ms = int(50 * math.exp(min(tried, 3)))
                if self._clock.monotonic() + pause_ms >= ends_at:
                    raise self._unreachable(error) from error
            await self._clock.sleep(pause_ms)
        raise AssertionError("the budget ends the loop")

    def _unreachable(self, error: Exception) -> BrokerUnreachable:
        reason = str(error) or "it did not answer in time"
        return BrokerUnreachable(
            f"no answer from the broker at {self._url} within {self._budget_ms / 1000:g} s: {reason}. "
            "Is it running, and is QTASKS_BROKER right?"
        )

    def _loop_thread(self) -> _LoopThread:
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread(self._url, self._token, self._socket)
                weakref.finalize(self, _stop, self._thread, os.getpid())
            return self._thread

    def _forget(self) -> None:
        """A forked child has neither the thread nor a right to its connections."""
        self._lock = threading.Lock()
        self._thread = None


def _stop(thread: _LoopThread, pid: int) -> None:
    """Close what a forgotten sender has left open; a forked child has no such thread to ask."""
    if os.getpid() == pid:
        thread.stop()


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A message that waits to be sent, and who waits for its answer."""

    message: Outgoing
    answer: asyncio.Future[Enqueued]

    def settle(self, answer: Enqueued) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Waiting:
    """What waits to be sent, and how many requests are under way."""

    def __init__(self) -> None:
        self.tickets: deque[_Ticket] = deque()
        self.flights = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def take(self) -> list[_Ticket]:
        """Take as much as goes into one request."""
        taken = [self.tickets.popleft()]
        size = len(taken[0].message.body)
        while self.tickets and len(taken) < BATCH_MESSAGES:
            size += len(self.tickets[0].message.body)
            if size > BATCH_BYTES:
                break
            taken.append(self.tickets.popleft())
        return taken


class _LoopThread:
    """A daemon thread that runs an event loop, and the HTTP clients that live on it."""

    def __init__(self, url: str, token: str, socket: str | None) -> None:
        self.waiting = _Waiting()
        self._loop = asyncio.new_event_loop()
        timeout = httpx.Timeout(None, connect=2.0)
        few, any_number = httpx.Limits(max_connections=CONNECTIONS), httpx.Limits()
        self.client = AsyncClient(url, token, socket=socket, limits=few, timeout=timeout)
        self.waiting_client = AsyncClient(url, token, socket=socket, limits=any_number, timeout=timeout)
        self._thread = threading.Thread(target=self._loop.run_forever, name="qtasks-sender", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _end(self) -> None:
        """Tell everybody who still waits that nothing more comes, and close the connections."""
        flights = list(self.waiting.tasks)
        for each in flights:
            each.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        while self.waiting.tickets:
            self.waiting.tickets.popleft().fail(BrokerUnreachable(CLOSED))
        for client in (self.client, self.waiting_client):
            await client.aclose()
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
