"""The module-level `@task`, for libraries and modules that must not know which app they are part of."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from qtasks.tasks.calling import Callers
from qtasks.tasks.options import DeclaredOptions
from qtasks.tasks.registry import Registry
from qtasks.tasks.task import BoundDecorator, Decorator, Task, make_task

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT = Registry()
"""Tasks that were decorated without an app; every app of the process can run them."""

CALLERS = Callers()


@overload
def task(function: Callable[P, Coroutine[Any, Any, T]], /) -> Task[P, T, Coroutine[Any, Any, T]]: ...
@overload
def task(function: Callable[P, T], /) -> Task[P, T, T]: ...
@overload
def task(*, bind: Literal[True], **options: Unpack[DeclaredOptions]) -> BoundDecorator: ...
@overload
def task(*, bind: Literal[False] = False, **options: Unpack[DeclaredOptions]) -> Decorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function: `@task` or `@task(queue="mail", retries=5)`.

    With `bind=True` the function's first argument is its `Context`, which calls leave out.
    Its calls are sent by the process's only `QTasks`, looked up when it is called; with none, or
    several, calling raises `ConfigurationError`. Raises `TaskDefinitionError` at decoration.
    """

    def decorate(decorated: Callable[..., Any]) -> Task[..., Any, Any]:
        return make_task(decorated, DEFAULT, CALLERS.only, options)

    return decorate if function is None else decorate(function)
