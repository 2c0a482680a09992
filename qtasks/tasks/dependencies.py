"""Dependencies: parameters that a framework fills in where a task runs, written `session=Depends(f)`.

Which parameters these are, and what fills them in, stands here; how a task runs with them is in
`resolving.py`. The framework itself is known by `integrations` alone.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from qtasks.errors import ArgumentsError, TaskDefinitionError

if TYPE_CHECKING:
    from qtasks.tasks.context import Context
    from qtasks.tasks.task import Task

Fill = Callable[[Mapping[str, object]], Awaitable[Any]]
"""Goes on with a task, given the values of its dependencies, and gives what the task returns."""

_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


class Resolver(Protocol):
    """Fills in dependencies. `install` of `qtasks.integrations.fastapi` gives an app FastAPI's."""

    def check(self, task: Task[..., Any, Any], /) -> None:
        """Raise if the dependencies of a task cannot be filled in; asked when the app starts."""

    async def run(self, task: Task[..., Any, Any], context: Context, fill: Fill, /) -> Any:
        """Resolve the dependencies, call `fill` with their values, end them, and give its result."""


def is_marker(value: object) -> bool:
    """Tell whether a default or an annotation's extra is FastAPI's `Depends` or `Security`."""
    return any(
        each.__name__ == "Depends" and each.__module__ == "fastapi.params" for each in type(value).__mro__
    )


def dependencies_of(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Name the parameters whose default says that they are filled in; raises `TaskDefinitionError`."""
    parameters = list(inspect.signature(function).parameters.values())
    found = [place for place, each in enumerate(parameters) if is_marker(each.default)]
    for each in parameters[found[0] :] if found else ():
        if each.kind in _PLACED:
            raise TaskDefinitionError(
                f"{name}(): {each.name!r} cannot stand where it does, as dependencies are given by name; "
                "move it before the first `Depends`, or make it keyword-only"
            )
        if each.kind is inspect.Parameter.VAR_KEYWORD:
            raise TaskDefinitionError(
                f"{name}(): **{each.name} would let calls give its dependencies; name what it takes instead"
            )
    return tuple(parameters[place].name for place in found)


def taken_in_calls(
    parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any], name: str
) -> list[inspect.Parameter]:
    """Leave out the dependencies; what stands behind one can then be given by name only.

    Raises `TaskDefinitionError` for a dependency that is one by its annotation alone: type checkers would
    want it in every call.
    """
    kept: list[inspect.Parameter] = []
    is_behind = False
    for each in parameters:
        if is_marker(each.default):
            is_behind = True
            continue
        _check_annotation(each, hints.get(each.name), name)
        is_moved = is_behind and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        kept.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) if is_moved else each)
    return kept


def check_given(task: Task[..., Any, Any], args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Refuse a plain call in which a dependency would be its own `Depends(...)`: raises `ArgumentsError`."""
    bound = inspect.signature(task.function).bind_partial(
        *((None,) if task.is_bound else ()), *args, **kwargs
    )
    missing = [name for name in task.dependencies if name not in bound.arguments]
    if missing:
        raise ArgumentsError(
            f"{task.name}() was called plainly without {missing[0]!r}, which only a task that is run later "
            f"has filled in; give it: {task.__name__}(..., {missing[0]}=...)"
        )


def _check_annotation(parameter: inspect.Parameter, hint: Any, name: str) -> None:
    if typing.get_origin(hint) is not typing.Annotated:
        return
    kind, *extras = typing.get_args(hint)
    markers = [each for each in extras if is_marker(each)]
    if markers:
        needed = getattr(markers[-1].dependency, "__name__", "")
        raise TaskDefinitionError(
            f"{name}(): {parameter.name!r} is a dependency and needs `Depends` as its default, so that calls "
            f"may leave it out: {parameter.name}: {getattr(kind, '__name__', kind)} = Depends({needed})"
        )
