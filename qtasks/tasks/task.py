"""`Task`: a registered function, and the ways to call it later.

What a task may be told stands in `TaskOptions`; how a call is packed and sent, in `calling.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from qtasks.errors import BadRequest, InvalidValue, TaskDefinitionError
from qtasks.protocol.destinations import check_queue_name
from qtasks.protocol.durations import span_ms
from qtasks.protocol.expression import parse_expression
from qtasks.tasks.codec import Signature, compile_signature
from qtasks.tasks.registry import Registry, default_name

if TYPE_CHECKING:
    from qtasks.tasks.calling import Caller
    from qtasks.tasks.results import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")  # what the task comes to
R = TypeVar("R")  # what a plain call gives: T, or a coroutine of T

Span = float | timedelta | str
DEFAULT_QUEUE = "default"
MAX_RETRIES = 1000


class CallOptions(TypedDict, total=False):
    """What may differ from call to call. Spans are seconds, a timedelta or a text such as "1h30m"."""

    queue: str
    retries: int
    retry_delay: Span
    timeout: Span
    result_ttl: Span


class DeclaredOptions(CallOptions, total=False):
    """What a decorator takes: the options of calls, and the task's name."""

    name: str


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is enqueued and retried, in the units of the wire."""

    queue: str = DEFAULT_QUEUE
    retries: int = 3
    retry_delay: str | None = None
    """An expression in `retried`, in milliseconds; None for the broker's ladder."""
    timeout_ms: int = 300_000
    result_ttl_ms: int = 86_400_000

    def merged(self, changes: Mapping[str, Any], *, of: str) -> TaskOptions:
        """Apply options as people write them; raises `TaskDefinitionError` for what cannot be."""
        return replace(self, **dict(_converted(name, value, of) for name, value in changes.items()))


def _converted(name: str, value: Any, of: str) -> tuple[str, Any]:
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
    except (BadRequest, InvalidValue, TypeError, ValueError) as error:
        raise TaskDefinitionError(f"{of}: {name}={value!r}: {error}") from error
    if name in CallOptions.__annotations__:
        raise TaskDefinitionError(f"{of}: {name}={value!r} is not possible; {HINTS[name]}")
    near = get_close_matches(name, [*DeclaredOptions.__annotations__], 1)
    known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(DeclaredOptions.__annotations__)}"
    raise TaskDefinitionError(f"{of}: unknown option {name!r}; {known}")


HINTS = {
    "queue": "a queue is named by a text",
    "retries": f"it is an integer from 0 to {MAX_RETRIES}",
    "timeout": "it is a span longer than 0",
}


def _retry_delay(value: Any) -> str:
    """A number or span is the same wait each time; a text that is no span is an expression in ms."""
    if isinstance(value, str):
        try:
            return str(span_ms(value))
        except InvalidValue:
            return parse_expression(value).text
    return str(span_ms(value))


class FindCaller(Protocol):
    """Gives the app that sends a task's calls, at call time."""

    def __call__(self) -> Caller: ...


class Task(Generic[P, T, R]):
    """A function that can be called now, as ever, or later: `task.delay(...)`.

    Made by `@tasks.task` or `@task`. `function` is the function itself.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R]

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        options: TaskOptions,
        signature: Signature,
        find_caller: FindCaller,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.options = options
        self.signature = signature
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self._find_caller = find_caller

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, as if it were no task."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name} on queue {self.options.queue}>"

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Have the function called later, with these arguments.

        Durable when this returns. Raises `ArgumentsError` or `EncodeError` before anything is sent,
        `RequestError` if the broker refuses, `BrokerError` if it cannot answer.
        """
        return self._find_caller().send(self, self.options, args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Do what `delay` does without blocking the event loop."""
        return await self._find_caller().asend(self, self.options, args, kwargs)

    def with_options(self, **options: Unpack[CallOptions]) -> Task[P, T, R]:
        """Give this task with other options: `t.with_options(retries=0).delay(...)`."""
        return Task(
            self.function,
            name=self.name,
            options=self.options.merged(options, of=f"{self.name}.with_options"),
            signature=self.signature,
            find_caller=self._find_caller,
        )

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[T]:
        """Have the function called later, as told: after `countdown`, or not before `eta` (aware).

        A `task_id` given twice within ten minutes enqueues once. Raises what `delay` raises.
        """
        merged = self.options.merged(options, of=f"{self.name}.apply_async") if options else self.options
        return self._find_caller().send(
            self, merged, tuple(args), kwargs or {}, countdown=countdown, eta=eta, task_id=task_id
        )


class Decorator(Protocol):
    """What `task(queue=...)` gives: it makes a task of a function, sync or async."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Task[P, T, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Task[P, T, T]: ...


def make_task(
    function: Callable[..., Any],
    registry: Registry,
    find_caller: FindCaller,
    defaults: TaskOptions,
    options: Mapping[str, Any],
) -> Task[..., Any, Any]:
    """Turn a function into a registered task; raises `TaskDefinitionError` if that cannot be."""
    _check_function(function)
    changes = dict(options)
    name = changes.pop("name", None) or default_name(function)
    task: Task[..., Any, Any] = Task(
        function,
        name=name,
        options=defaults.merged(changes, of=f"task {name}"),
        signature=compile_signature(function, name=name),
        find_caller=find_caller,
    )
    registry.add(task)
    return task


def _check_function(function: Any) -> None:
    what = getattr(function, "__qualname__", repr(function))
    if isinstance(function, (staticmethod, classmethod)) or inspect.ismethod(function):
        raise TaskDefinitionError(f"{what} is a method; a task must be a function of a module")
    if not inspect.isfunction(function):
        raise TaskDefinitionError(f"{what} is not a function; decorate a function with @task")
    if function.__name__ == "<lambda>":
        raise TaskDefinitionError("a lambda cannot be a task: its messages could not name it; use def")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TaskDefinitionError(f"{what} is a generator; a task must return its result")
