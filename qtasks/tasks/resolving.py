"""Runs a plain function with dependencies: they are resolved on the loop, and it runs on a thread.

A thread cannot be stopped. When its time is over its task is given up at once, but what it may still be
using, such as a session, stays open until it has really ended, and is then told of the timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from qtasks.clock import Clock
from qtasks.errors import ConfigurationError, TaskTimeout
from qtasks.tasks.dependencies import Fill, Resolver
from qtasks.tasks.limits import limited, thread_within
from qtasks.tasks.threads import ThreadPool

log = logging.getLogger("qtasks.task")

Resolve = Callable[[Fill], Awaitable[Any]]
Call = Callable[[Mapping[str, object]], Any]

_RUNNING: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references


def resolver_for(resolver: Resolver | None, task: str) -> Resolver:
    """Give the resolver there is, or raise `ConfigurationError`."""
    if resolver is None:
        raise ConfigurationError(
            f"task {task} has dependencies, and nothing in this process fills them in; "
            "call install(app, tasks) of qtasks.integrations.fastapi where the app is made"
        )
    return resolver


async def thread_resolved(
    resolve: Resolve,
    call: Call,
    threads: ThreadPool,
    timeout_ms: int | None,
    over: Callable[[], None],
    clock: Clock,
) -> Any:
    """Have `call` run on a thread, inside `resolve`, and give its result; raises `TaskTimeout`.

    The beginning and the end of the dependencies may each take as long as the function. `over` is called
    when all of it has really ended.
    """
    execution = _Execution(call, threads, timeout_ms, clock)
    running = asyncio.create_task(execution.run(resolve, over))
    _RUNNING.add(running)
    running.add_done_callback(_RUNNING.discard)
    return await execution.answer


class _Execution:
    """One execution; `answer` is there when it has ended, or was given up."""

    def __init__(self, call: Call, threads: ThreadPool, timeout_ms: int | None, clock: Clock) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._call = call
        self._threads = threads
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._limit: asyncio.Timeout

    async def run(self, resolve: Resolve, over: Callable[[], None]) -> None:
        """Resolve the dependencies, have the function called, end the dependencies."""
        try:
            async with limited(self._timeout_ms) as self._limit:
                result = await resolve(self._fill)
        except BaseException as error:  # SystemExit too: out of a task it would stop the loop
            if not self._fail(error) and not isinstance(error, (TaskTimeout, asyncio.CancelledError)):
                log.error("a task that nobody waits for any more broke at its end", exc_info=error)
        else:
            if not self.answer.done():
                self.answer.set_result(result)
        finally:
            over()

    async def _fill(self, values: Mapping[str, object]) -> Any:
        self._limit.reschedule(None)  # a thread has its own timer, which waits for it to begin
        ended = asyncio.Event()
        call = partial(self._call, values)
        try:
            return await thread_within(self._threads, call, self._timeout_ms, ended.set, self._clock)
        except TaskTimeout as error:
            if not ended.is_set():
                self._fail(error)
                await ended.wait()
            raise
        finally:
            if self._timeout_ms is not None:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._timeout_ms / 1000)

    def _fail(self, error: BaseException) -> bool:
        """Have the task fail, unless there is an answer already; tell which."""
        if self.answer.done():
            return False
        self.answer.set_exception(error)
        return True
