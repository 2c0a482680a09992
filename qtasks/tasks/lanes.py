"""Carries messages to a broker over a few connections: whoever finds one free takes what waits along.

So a lone call is sent by its own thread, and calls that pile up share requests. Which broker, and how long
to try, is the business of `senders.py`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from qtasks.client.call import Call
from qtasks.client.calls import batch, send
from qtasks.client.kept import Meanwhile, nothing
from qtasks.errors import OF_THE_SENDER, BrokerUnreachable, RequestError
from qtasks.protocol.shapes import Enqueued, Outgoing

LANES = 4
BATCH_MESSAGES = 250  # what a request and its commit cost is little then, beside what a message costs
BATCH_BYTES = 1024 * 1024
CLOSED = "the connections to the broker were closed before it answered"


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


def in_turn(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Give what may be sent at once: all, or no more than a request where a queue is ordered."""
    return batches(messages) if has_order(messages) else iter((messages,) if messages else ())


def has_order(messages: Sequence[Outgoing]) -> bool:
    """Say whether messages are to arrive in their order, as far as their sender knows their queues."""
    return len(messages) > 1 and any(
        each.options.queue is not None and each.options.queue.ordered for each in messages
    )


class Lane(Protocol):
    """A connection, for one thread at a time."""

    def enqueue(self, call: Call[list[Enqueued]], meanwhile: Meanwhile) -> list[Enqueued]:
        """Carry out an operation, again and again as long as that is worth it.

        `meanwhile` is called whenever it is on its way, and may take its time.
        """
        ...

    def close(self) -> None:
        """Close it, from any thread: who waits for an answer gets none."""
        ...


class Load:
    """Messages that were given together, of which there is one at least, and the future of their answers."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.future: Future[list[Enqueued]] = Future()
        self.future.set_running_or_notify_cancel()
        self.messages = messages
        self.has_order = has_order(messages)
        self._answers: list[Enqueued | None] = [None] * len(messages)
        self._left = len(messages)
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def settle(self, place: int, answer: Enqueued | None, error: BaseException | None = None) -> None:
        """Take note of what became of one message; the last tells who waits."""
        with self._lock:
            self._answers[place] = answer
            self._error = self._error or error
            self._left -= 1
            is_over = not self._left
        if not is_over:
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result([each for each in self._answers if each is not None])


Ticket = tuple[Load, int]
"""One message of a load, by its place."""


class Lanes:
    """The connections of one sender. `open_lane` makes a lane, which connects when it is needed."""

    def __init__(self, open_lane: Callable[[], Lane]) -> None:
        self._open_lane = open_lane
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._free: list[Lane] = []
        self._busy: set[Lane] = set()
        self._lingering = 0
        self._is_closed = False

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        """Enqueue, on this thread if a lane is free. Takes what `in_turn` gives.

        `meanwhile` is called while nobody but this caller waits for what is on its way.
        """
        lane = self._find_for_one() if len(messages) == 1 and meanwhile is nothing else None
        if lane is not None:
            return self._carry_one(lane, messages[0])
        load = Load(messages)
        lane = self._enter(load)
        if lane is not None:
            self._spread()
            try:
                while not load.future.done() and (tickets := self._take()):
                    self._carry(lane, tickets, self._in_time(load, tickets, meanwhile))
            finally:
                self._leave(lane)
        return load.future.result()

    def submit(self, messages: Sequence[Outgoing]) -> Future[list[Enqueued]]:
        """Start sending on another thread; the future brings the answers."""
        load = Load(messages)
        lane = self._enter(load)
        if lane is not None:
            self._leave(lane)
            self._spread()
        return load.future

    def close(self) -> None:
        """Close all connections and tell everybody who waits that nothing more comes."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, deque()
            lanes = [*self._free, *self._busy]
        for load, place in waiting:
            load.settle(place, None, BrokerUnreachable(CLOSED))
        for each in lanes:
            each.close()

    def _enter(self, load: Load) -> Lane | None:
        """Have a load wait, and take a lane if there is one."""
        with self._lock:
            if self._is_closed:
                raise BrokerUnreachable(CLOSED)
            self._waiting.extend((load, place) for place in range(len(load.messages)))
            return self._find_lane()

    def _find_for_one(self) -> Lane | None:
        """Take a lane for a single message, unless it has to wait, or others do."""
        with self._lock:
            return None if self._is_closed or self._waiting else self._find_lane()

    def _carry_one(self, lane: Lane, message: Outgoing) -> list[Enqueued]:
        """Do for a message that nothing shares its request with what `_carry` does, at less cost."""
        try:
            return lane.enqueue(_one(message), nothing)
        except RequestError:
            raise
        except Exception as error:
            if self._is_closed:
                raise BrokerUnreachable(CLOSED) from error
            raise
        finally:
            self._leave(lane)

    def _find_lane(self) -> Lane | None:
        if not self._free and len(self._busy) == LANES:
            return None
        lane = self._free.pop() if self._free else self._open_lane()
        self._busy.add(lane)
        return lane

    def _spread(self) -> None:
        """Have other lanes take what is too much for one request."""
        while True:
            with self._lock:
                if len(self._waiting) <= BATCH_MESSAGES:
                    return
                lane = self._find_lane()
            if lane is None:
                return
            self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        """Give a lane back, or to a thread of its own if something waits."""
        with self._lock:
            if not self._waiting:
                self._busy.discard(lane)
                self._free.append(lane)
                return
        thread = threading.Thread(target=self._go_on, args=(lane,), name="qtasks-sender", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process is about to end, and has no more threads to give
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        while True:
            while tickets := self._take():
                self._carry(lane, tickets)
            with self._lock:
                if not self._waiting:
                    self._busy.discard(lane)
                    self._free.append(lane)
                    return

    def _take(self) -> list[Ticket]:
        """Take as much as goes into one request."""
        with self._lock:
            waiting, taken, size = self._waiting, list[Ticket](), 0
            while waiting and len(taken) < BATCH_MESSAGES:
                load, place = waiting[0]
                if load.has_order:  # all of it in a request of its own, so that no lane overtakes another
                    return taken or [waiting.popleft() for _ in load.messages]
                size += len(load.messages[place].body)
                if taken and size > BATCH_BYTES:
                    break
                taken.append(waiting.popleft())
            return taken

    def _in_time(self, load: Load, tickets: Sequence[Ticket], meanwhile: Meanwhile) -> Meanwhile:
        """Give what may be done while these are on their way: nothing, if calls of others are among them."""
        is_own = meanwhile is not nothing and all(each is load for each, _ in tickets)
        return partial(self._linger, meanwhile) if is_own else nothing

    def _linger(self, meanwhile: Meanwhile) -> None:
        """Do something else while a lane waits; of all lanes one never does.

        What is done may call for a lane itself, and wait for it.
        """
        with self._lock:
            if self._lingering == LANES - 1:
                return
            self._lingering += 1
        try:
            meanwhile()
        finally:
            with self._lock:
                self._lingering -= 1

    def _carry(self, lane: Lane, tickets: Sequence[Ticket], meanwhile: Meanwhile = nothing) -> None:
        messages = [load.messages[place] for load, place in tickets]
        try:
            call = batch(messages) if len(messages) > 1 else _one(messages[0])
            answers = lane.enqueue(call, meanwhile)
        except RequestError as error:
            if len(tickets) > 1 and not isinstance(error, OF_THE_SENDER):
                # one of them is refused, and the others with it: find out which
                middle = len(tickets) // 2
                self._carry(lane, tickets[:middle])
                self._carry(lane, tickets[middle:])
            else:
                _fail(tickets, error)
        except Exception as error:  # a wall: every caller must hear what became of its call
            _fail(tickets, BrokerUnreachable(CLOSED) if self._is_closed else error)
        except BaseException:  # this thread was interrupted, and the calls of others with it
            _fail(tickets, BrokerUnreachable(CLOSED))
            raise
        else:
            for (load, place), answer in zip(tickets, answers, strict=True):
                load.settle(place, answer)


def _one(message: Outgoing) -> Call[list[Enqueued]]:
    call = send(message)
    return Call(call.method, call.target, lambda body: [call.read(body)], call.headers, call.body)


def _fail(tickets: Sequence[Ticket], error: BaseException) -> None:
    for load, place in tickets:
        load.settle(place, None, error)
