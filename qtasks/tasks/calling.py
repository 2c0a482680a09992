"""Turns a call of a task into a message and sends it: bind, convert, seal, enqueue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from qtasks.clock import Clock
from qtasks.errors import (
    ArgumentsError,
    BrokerUnreachable,
    ConfigurationError,
    InvalidValue,
)
from qtasks.ids import Ids
from qtasks.protocol.durations import span_ms
from qtasks.protocol.header_values import read_task_id
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.codec import Signature, compile_signature
from qtasks.tasks.envelope import SIGNATURE_HEADER, Envelope, EnvelopeSigner, pack
from qtasks.tasks.many import Batches, Collection, TaskCall, collect
from qtasks.tasks.options import Layers, Span, TaskOptions
from qtasks.tasks.queues import Queue
from qtasks.tasks.results import AsyncResult, ResultSource
from qtasks.tasks.senders import Sender

JSON_TYPE = "application/json"
DECLARED = QueueSpec(parallelism=16, ordered=False)


class Target(Protocol):
    """What is called: a task of ours, or one that is only known by name."""

    name: str
    signature: Signature

    def options_in(self, layers: Layers) -> TaskOptions:
        """Give what holds in an app."""
        ...


class Elsewhere:
    """A task that is defined elsewhere: any call fits, and its values are plain JSON."""

    def __init__(self, name: object, known: Target | None) -> None:
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise ArgumentsError(f"send({name!r}): a task is named by a text, such as 'shop.mail.welcome'")
        self.name = name
        self.signature = replace(_ANYTHING, name=name)
        self._known = known

    def options_in(self, layers: Layers) -> TaskOptions:
        """Give the options of the task, if it is defined here after all, else those of its app."""
        return layers.options({}) if self._known is None else self._known.options_in(layers)


def _anything(*args, **kwargs):  # type: ignore[no-untyped-def]  # without annotations: plain JSON
    """Take any call."""


_ANYTHING = compile_signature(_anything, name="send")


class Caller:
    """Sends the calls of one app's tasks. `destination` is the address of the app's webhook."""

    def __init__(
        self,
        sender: Sender,
        results: ResultSource,
        *,
        signer: Callable[[], EnvelopeSigner],
        destination: str,
        queues: Mapping[str, Queue],
        layers: Layers,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._sender = sender
        self._results = results
        self._signer = signer
        self._destination = destination
        self._queues = {name: queue.spec for name, queue in queues.items()}
        self._layers = layers
        self._clock = clock
        self._ids = ids

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
        start_at = _start_at(countdown, eta, self._clock.now())
        if task_id is not None:
            _check_task_id(task_id)
        message = self._message(target, *target.signature.encode(args, kwargs), start_at, task_id)
        return self._deliver(target, message)

    async def asend(
        self, target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Do what `send` does without blocking the event loop."""
        message = self._message(target, *target.signature.encode(args, kwargs))
        if not collect(self._sender, [message]):
            try:
                await self._sender.asend([message])
            except BrokerUnreachable as error:
                raise self._with_repeat(error, target, message) from error.__cause__
        return self._handle(target, message)

    def batches(self, target: Target, calls: Iterable[TaskCall[..., Any]]) -> Batches[Any]:
        """Make ready to enqueue many calls of one task; those in a `collect` block wait for its end."""

        def prepare(call: object) -> Outgoing:
            if not isinstance(call, TaskCall) or call.task != target.name:
                raise ArgumentsError(
                    f"{target.name}.delay_many takes calls of its own task, not {call!r}; "
                    "make them with its .call(...)"
                )
            return self._message(target, call.args, call.kwargs)

        return Batches(calls, _Gathering(self._sender), prepare=prepare, result=partial(self._handle, target))

    def collection(self) -> Collection:
        """Make a block that gathers the calls of this app."""
        return Collection(self._sender)

    def _deliver(self, target: Target, message: Outgoing) -> AsyncResult[Any]:
        if not collect(self._sender, [message]):
            try:
                self._sender.send([message])
            except BrokerUnreachable as error:
                raise self._with_repeat(error, target, message) from error.__cause__
        return self._handle(target, message)

    def _with_repeat(self, error: BrokerUnreachable, target: Target, message: Outgoing) -> BrokerUnreachable:
        return BrokerUnreachable(
            str(error), task_id=message.options.task_id, repeat=lambda: self._deliver(target, message)
        )

    def _handle(self, target: Target, message: Outgoing) -> AsyncResult[Any]:
        assert message.options.task_id is not None
        decode = target.signature.decode_result
        return AsyncResult(message.options.task_id, source=self._results, decode=decode, clock=self._clock)

    def _message(
        self, target: Target, args: Any, kwargs: Any, start_at: int | None = None, task_id: str | None = None
    ) -> Outgoing:
        now = self._clock.now()
        options = target.options_in(self._layers)
        id_ = task_id or self._ids.task_id(now)
        envelope = Envelope(
            task=target.name,
            id=id_,
            args=args,
            kwargs=kwargs,
            destination=self._destination,
            enqueued_at=now,
            timeout_ms=options.timeout_ms,
            queue=options.queue,
            start_at=start_at,
        )
        body = pack(envelope)
        return Outgoing(
            destination=self._destination,
            body=body,
            options=Options(
                content_type=JSON_TYPE,
                forward=((SIGNATURE_HEADER, self._signer().sign(body)),),
                timeout_ms=options.timeout_ms,
                retries=options.retries,
                retry_delay=options.retry_delay,
                dedup_id=id_,
                task_id=id_,
                start_at=start_at,
                labels=options.labels,
                result_ttl_ms=options.result_ttl_ms,
                queue=self._queues.get(options.queue, DECLARED),
            ),
            queue=options.queue,
        )


class _Gathering:
    """A sender that leaves messages to an open `collect` block, if there is one."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def send(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return [] if collect(self._sender, messages) else self._sender.send(messages)

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return [] if collect(self._sender, messages) else await self._sender.asend(messages)


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
