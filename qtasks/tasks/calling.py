"""Turns a call of a task into a message and sends it: bind, convert, seal, enqueue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

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
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.envelope import SIGNATURE_HEADER, Envelope, EnvelopeSigner, pack
from qtasks.tasks.options import Layers, Span
from qtasks.tasks.queues import Queue
from qtasks.tasks.results import AsyncResult, ResultSource
from qtasks.tasks.senders import Sender

if TYPE_CHECKING:
    from qtasks.tasks.task import Task

T = TypeVar("T")

JSON_TYPE = "application/json"
DECLARED = QueueSpec(parallelism=16, ordered=False)


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
        task: Task[..., T, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
    ) -> AsyncResult[T]:
        """Enqueue one call; see `Task.delay` for what it raises."""
        start_at = _start_at(countdown, eta, self._clock.now())
        if task_id is not None:
            _check_task_id(task_id)
        message = self._message(task, args, kwargs, start_at, task_id)
        return self._deliver(task, message)

    async def asend(
        self, task: Task[..., T, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> AsyncResult[T]:
        """Do what `send` does without blocking the event loop."""
        message = self._message(task, args, kwargs, None, None)
        try:
            await self._sender.asend([message])
        except BrokerUnreachable as error:
            raise self._with_repeat(error, task, message) from error.__cause__
        return self._handle(task, message)

    def _deliver(self, task: Task[..., T, Any], message: Outgoing) -> AsyncResult[T]:
        try:
            self._sender.send([message])
        except BrokerUnreachable as error:
            raise self._with_repeat(error, task, message) from error.__cause__
        return self._handle(task, message)

    def _with_repeat(
        self, error: BrokerUnreachable, task: Task[..., Any, Any], message: Outgoing
    ) -> BrokerUnreachable:
        return BrokerUnreachable(
            str(error), task_id=message.options.task_id, repeat=lambda: self._deliver(task, message)
        )

    def _handle(self, task: Task[..., T, Any], message: Outgoing) -> AsyncResult[T]:
        assert message.options.task_id is not None
        return self.result_of(task, message.options.task_id)

    def result_of(self, task: Task[..., T, Any], task_id: str) -> AsyncResult[T]:
        """Give the handle for a task id."""
        decode = task.signature.decode_result
        return AsyncResult(task_id, source=self._results, decode=decode, clock=self._clock)

    def _message(
        self,
        task: Task[..., Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        start_at: int | None,
        task_id: str | None,
    ) -> Outgoing:
        now = self._clock.now()
        options = task.options_in(self._layers)
        id_ = task_id or self._ids.task_id(now)
        encoded_args, encoded_kwargs = task.signature.encode(args, kwargs)
        envelope = Envelope(
            task=task.name,
            id=id_,
            args=encoded_args,
            kwargs=encoded_kwargs,
            destination=self._destination,
            enqueued_at=now,
            timeout_ms=options.timeout_ms,
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
