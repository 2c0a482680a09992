"""What an app wants around every execution: generator functions, entered in order of registration.

Plain ones run where the task's function does, on its thread or on the loop; async ones on the loop. A
hook's own error is the task's, and one that swallows the task's error has not undone it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from qtasks.errors import TaskDefinitionError
from qtasks.tasks.context import CURRENT, Context
from qtasks.tasks.limits import limited

PlainHook = Callable[[Context], Iterator[Any]]
AsyncHook = Callable[[Context], AsyncIterator[Any]]
AroundHook = TypeVar("AroundHook", bound=PlainHook | AsyncHook)


class Around:
    """The hooks of one app."""

    def __init__(self) -> None:
        self._all: list[tuple[bool, Callable[[Context], Any]]] = []
        self.has_any = False
        self.has_async = False

    def add(self, hook: AroundHook) -> AroundHook:
        """Take a hook in; raises `TaskDefinitionError` if it is none."""
        is_async = inspect.isasyncgenfunction(hook)
        _check(hook, is_async)
        function: Any = hook
        made = asynccontextmanager(function) if is_async else contextmanager(function)
        self._all.append((is_async, made))
        self.has_any = True
        self.has_async = self.has_async or is_async
        return hook

    def call(self, context: Context, function: Callable[[], Any]) -> Any:
        """Call a plain function within the plain hooks, on its thread."""
        error: BaseException | None = None
        with ExitStack() as stack:
            try:
                for is_async, hook in self._all:
                    if not is_async:
                        stack.enter_context(hook(context))
                return function()
            except BaseException as caught:
                error = caught
                raise
        raise _standing(error)

    async def acall(self, context: Context, function: Callable[[], Awaitable[Any]]) -> Any:
        """Await a coroutine function within all hooks."""
        error: BaseException | None = None
        async with AsyncExitStack() as stack:
            try:
                for is_async, hook in self._all:
                    if is_async:
                        await stack.enter_async_context(hook(context))
                    else:
                        stack.enter_context(hook(context))
                return await function()
            except BaseException as caught:
                error = caught
                raise
        raise _standing(error)

    async def acall_outside(
        self,
        context: Context,
        function: Callable[[], Awaitable[Any]],
        timeout_ms: int | None,
        unstarted: Callable[[], None],
    ) -> Any:
        """Await what runs a plain function on a thread within the async hooks, on the loop.

        The function has a time of its own, so what stands before and after it has as much each, or it
        raises `TaskTimeout`. `unstarted` is called if it does not come to the function.
        """
        error: BaseException | None = None
        async with limited(timeout_ms) as limit, AsyncExitStack() as stack:
            stack.callback(CURRENT.reset, CURRENT.set(context))
            try:
                await self._enter_async(stack, context, unstarted)
                limit.reschedule(None)
                return await function()
            except BaseException as caught:
                error = caught
                raise
            finally:
                if timeout_ms is not None and not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time() + timeout_ms / 1000)
        raise _standing(error)

    async def _enter_async(
        self, stack: AsyncExitStack, context: Context, unstarted: Callable[[], None]
    ) -> None:
        try:
            for is_async, hook in self._all:
                if is_async:
                    await stack.enter_async_context(hook(context))
        except BaseException:
            unstarted()
            raise


def _standing(error: BaseException | None) -> BaseException:
    """Give the error that a hook has swallowed: a task cannot succeed without having returned."""
    assert error is not None
    return error


def _check(hook: Any, is_async: bool) -> None:
    what = getattr(hook, "__qualname__", repr(hook))
    if not is_async and not inspect.isgeneratorfunction(hook):
        raise TaskDefinitionError(
            f"around: {what} is no generator function; write def {_name(hook)}(context): ... yield ..., "
            "async or not, and without @contextmanager"
        )
    try:
        inspect.signature(hook).bind(None)
    except TypeError as error:
        raise TaskDefinitionError(
            f"around: {what} must take the context of the task and nothing else: {error}"
        ) from error


def _name(hook: Any) -> str:
    name = getattr(hook, "__name__", "hook")
    return name if name.isidentifier() else "hook"
