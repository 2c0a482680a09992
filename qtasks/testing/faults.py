"""What a test has go wrong: attempts that fail, replies that are lost, messages that come twice.

It stands between the broker and the functions of the app, and runs nothing by itself.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from qtasks.errors import KitError
from qtasks.tasks.task import Task
from qtasks.testing.attempts import ATTEMPT

AnyTask = Task[..., Any, Any]
Failure = BaseException | type[BaseException]


@dataclass(slots=True)
class _Planned:
    """Something that is to befall the next attempts of a task, or of any if `task` is None."""

    task: str | None
    times: int
    error: Failure = ConnectionError


class Faults:
    """What is still to go wrong."""

    def __init__(self) -> None:
        self._failing: list[_Planned] = []
        self._losing: list[_Planned] = []
        self.is_doubling = False
        """Whether each message is handed over twice."""

    def fail(self, task: str | None, error: Failure, times: int) -> None:
        """Have the next attempts raise instead of running their function."""
        self._failing.append(_Planned(task, _checked(times), error))

    def lose(self, task: str | None, times: int) -> None:
        """Have the replies to the next attempts lost."""
        self._losing.append(_Planned(task, _checked(times)))

    @property
    def is_losing(self) -> bool:
        """Whether any reply is to be lost at all."""
        return bool(self._losing)

    def loses(self, task: str | None) -> bool:
        """Say whether the reply to this attempt is lost, which it is then."""
        return _take(self._losing, task) is not None

    def stand_in(self, task: AnyTask) -> AnyTask:
        """Give what runs in place of a task: one that fails, if that is planned, else the same, watched."""
        stand_in = copy(task)
        attempt = ATTEMPT.get()
        planned = _take(self._failing, task.name)
        if planned is None:
            stand_in.function = attempt.watched(task.function, is_coroutine=task.is_coroutine)
        else:
            attempt.is_planned = True
            stand_in.function = partial(_fail_later if task.is_coroutine else _fail, planned.error)
        return stand_in


class Doubling:
    """Messages come twice from now on; as a `with` block, until its end."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        faults.is_doubling = True

    def __enter__(self) -> None:
        self._faults.is_doubling = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._faults.is_doubling = False


def _take(planned: list[_Planned], task: str | None) -> _Planned | None:
    found = next((each for each in planned if each.task is None or each.task == task), None)
    if found is not None:
        found.times -= 1
        if not found.times:
            planned.remove(found)
    return found


def _fail(error: Failure, *args: Any, **kwargs: Any) -> None:
    if isinstance(error, type):
        raise error
    raise error.with_traceback(None)  # not that of the last time as well


async def _fail_later(error: Failure, *args: Any, **kwargs: Any) -> None:
    _fail(error)


def _checked(times: int) -> int:
    if times < 1:
        raise KitError(f"times={times!r} would change nothing; it is how many attempts go wrong, from 1")
    return times
