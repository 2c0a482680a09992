"""Finds tasks by name: the only way from a message to a function. Nothing is imported by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtasks.errors import TaskDefinitionError

if TYPE_CHECKING:
    from qtasks.tasks.task import Task


class Registry:
    """Tasks by name, and by the names that they had before."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any, Any]] = {}

    def add(self, task: Task[..., Any, Any]) -> None:
        """Register a task; raises `TaskDefinitionError` if one of its names is taken."""
        names = (task.name, *task.aliases)
        for place, name in enumerate(names):
            if name in names[:place]:
                raise TaskDefinitionError(f"task {task.name}: alias {name!r} is given twice")
            taken = self._tasks.get(name)
            if taken is not None:
                raise TaskDefinitionError(_clash(name, taken, task))
        for name in names:
            self._tasks[name] = task

    def find(self, name: str) -> Task[..., Any, Any] | None:
        """Give the task of that name or alias, or None."""
        return self._tasks.get(name)

    def names(self) -> list[str]:
        """List all names and aliases."""
        return list(self._tasks)

    def __iter__(self) -> Iterator[Task[..., Any, Any]]:
        return iter(dict.fromkeys(self._tasks.values()))

    def __len__(self) -> int:
        return len(set(self._tasks.values()))


def default_name(function: Callable[..., Any]) -> str:
    """Name a task after its function: `module.function`.

    A script that is run is `__main__` to itself and `name` to whoever imports it; the task is called
    the same in both.
    """
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        path = getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(path).stem if path else module
    return f"{module}.{function.__qualname__}"


def _clash(name: str, taken: Task[..., Any, Any], task: Task[..., Any, Any]) -> str:
    is_alias = name in taken.aliases or name in task.aliases
    what = f"two tasks claim the name {name!r}" if is_alias else f"two tasks are named {name!r}"
    mend = "take it off one's aliases" if is_alias else "give one of them another name: @task(name=...)"
    return f"{what}: {_place(taken.function)} and {_place(task.function)}; {mend}"


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
