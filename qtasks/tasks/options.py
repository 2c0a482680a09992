"""What a task may be told, as people write it and as the wire has it, and which of two layers wins.

An option comes from a call, the decorator, the queue, the app or, last, from `TaskOptions` itself. What
the options do is the business of `calling.py`, `execution.py` and the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol, TypedDict

from qtasks.errors import BadRequest, InvalidValue, QTasksError, TaskDefinitionError
from qtasks.protocol.destinations import check_queue_name
from qtasks.protocol.durations import span_ms
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.header_values import read_labels
from qtasks.tasks.context import Context
from qtasks.tasks.keys import Exclusive, Flow, Span, Unique, read_exclusive, read_flow, read_unique
from qtasks.tasks.ladders import ladder_expression
from qtasks.tasks.periodic import Periodic

Delay = Span | Sequence[Span] | Callable[[int, BaseException], Span]
"""The same wait each time, a wait for each retry, an expression, or a function of attempt and error."""
Raised = type[BaseException] | Sequence[type[BaseException]]
SuccessHook = Callable[[Context, Any], Any]
FailureHook = Callable[[Context, BaseException], Any]
DEFAULT_QUEUE = "default"
MAX_RETRIES = 1000


class CallOptions(TypedDict, total=False):
    """What may differ from call to call. Spans are seconds, a timedelta or a text such as "1h30m"."""

    queue: str
    retries: int
    retry_delay: Delay
    timeout: Span
    expires: Span
    result_ttl: Span
    dedup_window: Span
    label: str | Sequence[str]


class DefaultOptions(CallOptions, total=False):
    """What an app may say of all its tasks: the options of calls, and what is obeyed where tasks run."""

    retry_jitter: float | bool
    retry_on: Raised
    no_retry_on: Raised
    log_args: bool
    on_success: SuccessHook
    on_failure: FailureHook
    on_retry: FailureHook
    on_exhausted: FailureHook


class DeclaredOptions(DefaultOptions, total=False):
    """What a decorator takes: all of these, the task's names, and what depends on its arguments."""

    name: str
    aliases: Sequence[str]
    version: int
    unique: bool | str | Unique
    exclusive: bool | str
    flow: Flow
    schedule: Periodic | Sequence[Periodic]


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
    retry_delay_of: Callable[[int, BaseException], Span] | None = None
    """Gives the wait after an attempt, counted from 1, that ended in this error."""
    retry_jitter: float = 0.0
    """Which share of each wait is left to chance, from 0 to 1."""
    timeout_ms: int = 300_000
    expires_ms: int | None = None
    result_ttl_ms: int = 86_400_000
    dedup_window_ms: int | None = None
    labels: tuple[str, ...] = ()
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    no_retry_on: tuple[type[BaseException], ...] = ()
    log_args: bool = False
    on_success: SuccessHook | None = None
    on_failure: FailureHook | None = None
    on_retry: FailureHook | None = None
    on_exhausted: FailureHook | None = None
    unique: Unique | None = None
    exclusive: Exclusive | None = None
    flow: Flow | None = None

    @property
    def has_keys(self) -> bool:
        """Whether its calls wait at a key of theirs instead of in a queue."""
        return self.flow is not None or self.exclusive is not None

    def is_retried(self, error: BaseException) -> bool:
        """Say whether a task that raised this is worth another attempt: `no_retry_on` has the last word."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.no_retry_on)


Changes = Mapping[str, Any]
"""Some of the fields of `TaskOptions`, converted."""


class Check(Protocol):
    """Refuses what an app's broker cannot do; raises `UnsupportedByBroker`."""

    def __call__(self, options: TaskOptions, *, is_delayed: bool = False) -> None:
        """Look at the options of a task, or of a call that is not to run at once."""
        ...


def _accept(options: TaskOptions, *, is_delayed: bool = False) -> None:
    """Let everything pass: the broker can do it all."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What the app says of all its tasks, and of those in each of its queues.

    `check` is asked wherever the options of a task come about, which is once and not at each call.
    """

    app: Changes = field(default_factory=dict)
    queues: Mapping[str, Changes] = field(default_factory=dict)
    check: Check = _accept

    def options(self, declared: Changes) -> TaskOptions:
        """Give the options of a task that declares these: the nearest wins."""
        queue = declared.get("queue") or self.app.get("queue", DEFAULT_QUEUE)
        options = TaskOptions(**{**self.app, **self.queues.get(queue, {}), **declared})
        self.check(options)
        return options


NO_LAYERS = Layers()


def read_options(
    written: Mapping[str, Any],
    *,
    of: str,
    known: Collection[str] = CALL,
    error: type[QTasksError] = TaskDefinitionError,
) -> Changes:
    """Convert options as people write them; raises `error` for what cannot be. `of` says whose they are."""
    if known is CALL and callable(written.get("retry_delay")):
        raise error(
            f"{of}: retry_delay={written['retry_delay']!r} is a function, which a message cannot carry; "
            "give it to the decorator, or give a span, a list of spans or an expression here"
        )
    unknown = next((name for name in written if name not in known), None)
    if unknown is not None:
        raise error(f"{of}: {_unknown(unknown, known)}")
    changes: dict[str, Any] = {}
    for name, value in written.items():
        changes |= _converted(name, value, of, error)
    return changes


def _unknown(name: str, known: Collection[str]) -> str:
    if name in DECLARED:
        where = "of the decorator, of a queue or of the app" if name in DEFAULTS else "of the decorator alone"
        return f"{name!r} is an option {where}"
    near = get_close_matches(name, sorted(known), 1)
    order = [each for each in DECLARED if each in known]
    return f"unknown option {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(order)}"
    )


def _converted(name: str, value: Any, of: str, error: type[QTasksError]) -> Changes:
    try:
        found = READERS[name](value)
    except (BadRequest, InvalidValue, TypeError, ValueError) as cause:
        raise error(f"{of}: {name}={value!r}: {cause}") from cause
    if found is None:
        raise error(f"{of}: {name}={value!r} is not possible; {HINTS[name]}")
    return found


def _queue(value: Any) -> Changes | None:
    if not isinstance(value, str):
        return None
    check_queue_name(value)
    return {"queue": value}


def _retries(value: Any) -> Changes | None:
    return {"retries": value} if type(value) is int and 0 <= value <= MAX_RETRIES else None


def _retry_delay(value: Any) -> Changes | None:
    """A number or span is the same wait each time; a text that is no span is an expression in ms."""
    if callable(value):
        return {"retry_delay": None, "retry_delay_of": value}
    if isinstance(value, str):
        try:
            text = str(span_ms(value))
        except InvalidValue:
            text = parse_expression(value).text
    elif isinstance(value, Sequence):
        if not value:
            return None
        text = ladder_expression([span_ms(each) for each in value])
    else:
        text = str(span_ms(value))
    return {"retry_delay": text, "retry_delay_of": None}


def _retry_jitter(value: Any) -> Changes | None:
    is_share = isinstance(value, int | float) and 0 <= value <= 1
    return {"retry_jitter": float(value)} if is_share else None


def _span(field: str, *, least_ms: int = 0) -> Callable[[Any], Changes | None]:
    def read(value: Any) -> Changes | None:
        ms = span_ms(value)
        return {field: ms} if ms >= least_ms else None

    return read


def _label(value: Any) -> Changes | None:
    labels = _labels(value)
    return None if labels is None else {"labels": labels}


def _exceptions(name: str) -> Callable[[Any], Changes | None]:
    def read(value: Any) -> Changes | None:
        kinds = _kinds(value)
        return None if kinds is None else {name: kinds}

    return read


def _hook(name: str) -> Callable[[Any], Changes | None]:
    return lambda value: {name: value} if callable(value) else None


READERS: Mapping[str, Callable[[Any], Changes | None]] = {
    "queue": _queue,
    "retries": _retries,
    "retry_delay": _retry_delay,
    "retry_jitter": _retry_jitter,
    "timeout": _span("timeout_ms", least_ms=1),
    "expires": _span("expires_ms", least_ms=1),
    "result_ttl": _span("result_ttl_ms"),
    "dedup_window": _span("dedup_window_ms", least_ms=1000),
    "label": _label,
    "retry_on": _exceptions("retry_on"),
    "no_retry_on": _exceptions("no_retry_on"),
    "log_args": lambda value: {"log_args": value} if isinstance(value, bool) else None,
    **{name: _hook(name) for name in ("on_success", "on_failure", "on_retry", "on_exhausted")},
    "unique": lambda value: {"unique": read_unique(value)},
    "exclusive": lambda value: {"exclusive": read_exclusive(value)},
    "flow": lambda value: {"flow": read_flow(value)},
}
"""How each option is read; None says that it is not possible, and an error says why."""

HINTS = {
    "queue": "a queue is named by a text",
    "retries": f"it is an integer from 0 to {MAX_RETRIES}",
    "retry_delay": "a list of waits has at least one",
    "retry_jitter": "it is the share of each wait that is left to chance, from 0 to 1",
    "timeout": "it is a span longer than 0",
    "expires": "it is a span longer than 0",
    "dedup_window": "it is a span of at least a second",
    "label": "it is a text without commas or blanks around it, or a list of such texts",
    "retry_on": "it is an exception type, or a tuple of them",
    "no_retry_on": "it is an exception type, or a tuple of them",
    "log_args": "it is True or False",
    "on_success": "it is a function of the context and the result",
    "on_failure": "it is a function of the context and the error",
    "on_retry": "it is a function of the context and the error",
    "on_exhausted": "it is a function of the context and the error",
}


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
