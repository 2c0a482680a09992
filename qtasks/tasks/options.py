"""What a task may be told, as people write it and as the wire has it, and which of two layers wins.

An option comes from a call, the decorator, the queue, the app or, last, from `TaskOptions` itself. What
the options do is the business of `calling.py`, `execution.py` and the broker.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, TypedDict

from qtasks.errors import BadRequest, InvalidValue, QTasksError, TaskDefinitionError
from qtasks.protocol.destinations import check_queue_name
from qtasks.protocol.durations import span_ms
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.header_values import read_labels

Span = float | timedelta | str
Raised = type[BaseException] | Sequence[type[BaseException]]
DEFAULT_QUEUE = "default"
MAX_RETRIES = 1000


class CallOptions(TypedDict, total=False):
    """What may differ from call to call. Spans are seconds, a timedelta or a text such as "1h30m"."""

    queue: str
    retries: int
    retry_delay: Span
    timeout: Span
    result_ttl: Span
    label: str | Sequence[str]


class DefaultOptions(CallOptions, total=False):
    """What an app may say of all its tasks: the options of calls, and which exceptions are retried."""

    retry_on: Raised
    no_retry_on: Raised


class DeclaredOptions(DefaultOptions, total=False):
    """What a decorator takes: all of these, and the task's names."""

    name: str
    aliases: Sequence[str]


CALL = frozenset(CallOptions.__annotations__)
DEFAULTS = frozenset(DefaultOptions.__annotations__)
DECLARED = (*DeclaredOptions.__annotations__, "bind")  # whose type depends on it, so it is none of these


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is enqueued and retried, in the units of the wire."""

    queue: str = DEFAULT_QUEUE
    retries: int = 3
    retry_delay: str | None = None
    """An expression in `retried`, in milliseconds; None for the broker's ladder."""
    timeout_ms: int = 300_000
    result_ttl_ms: int = 86_400_000
    labels: tuple[str, ...] = ()
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    no_retry_on: tuple[type[BaseException], ...] = ()

    def is_retried(self, error: BaseException) -> bool:
        """Say whether a task that raised this is worth another attempt: `no_retry_on` has the last word."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.no_retry_on)


Changes = Mapping[str, Any]
"""Some of the fields of `TaskOptions`, converted."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What the app says of all its tasks, and of those in each of its queues."""

    app: Changes = field(default_factory=dict)
    queues: Mapping[str, Changes] = field(default_factory=dict)

    def options(self, declared: Changes) -> TaskOptions:
        """Give the options of a task that declares these: the nearest wins."""
        queue = declared.get("queue") or self.app.get("queue", DEFAULT_QUEUE)
        return TaskOptions(**{**self.app, **self.queues.get(queue, {}), **declared})


NO_LAYERS = Layers()


def read_options(
    written: Mapping[str, Any],
    *,
    of: str,
    known: Collection[str] = CALL,
    error: type[QTasksError] = TaskDefinitionError,
) -> Changes:
    """Convert options as people write them; raises `error` for what cannot be. `of` says whose they are."""
    unknown = next((name for name in written if name not in known), None)
    if unknown is not None:
        raise error(f"{of}: {_unknown(unknown, known)}")
    return dict(_converted(name, value, of, error) for name, value in written.items())


def _unknown(name: str, known: Collection[str]) -> str:
    if name in DECLARED:
        where = "of the decorator, of a queue or of the app" if name in DEFAULTS else "of the decorator alone"
        return f"{name!r} is an option {where}"
    near = get_close_matches(name, sorted(known), 1)
    order = [each for each in DECLARED if each in known]
    return f"unknown option {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(order)}"
    )


def _converted(name: str, value: Any, of: str, error: type[QTasksError]) -> tuple[str, Any]:
    try:
        if name == "queue" and isinstance(value, str):
            check_queue_name(value)
            return "queue", value
        if name == "retries" and type(value) is int and 0 <= value <= MAX_RETRIES:
            return "retries", value
        if name == "retry_delay":
            return "retry_delay", _retry_delay(value)
        if name == "timeout" and (ms := span_ms(value)) > 0:
            return "timeout_ms", ms
        if name == "result_ttl":
            return "result_ttl_ms", span_ms(value)
        if name == "label" and (labels := _labels(value)) is not None:
            return "labels", labels
        if name in ("retry_on", "no_retry_on") and (kinds := _kinds(value)) is not None:
            return name, kinds
    except (BadRequest, InvalidValue, TypeError, ValueError) as cause:
        raise error(f"{of}: {name}={value!r}: {cause}") from cause
    raise error(f"{of}: {name}={value!r} is not possible; {HINTS[name]}")


HINTS = {
    "queue": "a queue is named by a text",
    "retries": f"it is an integer from 0 to {MAX_RETRIES}",
    "timeout": "it is a span longer than 0",
    "label": "it is a text without commas or blanks around it, or a list of such texts",
    "retry_on": "it is an exception type, or a tuple of them",
    "no_retry_on": "it is an exception type, or a tuple of them",
}


def _retry_delay(value: Any) -> str:
    """A number or span is the same wait each time; a text that is no span is an expression in ms."""
    if isinstance(value, str):
        try:
            return str(span_ms(value))
        except InvalidValue:
            return parse_expression(value).text
    return str(span_ms(value))


def _labels(value: Any) -> tuple[str, ...] | None:
    """Read one label or several; None if one of them would not arrive as it is, as the wire has commas."""
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else (value,)
    if any(not isinstance(each, str) or read_labels(each) != (each,) for each in texts):
        return None
    return tuple(dict.fromkeys(texts))


def _kinds(value: Any) -> tuple[type[BaseException], ...] | None:
    kinds = tuple(value) if isinstance(value, Sequence) else (value,)
    is_right = all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds)
    return kinds if is_right else None
