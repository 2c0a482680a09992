"""Many calls at once: what `delay_many` sends in batches, and what a `collect` block gathers.

How one call becomes a message is in `calling.py`; here is only when messages go, and which together.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from qtasks.errors import BrokerUnreachable
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.senders import Sender
from qtasks.tasks.tracing import NoteAnswers, note_nothing
from qtasks.tasks.watching import log, tell_enqueued
from qtasks.values import dataclass

if TYPE_CHECKING:
    from qtasks.tasks.results import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Exception)

MakeSpan = Callable[[], AbstractContextManager[NoteAnswers]]
"""Gives what calls are sent within; it is told of each answer."""

BATCH = 500  # few enough that other callers need not wait long, enough that the commit costs little


@dataclass(frozen=True, slots=True)
class TaskCall(Generic[P, T]):
    """The arguments of one call of a task, checked and converted; made by `Task.call`.

    They are fixed when it is made: what is done to a list or dict later does not change them.
    """

    task: str
    args: bytes
    kwargs: bytes
    """JSON both, written already."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A call on its way to the broker, and what its caller holds."""

    message: Outgoing
    result: AsyncResult[Any]
    task: str

    def again(self) -> Sent:
        """Give it as it is sent once more."""
        return replace(self, message=self.message.repeated())


def land(calls: Sequence[Sent], answers: Sequence[Enqueued], note: NoteAnswers = note_nothing) -> None:
    """Learn from the broker which calls were on their way already: their handles are those of the first."""
    is_told = log.isEnabledFor(logging.DEBUG)
    for sent, answer in zip(calls, answers, strict=True):
        if answer.task_id is not None:
            sent.result.id = answer.task_id
        if is_told:
            tell_enqueued(sent.task, sent.result.id, sent.message.queue, answer)
    note(answers)


class Batches(Generic[T]):
    """Calls on their way, batch by batch; what was given up for want of an answer can be taken up again.

    `prepare` makes a call ready to be sent.
    """

    def __init__(
        self,
        calls: Iterable[TaskCall[..., T]],
        sender: Sender,
        prepare: Callable[[TaskCall[..., T]], Sent],
        span: MakeSpan,
    ) -> None:
        self._calls: Iterator[TaskCall[..., T]] = iter(calls)
        self._sender = sender
        self._prepare = prepare
        self._span = span
        self._batch: list[Sent] = []
        self._ahead: list[Sent] = []
        self._problem: Exception | None = None
        """What kept the batch ahead from being made, to be raised once the one before it has landed."""
        self._results: list[AsyncResult[T]] = []

    def send(self) -> list[AsyncResult[T]]:
        """Send what is left, and give the handles of all calls, in order."""
        try:
            with self._span() as note:
                while self._fill():
                    if not collect(self._sender, self._batch):
                        answers = self._sender.send(_messages(self._batch), self._look_ahead)
                        land(self._batch, answers, note)
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
            with self._span() as note:
                while self._fill():
                    if not collect(self._sender, self._batch):
                        land(self._batch, await self._sender.asend(_messages(self._batch)), note)
                    self._land()
        except BrokerUnreachable as error:
            raise self._noted(BrokerUnreachable(str(error), repeat=self.send)) from error.__cause__
        except Exception as error:
            self._noted(error)
            raise
        return self._results

    def _fill(self) -> bool:
        """Take the next batch, unless one is left of which nobody knows whether it arrived."""
        self._batch = [each.again() for each in self._batch]
        if not self._batch:
            self._look_ahead()
            if self._problem is not None:
                problem, self._problem = self._problem, None
                raise problem
            self._batch, self._ahead = self._ahead, []
        return bool(self._batch)

    def _look_ahead(self) -> None:
        """Make the next batch ready, unless it is: while the one before it is on its way, if that can be."""
        if self._ahead or self._problem is not None:
            return
        try:
            self._ahead = [self._prepare(each) for each in islice(self._calls, BATCH)]
        except Exception as error:
            self._problem = error

    def _land(self) -> None:
        self._results += [each.result for each in self._batch]
        self._batch = []

    def _noted(self, error: E) -> E:
        """Say with an error how far the calls have come."""
        error.add_note(f"{len(self._results)} calls had been enqueued before")
        return error


class Block:
    """A block that changes what becomes of the calls within it.

    Tasks and threads that it starts with its context belong to it for as long as it is open.
    """

    maker = "collect"

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.outer: Block | None = None
        self.is_open = False

    def open(self) -> None:
        """Enter it; a block is entered once at a time."""
        if self.is_open:
            raise RuntimeError(f"this block is open already; call {self.maker}() again for another one")
        self.is_open = True
        self.outer = _OPEN.get()
        _OPEN.set(self)

    def close(self) -> None:
        """Leave it."""
        self.is_open = False
        if _OPEN.get() is self:  # not so where a framework enters and leaves on different threads
            _OPEN.set(self.outer)


_OPEN: ContextVar[Block | None] = ContextVar("qtasks_block", default=None)

B = TypeVar("B", bound=Block)


def find_block(sender: Sender, kind: type[B]) -> B | None:
    """Give the innermost open block of a kind around a call of this sender."""
    found = _OPEN.get()
    while found is not None:
        if isinstance(found, kind) and found.sender is sender and found.is_open:
            return found
        found = found.outer
    return None


class Collection(Block):
    """A block whose calls are sent together at its end, or not at all if it raises.

    `with` sends as `delay` does, `async with` as `adelay` does.
    """

    def __init__(self, sender: Sender, span: MakeSpan) -> None:
        super().__init__(sender)
        self._span = span
        self._lock = threading.Lock()
        self._calls: list[Sent] = []

    def __enter__(self) -> None:
        self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        calls = self._close(error)
        if calls and not collect(self.sender, calls):
            with self._span() as note:
                _send(self.sender, calls, note)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        calls = self._close(error)
        if not calls or collect(self.sender, calls):
            return
        with self._span() as note:
            try:
                land(calls, await self.sender.asend(_messages(calls)), note)
            except BrokerUnreachable as lost:
                raise _repeatable(lost, self.sender, calls) from lost.__cause__

    def add(self, calls: Sequence[Sent]) -> bool:
        """Take calls in; False once the block is over."""
        with self._lock:
            if self.is_open:
                self._calls += calls
            return self.is_open

    def _close(self, error: BaseException | None) -> list[Sent]:
        with self._lock:
            self.close()
            calls, self._calls = self._calls, []
        return calls if error is None else []


def collect(sender: Sender, calls: Sequence[Sent]) -> bool:
    """Leave calls to the innermost open block of this sender, if it gathers them; else False."""
    found = find_block(sender, Block)
    while isinstance(found, Collection) and not found.add(calls):  # it was closed by another thread
        found = find_block(sender, Block)
    return isinstance(found, Collection)


def _messages(calls: Sequence[Sent]) -> list[Outgoing]:
    return [each.message for each in calls]


def _send(sender: Sender, calls: Sequence[Sent], note: NoteAnswers = note_nothing) -> list[Enqueued]:
    try:
        answers = sender.send(_messages(calls))
    except BrokerUnreachable as error:
        raise _repeatable(error, sender, calls) from error.__cause__
    land(calls, answers, note)
    return answers


def _repeatable(error: BrokerUnreachable, sender: Sender, calls: Sequence[Sent]) -> BrokerUnreachable:
    return BrokerUnreachable(str(error), repeat=lambda: _send(sender, [each.again() for each in calls]))
