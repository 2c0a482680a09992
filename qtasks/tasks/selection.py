"""`Selection`: which calls of an app `QTasks.cancel` is about. Pure; the broker finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from qtasks.errors import ArgumentsError
from qtasks.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Selection:
    """Calls at one address. What is given must all match; several values of one kind are alternatives."""

    destination: str
    tasks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()

    def filters(self) -> Mapping[str, Sequence[str]]:
        """Give the filters of the broker's API."""
        given = {"task": self.tasks, "label": self.labels, "queueName": self.queues}
        return {"url": (self.destination,), **{name: values for name, values in given.items() if values}}


class Which(TypedDict, total=False):
    """What says which calls are meant: a task or its name, one of some labels, a queue."""

    task: Task[..., Any, Any] | str
    label: str | Sequence[str]
    queue: str


def select(destination: str, **which: Unpack[Which]) -> Selection:
    """Select calls by task, label or queue; raises `ArgumentsError` if nothing says which."""
    unknown = which.keys() - Which.__annotations__.keys()
    if unknown:
        raise ArgumentsError(f"cancel() knows task=, label= and queue=, but not {min(unknown)}=")
    task, labels, queues = which.get("task"), _texts(which, "label"), _texts(which, "queue")
    tasks = (task.name, *task.aliases) if isinstance(task, Task) else _texts(which, "task")
    found = Selection(destination, tasks, labels, queues)
    if not (found.tasks or found.labels or found.queues):
        raise ArgumentsError(
            "cancel() needs to know which calls: give task=, label= or queue=, or a combination of them"
        )
    return found


def _texts(which: Mapping[str, Any], name: str) -> tuple[str, ...]:
    if name not in which:
        return ()
    given = which[name]
    texts = tuple(given) if isinstance(given, list | tuple | set | frozenset) else (given,)
    if not texts or not all(isinstance(each, str) and each for each in texts):
        # What is empty, or None, must not widen what is called off.
        raise ArgumentsError(f"cancel({name}={given!r}): it is a text that is not empty")
    return texts
