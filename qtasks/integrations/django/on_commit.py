"""`delay_on_commit`, for calls that need a commit but no outbox.

They are sent after the commit, so a process that dies in between loses them; `Task.delay_in` does not.
"""

from __future__ import annotations

from typing import ParamSpec, TypeVar

from django.db import transaction

from qtasks.tasks.task import Task

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def delay_on_commit(task: Task[P, T, R], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Have a task called once the transaction of the default database has committed; never, if it rolls back.

    Outside a transaction it is called at once. Arguments are checked and taken as they are now.
    """
    call = task.call(*args, **kwargs)
    transaction.on_commit(lambda: task.delay_many([call]))
