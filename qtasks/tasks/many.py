"""Many calls at once: what `delay_many` sends in batches, and what a `collect` block gathers.

How one call becomes a message is in `calling.py`; here is only when messages go, and which together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import orjson

from qtasks.errors import BrokerUnreachable
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.senders import Sender

if TYPE_CHECKING:
    from qtasks.tasks.results import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Exception)

BATCH = 500  # few enough that other callers need not wait long, enough that the commit costs little


@dataclass(frozen=True, slots=True)
class TaskCall(Generic[P, T]):
    """The arguments of one call of a task, checked and converted; made by `Task.call`.

    They are fixed when it is made: what is done to a list or dict later does not change them.
    """

    task: str
    args: orjson.Fragment
    kwargs: orjson.Fragment


class Batches(Generic[T]):
    """Calls on their way, batch by batch; what was given up for want of an answer can be taken up again.

    `prepare` makes the message of a call, and `result` what its caller holds.
    """

    def __init__(
        self,
        calls: Iterable[TaskCall[..., T]],
        sender: Sender,
        *,
        prepare: Callable[[TaskCall[..., T]], Outgoing],
        result: Callable[[Outgoing], AsyncResult[T]],
    ) -> None:
        self._calls: Iterator[TaskCall[..., T]] = iter(calls)
        self._sender = sender
        self._prepare = prepare
        self._result = result
        self._batch: list[Outgoing] = []
        self._results: list[AsyncResult[T]] = []

    def send(self) -> list[AsyncResult[T]]:
        """Send what is left, and give the handles of all calls, in order."""
        try:
            while self._fill():
                self._sender.send(self._batch)
                self._land()
        except BrokerUnreachable as error:
            raise self._noted(BrokerUnreachable(str(error), repeat=self.send)) from error.__cause__
        except Exception as error:
            self._noted(error)
            raise
        return self._results

    async def asend(self) -> list[AsyncResult[T]]:
        """Do what `send` does without blocking the event loop."""
        try:
            while self._fill():
                await self._sender.asend(self._batch)
                self._land()
        except BrokerUnreachable as error:
            raise self._noted(BrokerUnreachable(str(error), repeat=self.send)) from error.__cause__
        except Exception as error:
            self._noted(error)
            raise
        return self._results

    def _fill(self) -> bool:
        """Take the next batch, unless one is left of which nobody knows whether it arrived."""
        self._batch = self._batch or [self._prepare(each) for each in islice(self._calls, BATCH)]
        return bool(self._batch)

    def _land(self) -> None:
        self._results += map(self._result, self._batch)
        self._batch = []

    def _noted(self, error: E) -> E:
        """Say with an error how far the calls have come."""
        error.add_note(f"{len(self._results)} calls had been enqueued before")
        return error


_OPEN: ContextVar[Collection | None] = ContextVar("qtasks_collection", default=None)


class Collection:
    """A block whose calls are sent together at its end, or not at all if it raises.

    `with` sends as `delay` does, `async with` as `adelay` does. Tasks and threads that the block starts
    with its context belong to it for as long as it is open.
    """

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.outer: Collection | None = None
        self._lock = threading.Lock()
        self._messages: list[Outgoing] | None = None

    def __enter__(self) -> None:
        if self._messages is not None:
            raise RuntimeError("this block is open already; call collect() again for another one")
        self._messages = []
        self.outer = _OPEN.get()
        _OPEN.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        messages = self._close(error)
        if messages and not collect(self.sender, messages):
            _send(self.sender, messages)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        messages = self._close(error)
        if not messages or collect(self.sender, messages):
            return
        try:
            await self.sender.asend(messages)
        except BrokerUnreachable as lost:
            raise _repeatable(lost, self.sender, messages) from lost.__cause__

    def add(self, messages: Sequence[Outgoing]) -> bool:
        """Take messages in; False once the block is over."""
        with self._lock:
            if self._messages is not None:
                self._messages += messages
            return self._messages is not None

    def _close(self, error: BaseException | None) -> list[Outgoing]:
        if _OPEN.get() is self:  # not so where a framework enters and leaves on different threads
            _OPEN.set(self.outer)
        with self._lock:
            messages, self._messages = self._messages or [], None
        return messages if error is None else []


def collect(sender: Sender, messages: Sequence[Outgoing]) -> bool:
    """Leave messages to the innermost open block of this sender; False if there is none."""
    found = _OPEN.get()
    while found is not None:
        if found.sender is sender and found.add(messages):
            return True
        found = found.outer
    return False


def _send(sender: Sender, messages: Sequence[Outgoing]) -> list[Enqueued]:
    try:
        return sender.send(messages)
    except BrokerUnreachable as error:
        raise _repeatable(error, sender, messages) from error.__cause__


def _repeatable(error: BrokerUnreachable, sender: Sender, messages: Sequence[Outgoing]) -> BrokerUnreachable:
    return BrokerUnreachable(str(error), repeat=lambda: _send(sender, messages))
