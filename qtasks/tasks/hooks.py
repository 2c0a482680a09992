"""Calls what a task wants to be told of its own ends: `on_success`, `on_retry` and their kin.

A hook runs where the task ran: a coroutine function on the loop, a plain one on a task thread, both
before the broker hears of the end. What a hook raises is logged and changes nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from qtasks.tasks.context import CURRENT, Context
from qtasks.tasks.options import TaskOptions
from qtasks.tasks.outcomes import Ending
from qtasks.tasks.threads import ThreadPool

log = logging.getLogger("qtasks.task")

Hook = Callable[[Context, Any], Any]


def hooks_of(options: TaskOptions, ending: Ending) -> tuple[tuple[str, Hook], ...]:
    """Give the hooks that an end calls, by name. One whose retries are spent has failed as well."""
    wanted: tuple[tuple[str, Hook | None], ...]
    if ending is Ending.DONE:
        wanted = (("on_success", options.on_success),)
    elif ending is Ending.AGAIN:
        wanted = (("on_retry", options.on_retry),)
    elif ending is Ending.REFUSED:
        wanted = (("on_failure", options.on_failure),)
    elif ending is Ending.CANCELLED:
        wanted = ()
    else:
        wanted = (("on_exhausted", options.on_exhausted), ("on_failure", options.on_failure))
    return tuple((name, hook) for name, hook in wanted if hook is not None)


async def tell(hook: Hook, name: str, context: Context, what: Any, threads: ThreadPool) -> None:
    """Call one hook with the context of the attempt, and its result or error."""
    token = CURRENT.set(context)
    try:
        if inspect.iscoroutinefunction(hook):
            await hook(context, what)
        else:
            await threads.start(partial(hook, context, what), _nothing).future
    except Exception:  # a wall: the task's own end stands, whatever is made of it
        facts = {"task": context.task, "task_id": context.task_id, "message_id": context.message_id}
        log.exception("a hook of a task broke", extra={**facts, "hook": name})
    finally:
        CURRENT.reset(token)


def _nothing() -> None:
    """The end of a hook frees nothing."""
