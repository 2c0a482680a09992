"""What a test sees of the calls that were enqueued: their arguments as the function gets them.

They are read from the messages that the broker holds, and from nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from qtasks.errors import ArgumentsError, DecodeError, KitError
from qtasks.protocol.results import ResultView
from qtasks.tasks.envelope import Envelope
from qtasks.tasks.task import Task

AnyTask = Task[..., Any, Any]
Find = Callable[[str], AnyTask | None]


@dataclass(frozen=True, slots=True)
class EnqueuedCall:
    """One call of a task, as it was when the test asked. Instants are aware, in UTC."""

    task: str
    """The task's name."""
    task_id: str
    message_id: str
    arguments: Mapping[str, Any]
    """By the names of the function's parameters, defaults filled in."""
    queue: str | None
    labels: tuple[str, ...]
    retries: int
    """How many may follow the first attempt."""
    enqueued_at: datetime
    scheduled_at: datetime | None
    """The instant of `countdown` or `eta`, or the fire; None for a call that was to run at once."""
    schedule: str | None
    """The name of the task's schedule that has made it, or its number as text; None for a call by code."""
    state: str
    """`QUEUED SCHEDULED RUNNING RETRYING SUCCEEDED FAILED`, as of a result."""
    attempts: int
    """How many have been made."""

    @property
    def countdown(self) -> float | None:
        """How many seconds after the call it is to run; None for at once."""
        return None if self.scheduled_at is None else (self.scheduled_at - self.enqueued_at).total_seconds()


@dataclass(frozen=True, slots=True)
class DeadCall:
    """A call that is not tried again: its retries are spent, or it was refused."""

    call: EnqueuedCall
    type: str
    """The name of the exception's type."""
    message: str
    traceback: str | None


class Shown(Protocol):
    """A message as the broker shows it: in its log, or in a dead letter."""

    @property
    def message_id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def queue_name(self) -> str | None: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of a task, taken apart once. `task` is None if no app here knows it."""

    message_id: str
    envelope: Envelope
    task: AnyTask | None
    arguments: Mapping[str, Any]
    queue: str | None
    labels: tuple[str, ...]
    retries: int

    @property
    def name(self) -> str:
        """The task's name, also where the call has an older one."""
        return self.envelope.task if self.task is None else self.task.name

    def seen(self, view: ResultView) -> EnqueuedCall:
        """Give the call as it is now."""
        start_at = self.envelope.start_at
        return EnqueuedCall(
            task=self.name,
            task_id=self.envelope.id,
            message_id=self.message_id,
            arguments=self.arguments,
            queue=self.queue,
            labels=self.labels,
            retries=self.retries,
            enqueued_at=_instant(self.envelope.enqueued_at),
            scheduled_at=None if start_at is None else _instant(start_at),
            schedule=self.envelope.schedule,
            state=view.state,
            attempts=view.attempts,
        )

    def snapshot(self, view: ResultView) -> dict[str, Any]:
        """Give what is the same at every run of a test, as JSON has it."""
        envelope = self.envelope
        start_at, timeout_ms = envelope.start_at, envelope.timeout_ms
        sent = _bound(self.task, envelope.args, envelope.kwargs, is_full=False)
        return {
            "task": self.name,
            "arguments": orjson.loads(orjson.dumps(sent)),
            "queue": self.queue,
            "labels": list(self.labels),
            "retries": self.retries,
            "timeout": None if timeout_ms is None else timeout_ms / 1000,
            "delay": 0 if start_at is None else round((start_at - envelope.enqueued_at) / 1000),
            "state": view.state,
            "attempts": view.attempts,
        }


def read_call(message: Shown, envelope: Envelope, find: Find, *, retries: int) -> Sent:
    """Take a message apart, in which there is this envelope."""
    task = find(envelope.task)
    args, kwargs = envelope.args, envelope.kwargs
    if task is not None:
        try:
            args, kwargs = task.signature.decode(args, kwargs)
        except DecodeError:
            task = None  # it has other parameters here: shown as it was sent
    return Sent(
        message_id=message.message_id,
        envelope=envelope,
        task=task,
        arguments=_bound(task, args, kwargs),
        queue=message.queue_name,
        labels=message.labels,
        retries=retries,
    )


class Wanted:
    """Which calls a test asks about: those of a task, and of these those with some arguments."""

    def __init__(self, task: AnyTask | str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises `ArgumentsError` for arguments that the task does not take: they would match nothing."""
        self._name = task.name if isinstance(task, Task) else task
        if task is None and (args or kwargs):
            raise KitError("name the task whose arguments these are: enqueued(task, ...)")
        signature = _signature(task if isinstance(task, Task) else None)
        try:
            self._arguments = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise ArgumentsError(f"{self._name}() {error}") from error
        kinds = {each.kind: each.name for each in signature.parameters.values()}
        self._rest = kinds.get(inspect.Parameter.VAR_KEYWORD)

    def matches(self, sent: Sent) -> bool:
        """Say whether a call is meant."""
        if self._name is not None and self._name not in (sent.name, sent.envelope.task):
            return False
        return all(
            name in sent.arguments and self._is_like(name, wanted, sent.arguments[name])
            for name, wanted in self._arguments.items()
        )

    def _is_like(self, name: str, wanted: Any, value: Any) -> bool:
        """Compare; of the keywords that a `**kwargs` has taken, those that are asked about."""
        if name == self._rest:
            return all(each in value and value[each] == wanted[each] for each in wanted)
        return bool(wanted == value)


def _bound(
    task: AnyTask | None, args: Any, kwargs: Mapping[str, Any], *, is_full: bool = True
) -> dict[str, Any]:
    bound = _signature(task).bind(*args, **kwargs)
    if is_full:
        bound.apply_defaults()
    return dict(bound.arguments)


_ANYTHING = inspect.signature(lambda *args, **kwargs: None)


def _signature(task: AnyTask | None) -> inspect.Signature:
    """Give the parameters that calls of a task have; those of one that nobody knows take anything."""
    if task is None:
        return _ANYTHING
    signature = inspect.signature(task.function)
    if not task.is_bound:
        return signature
    first, *others = signature.parameters.values()
    is_rest = first.kind is inspect.Parameter.VAR_POSITIONAL
    return signature.replace(parameters=[first, *others] if is_rest else others)


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
