"""`Task`: a registered function, and the ways to call it later.

What a task may be told stands in `options.py`; how a call is packed and sent, in `calling.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from orjson import dumps

from qtasks.errors import TaskDefinitionError
from qtasks.tasks.codec import Signature, compile_signature
from qtasks.tasks.context import Context, current
from qtasks.tasks.dependencies import check_given, dependencies_of
from qtasks.tasks.keys import Span, unknown_names
from qtasks.tasks.many import TaskCall
from qtasks.tasks.options import (
    DECLARED,
    NO_LAYERS,
    CallOptions,
    Changes,
    Layers,
    TaskOptions,
    read_options,
)
from qtasks.tasks.periodic import Periodic, read_schedules
from qtasks.tasks.registry import Registry, default_name

if TYPE_CHECKING:
    from qtasks.tasks.calling import Caller
    from qtasks.tasks.results import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")  # what the task comes to
R = TypeVar("R")  # what a plain call gives: T, or a coroutine of T
Upgrade = Callable[..., Mapping[str, Any]]
U = TypeVar("U", bound=Upgrade)


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
        function: Callable[..., R],
        *,
        name: str,
        aliases: tuple[str, ...] = (),
        declared: Changes,
        layers: Layers,
        signature: Signature,
        find_caller: FindCaller,
        is_bound: bool = False,
        schedules: tuple[Periodic, ...] = (),
        version: int = 1,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.aliases = aliases
        self.version = version
        self.upgrades: dict[int, Upgrade] = {}
        self.signature = signature
        self.is_bound = is_bound
        self.schedules = schedules
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.dependencies = dependencies_of(function, name)
        self._declared = declared
        self._resolved = (layers, layers.options(declared))
        self._find_caller = find_caller

    @property
    def options(self) -> TaskOptions:
        """What holds for the task's calls; of a module-level task, as its app was last seen to have it."""
        return self._resolved[1]

    def options_in(self, layers: Layers) -> TaskOptions:
        """Give what holds in an app: a module-level task learns at its first call whose it is."""
        resolved = self._resolved
        if resolved[0] is not layers:
            resolved = self._resolved = (layers, layers.options(self._declared))
        return resolved[1]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, as if it were no task.

        One with `bind=True` gets the context of the task that is running here, else it raises
        `OutsideTask`. Dependencies must be given here, else it raises `ArgumentsError`.
        """
        if self.dependencies:
            check_given(self, args, kwargs)
        if self.is_bound:
            return self.function(current(), *args, **kwargs)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name} on queue {self.options.queue}>"

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Have the function called later, with these arguments.

        Durable when this returns. Raises `ArgumentsError` or `EncodeError` before anything is sent,
        `RequestError` if the broker refuses, `BrokerError` if it cannot answer.
        """
        return self._find_caller().send(self, args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Do what `delay` does from an event loop, which stands still for a quick commit at most."""
        return await self._find_caller().asend(self, args, kwargs)

    def delay_in(self, connection: object, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Have the function called later if the transaction of this connection commits, else never.

        A connection of psycopg or sqlite3, a connection or session of SQLAlchemy, or Django's. It is
        written to, and neither committed nor rolled back. Raises what `delay` raises but for
        `BrokerUnreachable`, and what the connection does; docs/transactions.md says which databases can.
        """
        return self._find_caller().send_in(connection, self, args, kwargs)

    async def adelay_in(self, connection: object, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Do what `delay_in` does, on an async connection of psycopg or SQLAlchemy."""
        return await self._find_caller().asend_in(connection, self, args, kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[P, T]:
        """Check the arguments of a call and keep it, for `delay_many`.

        Raises `ArgumentsError` or `EncodeError`.
        """
        encoded_args, encoded_kwargs = self.signature.encode(args, kwargs)
        return TaskCall(self.name, dumps(encoded_args), dumps(encoded_kwargs))

    def delay_many(self, calls: Iterable[TaskCall[P, T]]) -> list[AsyncResult[T]]:
        """Have the function called later, once for each of `calls`; gives their handles in order.

        `t.delay_many(t.call(n) for n in range(10_000))`. All have the options of this task. The calls
        are taken and sent in batches, so a generator may be long, and what it raises comes when
        earlier batches are enqueued already; how many calls that were is noted on the error. Raises
        what `delay` raises; the `repeat()` of `BrokerUnreachable` sends the rest and gives all handles.
        """
        return self._find_caller().batches(self, calls).send()

    async def adelay_many(self, calls: Iterable[TaskCall[P, T]]) -> list[AsyncResult[T]]:
        """Do what `delay_many` does without blocking the event loop for longer than a batch takes to make."""
        return await self._find_caller().batches(self, calls).asend()

    def upgrade(self, *, from_version: int) -> Callable[[U], U]:
        """Convert the arguments of calls that an older version of this task has enqueued.

        The decorated function gets them as they were sent, as JSON values, so it is written with the
        parameters that the task had at `from_version`. It returns the arguments of the version after
        that: a dict by name, again of JSON values. Raises `TaskDefinitionError`.
        """
        _check_from_version(self, from_version)

        def decorate(function: U) -> U:
            _check_upgrade(self, from_version, function)
            self.upgrades[from_version] = function
            return function

        return decorate

    def with_options(self, **options: Unpack[CallOptions]) -> Task[P, T, R]:
        """Give this task with other options: `t.with_options(retries=0).delay(...)`."""
        return self._changed(options, f"{self.name}.with_options")

    def _changed(self, options: Mapping[str, Any], of: str) -> Task[P, T, R]:
        told = copy(self)
        told._declared = {**self._declared, **read_options(options, of=of)}
        told._resolved = (self._resolved[0], self._resolved[0].options(told._declared))
        return told

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

        A `task_id` given twice within the `dedup_window`, ten minutes, enqueues once. Raises what `delay`
        raises.
        """
        told = self._changed(options, f"{self.name}.apply_async") if options else self
        return self._find_caller().send(
            told, tuple(args), kwargs or {}, countdown=countdown, eta=eta, task_id=task_id
        )

    async def aapply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Span | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[T]:
        """Do what `apply_async` does from an event loop, which stands still for a quick commit at most."""
        told = self._changed(options, f"{self.name}.aapply_async") if options else self
        return await self._find_caller().asend(
            told, tuple(args), kwargs or {}, countdown=countdown, eta=eta, task_id=task_id
        )


class Decorator(Protocol):
    """What `task(queue=...)` gives: it makes a task of a function, sync or async."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Task[P, T, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Task[P, T, T]: ...


class BoundDecorator(Protocol):
    """What `task(bind=True)` gives: calls of the task leave out the first parameter, the context."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], /
    ) -> Task[P, T, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], T], /) -> Task[P, T, T]: ...


def make_task(
    function: Callable[..., Any],
    registry: Registry,
    find_caller: FindCaller,
    options: Mapping[str, Any],
    layers: Layers = NO_LAYERS,
) -> Task[..., Any, Any]:
    """Turn a function into a registered task; raises `TaskDefinitionError` if that cannot be."""
    _check_function(function)
    written = dict(options)
    name = written.pop("name", None) or default_name(function)
    aliases = _aliases(name, written.pop("aliases", ()))
    is_bound = written.pop("bind", False)
    if not isinstance(is_bound, bool):
        raise TaskDefinitionError(f"task {name}: bind={is_bound!r} is not possible; it is True or False")
    if not is_bound and _takes_context(function):
        raise TaskDefinitionError(f"{name}() takes a Context: have it filled in with @task(bind=True)")
    schedules = written.pop("schedule", ())
    version = _version(name, written.pop("version", 1))
    declared = read_options(written, of=f"task {name}", known=DECLARED)
    signature = compile_signature(function, name=name, skip_first=is_bound)
    _check_keys(name, declared, signature)
    task: Task[..., Any, Any] = Task(
        function,
        name=name,
        aliases=aliases,
        declared=declared,
        layers=layers,
        signature=signature,
        find_caller=find_caller,
        is_bound=is_bound,
        schedules=read_schedules(schedules, signature),
        version=version,
    )
    registry.add(task)
    return task


def _check_keys(name: str, declared: Changes, signature: Signature) -> None:
    """Refuse keys that no call could make, and what would be told two places to wait at."""
    flow, exclusive, unique = (declared.get(option) for option in ("flow", "exclusive", "unique"))
    if flow is not None and exclusive is not None:
        raise TaskDefinitionError(
            f"task {name}: exclusive is a flow of parallelism 1, so it has either; "
            "to have both limits say flow=Flow(rate=..., parallelism=1, key=...)"
        )
    if "queue" in declared and (flow is not None or exclusive is not None):
        option = "flow" if flow is not None else "exclusive"
        raise TaskDefinitionError(
            f"task {name}: a task with {option} waits at its key and not in a queue; "
            f"leave out queue={declared['queue']!r}"
        )
    templates = [each.template for each in (flow, exclusive, unique) if each is not None]
    if any(each is not None for each in templates):
        strangers = unknown_names(templates, signature.parameters)
        if strangers:
            raise TaskDefinitionError(
                f"task {name}: its key names {strangers[0]!r}, which is no parameter; "
                f"there are: {', '.join(signature.parameters) or 'none'}"
            )


def _aliases(name: str, written: Any) -> tuple[str, ...]:
    is_list = isinstance(written, (list, tuple, set, frozenset))
    if not is_list or not all(isinstance(each, str) and each for each in written):
        raise TaskDefinitionError(
            f"task {name}: aliases={written!r} is not possible; it is a list of the task's old names"
        )
    return tuple(written)


def _version(name: str, written: Any) -> int:
    if type(written) is not int or written < 1:
        raise TaskDefinitionError(
            f"task {name}: version={written!r} is not possible; it is a number from 1, raised when old "
            "arguments no longer fit"
        )
    return written


def _check_from_version(task: Task[..., Any, Any], version: object) -> None:
    if type(version) is not int or not 1 <= version < task.version:
        raise TaskDefinitionError(
            f"task {task.name} is at version {task.version}, so there is no upgrade from version "
            f"{version!r}; raise its version with @task(version=...), and upgrade from an earlier one"
        )


def _check_upgrade(task: Task[..., Any, Any], version: int, function: object) -> None:
    if inspect.iscoroutinefunction(function) or not inspect.isfunction(function):
        raise TaskDefinitionError(
            f"the upgrade of task {task.name} from version {version} must be a plain function"
        )
    if version in task.upgrades:
        raise TaskDefinitionError(f"task {task.name} has two upgrades from version {version}; leave one")


def _check_function(function: Any) -> None:
    what = getattr(function, "__qualname__", repr(function))
    if isinstance(function, (staticmethod, classmethod)) or inspect.ismethod(function):
        raise TaskDefinitionError(f"{what} is a method; a task must be a function of a module")
    if isinstance(function, Task):
        raise TaskDefinitionError(f"{function.name} is a task already; decorate a function once")
    if isinstance(function, partial):
        raise TaskDefinitionError(f"{function!r} is a partial: it has no name; use def, and call it there")
    if inspect.isclass(function):
        raise TaskDefinitionError(f"{what} is not a function but a class; decorate a function with @task")
    if not inspect.isfunction(function):
        raise TaskDefinitionError(f"{what} is not a function; decorate a function with @task")
    if function.__name__ == "<lambda>":
        raise TaskDefinitionError("a lambda cannot be a task: its messages could not name it; use def")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TaskDefinitionError(f"{what} is a generator; a task must return its result")
    if _takes_self(function):
        raise TaskDefinitionError(
            f"{what} is a method: its object cannot travel; use a function of a module, or a staticmethod"
        )


def _takes_context(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.annotation in (Context, "Context", "qtasks.Context")


def _takes_self(function: Any) -> bool:
    """Whether a function stands in the body of a class and waits for its object, or for the class."""
    outer = function.__qualname__.rpartition(".")[0]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return bool(outer) and not outer.endswith("<locals>") and names[:1] in (("self",), ("cls",))
