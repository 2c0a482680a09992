"""Refuses to wait where the wait might never end: on a running event loop, and inside a task."""

from __future__ import annotations

import asyncio

from qtasks.errors import WaitRefused
from qtasks.tasks.context import CURRENT


def refuse_in_loop(what: str, instead: str) -> None:
    """Raise `WaitRefused` on a thread whose event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WaitRefused(
        f".{what} would block the running event loop, which the task may need to run on; use: {instead}"
    )


def refuse_in_task(timeout: float | None, is_allowed: bool) -> None:
    """Raise `WaitRefused` inside a task, unless it is allowed or the `timeout` leaves nothing to wait."""
    context = CURRENT.get()
    if context is None or is_allowed or (timeout is not None and timeout <= 0):
        return
    raise WaitRefused(
        f"task {context.task} ({context.task_id}) would wait for another task here and keep its own slot "
        "meanwhile; once every slot is kept so, nothing runs any more. Have the other task call what is to "
        "come next, or wait all the same with allow_in_task=True"
    )
