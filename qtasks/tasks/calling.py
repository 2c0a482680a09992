"""Sends the calls of an app: binds and converts their arguments, has them packed, and enqueues them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from qtasks.clock import Clock
from qtasks.errors import ArgumentsError, BrokerUnreachable, ConfigurationError, InvalidValue
from qtasks.protocol.durations import span_ms
from qtasks.protocol.header_values import read_task_id
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.codec import compile_signature
from qtasks.tasks.envelope import Envelope
from qtasks.tasks.keys import Span
from qtasks.tasks.many import Batches, Collection, Sent, TaskCall, collect, find_block, land
from qtasks.tasks.options import Layers, TaskOptions
from qtasks.tasks.packing import Packer, Target
from qtasks.tasks.patience import PatientSource
from qtasks.tasks.periodic import Periodic
from qtasks.tasks.results import AsyncResult, ResultSource
from qtasks.tasks.senders import Sender
from qtasks.tasks.tracing import NoteAnswers, Tracing, Untraced, note_nothing
from qtasks.tasks.transactions import Outlet, Sending, Transaction


class Elsewhere:
    """A task that is defined elsewhere: any call fits, and its values are plain JSON."""

    def __init__(self, name: object, known: Target | None) -> None:
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise ArgumentsError(f"send({name!r}): a task is named by a text, such as 'shop.mail.welcome'")
        self.name = name
        self.signature = replace(_ANYTHING, name=name)
        self.version = 1 if known is None else known.version
        self._known = known

    def options_in(self, layers: Layers) -> TaskOptions:
        """Give the options of the task, if it is defined here after all, else those of its app."""
        return layers.options({}) if self._known is None else self._known.options_in(layers)


def _anything(*args, **kwargs):  # type: ignore[no-untyped-def]  # without annotations: plain JSON
    """Take any call."""


_ANYTHING = compile_signature(_anything, name="send")


class Caller:
    """Sends the calls of one app's tasks."""

    def __init__(
        self,
        sender: Sender,
        results: ResultSource,
        packer: Packer,
        clock: Clock,
        tracing: Tracing | None = None,
        outlet: Outlet | None = None,
        *,
        is_prompt: bool = False,
    ) -> None:
        self.is_prompt = is_prompt
        """Whether buffered calls are sent at once, as where a test looks for them."""
        self._tracing = tracing or Untraced()
        self._sender = Sending(sender, outlet)
        self._results = results
        self._patient = PatientSource(results, clock)
        self._packer = packer
        self._clock = clock

    def send(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
    ) -> AsyncResult[Any]:
        """Enqueue one call; see `Task.delay` for what it raises."""
        with self._tracing.enqueuing(target.name, self._packer.queue_of(target)) as note:
            return self._deliver(self._sent(target, args, kwargs, countdown, eta, task_id), note)

    async def asend(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
    ) -> AsyncResult[Any]:
        """Do what `send` does without blocking the event loop."""
        with self._tracing.enqueuing(target.name, self._packer.queue_of(target)) as note:
            sent = self._sent(target, args, kwargs, countdown, eta, task_id)
            if not collect(self._sender, [sent]):
                try:
                    land([sent], await self._sender.asend([sent.message]), note)
                except BrokerUnreachable as error:
                    raise self._with_repeat(error, sent) from error.__cause__
            return sent.result

    def send_in(
        self, connection: Any, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Leave one call in the transaction of a connection; see `Task.delay_in` for what it raises."""
        with self._tracing.enqueuing(target.name, self._packer.queue_of(target)) as note:
            sent = self._sent(target, args, kwargs, is_left=True)
            land([sent], self._sender.leave(connection, [sent.message]), note)
            return sent.result

    async def asend_in(
        self, connection: Any, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Do what `send_in` does, on an async connection too."""
        with self._tracing.enqueuing(target.name, self._packer.queue_of(target)) as note:
            sent = self._sent(target, args, kwargs, is_left=True)
            land([sent], await self._sender.aleave(connection, [sent.message]), note)
            return sent.result

    def ready(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
    ) -> Sent:
        """Make one call for a buffer to send with others; raises what `send` raises before it sends."""
        if find_block(self._sender, Transaction):
            raise RuntimeError(
                "a buffered call goes out whatever becomes of a transaction; "
                "in a transaction() block use delay()"
            )
        with self._tracing.enqueuing(target.name, self._packer.queue_of(target)):
            return self._sent(target, args, kwargs, countdown, eta, task_id)

    def send_ready(self, calls: Sequence[Sent]) -> None:
        """Enqueue what `ready` has made; raises what a sender raises."""
        with self._tracing.enqueuing_many(None, None) as note:
            land(calls, self._sender.send([each.message for each in calls]), note)

    def with_repeat(self, error: Exception, sent: Sent) -> Exception:
        """Give the error of one call; if nobody knows whether it arrived, its `repeat()` sends it again."""
        return self._with_repeat(error, sent) if isinstance(error, BrokerUnreachable) else error

    def transaction(self, connection: Any) -> Transaction:
        """Make a block whose calls are left in the transaction of a connection."""
        return Transaction(self._sender, connection)

    def batches(self, target: Target, calls: Iterable[TaskCall[..., Any]]) -> Batches[Any]:
        """Make ready to enqueue many calls of one task; those in a `collect` block wait for its end."""

        def prepare(call: object) -> Sent:
            if not isinstance(call, TaskCall) or call.task != target.name:
                raise ArgumentsError(
                    f"{target.name}.delay_many takes calls of its own task, not {call!r}; "
                    "make them with its .call(...)"
                )
            return self._with_result(target, self._packer.message(target, call.args, call.kwargs))

        span = partial(self._tracing.enqueuing_many, target.name, self._packer.queue_of(target))
        return Batches(calls, self._sender, prepare, span)

    async def go_on(
        self,
        envelope: Envelope,
        target: Target,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        after_ms: int,
        spent: int,
    ) -> str:
        """Enqueue a running call anew, with these arguments; gives the id of the message.

        Raises what `asend` raises.
        """
        encoded = target.signature.encode(args, kwargs)
        message = self._packer.anew(envelope, target, *encoded, spent=spent, after_ms=after_ms)
        answers = await self._sender.asend([message])
        return answers[0].message_id

    def again(
        self, envelope: Envelope, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Outgoing:
        """Make the message that runs a call once more, with these arguments and all of its retries.

        Raises `ArgumentsError` or `EncodeError`.
        """
        encoded = target.signature.encode(args, kwargs)
        call = replace(envelope, start_at=None)
        return self._packer.anew(call, target, *encoded, spent=0, after_ms=0)

    def collection(self) -> Collection:
        """Make a block that gathers the calls of this app."""
        return Collection(self._sender, partial(self._tracing.enqueuing_many, None, None))

    def scheduled(self, target: Target, periodic: Periodic, schedule_id: str) -> Outgoing:
        """Make the message that stands for all calls of a schedule; raises what `Packer.scheduled` does."""
        return self._packer.scheduled(target, periodic, schedule_id)

    def _sent(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        *,
        is_left: bool = False,
    ) -> Sent:
        start_at = None
        if countdown is not None or eta is not None:
            start_at = _start_at(countdown, eta, self._clock.now())
        if task_id is not None:
            _check_task_id(task_id)
        encoded = target.signature.encode(args, kwargs)
        message = self._packer.message(target, *encoded, start_at, task_id)
        return self._with_result(target, message, is_left=is_left)

    def _with_result(self, target: Target, message: Outgoing, *, is_left: bool = False) -> Sent:
        assert message.options.task_id is not None
        decode = target.signature.decode_result
        source = self._patient if is_left or find_block(self._sender, Transaction) else self._results
        result: AsyncResult[Any] = AsyncResult(
            message.options.task_id, source=source, decode=decode, clock=self._clock
        )
        return Sent(message, result, target.name)

    def _deliver(self, sent: Sent, note: NoteAnswers = note_nothing) -> AsyncResult[Any]:
        if not collect(self._sender, [sent]):
            try:
                land([sent], self._sender.send([sent.message]), note)
            except BrokerUnreachable as error:
                raise self._with_repeat(error, sent) from error.__cause__
        return sent.result

    def _with_repeat(self, error: BrokerUnreachable, sent: Sent) -> BrokerUnreachable:
        return BrokerUnreachable(
            str(error), task_id=sent.result.id, repeat=lambda: self._deliver(sent.again())
        )


def _check_task_id(task_id: str) -> None:
    try:
        read_task_id(task_id)
    except InvalidValue as error:
        raise ArgumentsError(f"task_id: {error}") from error


def _start_at(countdown: Span | None, eta: datetime | None, now: int) -> int | None:
    """Give the instant before which a call must not run."""
    if countdown is not None and eta is not None:
        raise ArgumentsError("give either countdown or eta, not both")
    if countdown is not None:
        try:
            return now + span_ms(countdown)
        except (InvalidValue, TypeError) as error:
            raise ArgumentsError(f"countdown={countdown!r}: {error}") from error
    if eta is None:
        return None
    if eta.tzinfo is None:
        raise ArgumentsError(
            f"eta={eta.isoformat()} has no time zone, so it names no instant; "
            "use an aware datetime such as datetime.now(UTC) + timedelta(minutes=5)"
        )
    return round(eta.timestamp() * 1000)


FindApp = Callable[[], Callable[[], Caller] | None]


class Callers:
    """The apps of this process, for tasks that were decorated without one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: list[FindApp] = []

    def add(self, find: FindApp) -> None:
        """Make an app known, by a reference that gives None once the app is gone."""
        with self._lock:
            self._callers.append(find)

    def only(self) -> Caller:
        """Give the only app of the process; raises `ConfigurationError` if there is none, or several."""
        with self._lock:
            self._callers = [each for each in self._callers if each() is not None]
            callers = [get for each in self._callers if (get := each()) is not None]
        if len(callers) == 1:
            return callers[0]()
        problem = "there is none" if not callers else f"there are {len(callers)}"
        raise ConfigurationError(
            f"a task of the module-level @task belongs to the process's only QTasks, but {problem}; "
            "make one QTasks(), or decorate with @tasks.task"
        )
