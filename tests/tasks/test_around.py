"""Hooks around executions: their order, where they run, and what they can and cannot change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import orjson
import pytest

from qtasks import Context, Reject, current
from qtasks.clock import SystemClock
from qtasks.errors import TaskDefinitionError
from tests.support.tasks import Workshop, error_of

SOON_S = 10
SHORT_MS = 30
KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine"])
TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def define(shop: Workshop, kind: str, body: Callable[[], Any], **options: Any) -> None:
    """Register `note`, a plain function or a coroutine function of this body."""

    def plain() -> Any:
        return body()

    async def coroutine() -> Any:
        return body()

    shop.task(plain if kind == "plain" else coroutine, "note", **options)


def plain_hook(shop: Workshop, name: str) -> None:
    @shop.around.add
    def hook(context: Context) -> Iterator[None]:
        shop.ran.append(f"{name} begins")
        try:
            yield
        finally:
            shop.ran.append(f"{name} ends")


def async_hook(shop: Workshop, name: str) -> None:
    @shop.around.add
    async def hook(context: Context) -> AsyncIterator[None]:
        shop.ran.append(f"{name} begins")
        await asyncio.sleep(0)
        try:
            yield
        finally:
            shop.ran.append(f"{name} ends")


async def ended(shop: Workshop, **changes: Any) -> Any:
    """Run the task, and give its answer."""
    async with asyncio.timeout(SOON_S):
        return await shop.run("note", **changes)


# --- order and place --------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("hook", [plain_hook, async_hook])
async def test_hooks_go_around_each_other_in_order_of_registration(
    shop: Workshop, kind: str, hook: Callable[[Workshop, str], None]
) -> None:
    hook(shop, "first")
    hook(shop, "second")
    define(shop, kind, lambda: shop.ran.append("task"))

    answer = await ended(shop)

    assert answer.status == 200
    assert shop.ran == ["first begins", "second begins", "task", "second ends", "first ends"]


async def test_plain_and_async_hooks_of_a_coroutine_keep_their_order(shop: Workshop) -> None:
    plain_hook(shop, "first")
    async_hook(shop, "second")
    define(shop, "coroutine", lambda: shop.ran.append("task"))

    await ended(shop)

    assert shop.ran == ["first begins", "second begins", "task", "second ends", "first ends"]


async def test_async_hooks_go_around_the_plain_ones_of_a_plain_function(shop: Workshop) -> None:
    plain_hook(shop, "plain")
    async_hook(shop, "async")
    define(shop, "plain", lambda: shop.ran.append("task"))

    await ended(shop)

    assert shop.ran == ["async begins", "plain begins", "task", "plain ends", "async ends"]


@KINDS
async def test_a_plain_hook_runs_on_the_thread_of_the_task(shop: Workshop, kind: str) -> None:
    @shop.around.add
    def hook(context: Context) -> Iterator[None]:
        shop.ran.append(threading.get_ident())
        yield
        shop.ran.append(threading.get_ident())

    define(shop, kind, lambda: shop.ran.append(threading.get_ident()))

    await ended(shop)

    assert len(set(shop.ran)) == 1
    assert (shop.ran[0] == threading.get_ident()) == (kind == "coroutine")


@KINDS
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_a_hook_sets_in_its_context_reaches_the_task(
    shop: Workshop, kind: str, is_async: bool
) -> None:
    def plain(context: Context) -> Iterator[None]:
        token = TENANT.set("acme")
        yield
        TENANT.reset(token)

    async def coroutine(context: Context) -> AsyncIterator[None]:
        token = TENANT.set("acme")
        yield
        TENANT.reset(token)

    shop.around.add(coroutine) if is_async else shop.around.add(plain)
    define(shop, kind, TENANT.get)

    assert orjson.loads((await ended(shop)).body) == "acme"
    assert TENANT.get() == "nobody"


@KINDS
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_is_given_the_context_of_the_task(shop: Workshop, kind: str, is_async: bool) -> None:
    def note(context: Context) -> None:
        shop.ran.append((context.task, context.task_id, context.attempt, current() is context))

    def plain(context: Context) -> Iterator[None]:
        note(context)
        yield
        note(current())

    async def coroutine(context: Context) -> AsyncIterator[None]:
        note(context)
        yield
        note(current())

    shop.around.add(coroutine) if is_async else shop.around.add(plain)
    define(shop, kind, lambda: None)

    await ended(shop)

    assert shop.ran == [("note", "tsk_1", 1, True)] * 2


async def test_a_hook_that_is_added_late_is_entered_from_then_on(shop: Workshop) -> None:
    define(shop, "plain", lambda: shop.ran.append("task"))

    await ended(shop)
    plain_hook(shop, "late")
    await ended(shop)

    assert shop.ran == ["task", "late begins", "task", "late ends"]


# --- errors -----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("is_async", [False, True])
async def test_the_error_of_a_task_is_raised_in_the_hook(shop: Workshop, kind: str, is_async: bool) -> None:
    error = ValueError("broken")

    def plain(context: Context) -> Iterator[None]:
        try:
            yield
        except ValueError as caught:
            shop.ran.append(caught)
            raise

    async def coroutine(context: Context) -> AsyncIterator[None]:
        try:
            yield
        except ValueError as caught:
            shop.ran.append(caught)
            raise

    shop.around.add(coroutine) if is_async else shop.around.add(plain)
    define(shop, kind, lambda: _throw(error))

    answer = await ended(shop)

    assert (answer.status, error_of(answer)["message"]) == (500, "broken")
    assert shop.ran == [error]


@KINDS
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_that_swallows_an_error_has_not_undone_it(
    shop: Workshop, kind: str, is_async: bool
) -> None:
    def plain(context: Context) -> Iterator[None]:
        try:
            yield
        except ValueError:
            pass

    async def coroutine(context: Context) -> AsyncIterator[None]:
        try:
            yield
        except ValueError:
            pass

    shop.around.add(coroutine) if is_async else shop.around.add(plain)
    define(shop, kind, lambda: _throw(ValueError("broken")))

    answer = await ended(shop)

    assert (answer.status, error_of(answer)["type"]) == (500, "ValueError")
    assert "in plain" in error_of(answer)["traceback"] or "in coroutine" in error_of(answer)["traceback"]


@KINDS
async def test_a_hook_may_raise_another_error_which_counts(shop: Workshop, kind: str) -> None:
    @shop.around.add
    def hook(context: Context) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise Reject("the partner has closed the account") from error

    define(shop, kind, lambda: _throw(ValueError("410")))

    answer = await ended(shop)

    assert (answer.status, error_of(answer)["message"]) == (489, "the partner has closed the account")


@KINDS
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_error_before_the_yield_is_the_task_s_which_does_not_begin(
    shop: Workshop, kind: str, is_async: bool
) -> None:
    def plain(context: Context) -> Iterator[None]:
        if context.attempt:
            raise PermissionError("who is this?")
        yield

    async def coroutine(context: Context) -> AsyncIterator[None]:
        if context.attempt:
            raise PermissionError("who is this?")
        yield

    plain_hook(shop, "outer")
    shop.around.add(coroutine) if is_async else shop.around.add(plain)
    define(shop, kind, lambda: shop.ran.append("task"))

    answer = await ended(shop)

    assert (answer.status, error_of(answer)["type"]) == (500, "PermissionError")
    assert "task" not in shop.ran
    assert shop.executor.running == 0


@KINDS
async def test_a_hook_without_a_yield_is_an_error_that_says_so(shop: Workshop, kind: str) -> None:
    @shop.around.add
    def hook(context: Context) -> Iterator[None]:
        if shop.ran:
            yield

    define(shop, kind, lambda: None)

    assert error_of(await ended(shop))["message"] == "generator didn't yield"


@KINDS
async def test_an_error_after_the_yield_is_the_task_s(shop: Workshop, kind: str) -> None:
    @shop.around.add
    def hook(context: Context) -> Iterator[None]:
        yield
        raise RuntimeError("cannot commit")

    define(shop, kind, lambda: 7)

    answer = await ended(shop)

    assert (answer.status, error_of(answer)["message"]) == (500, "cannot commit")


# --- time -------------------------------------------------------------------------------------------


@KINDS
async def test_an_async_hook_that_hangs_is_given_up_with_the_task_s_timeout(
    shop: Workshop, kind: str
) -> None:
    @shop.around.add
    async def hook(context: Context) -> AsyncIterator[None]:
        await asyncio.sleep(SOON_S)
        yield

    define(shop, kind, lambda: shop.ran.append("task"))

    answer = await ended(shop, timeout_ms=SHORT_MS)

    assert (answer.status, error_of(answer)["type"]) == (504, "TimeoutError")
    assert shop.ran == []
    assert shop.executor.running == 0


@KINDS
async def test_an_async_hook_that_hangs_after_the_task_is_given_up_too(shop: Workshop, kind: str) -> None:
    @shop.around.add
    async def hook(context: Context) -> AsyncIterator[None]:
        yield
        await asyncio.sleep(SOON_S)

    define(shop, kind, lambda: shop.ran.append("task"))

    answer = await ended(shop, timeout_ms=SHORT_MS)

    assert (answer.status, error_of(answer)["type"]) == (504, "TimeoutError")
    assert shop.ran == ["task"]


async def test_an_async_hook_learns_that_a_function_was_given_up() -> None:
    shop = Workshop(clock=SystemClock())
    is_over = threading.Event()

    @shop.around.add
    async def hook(context: Context) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:
            shop.ran.append(str(error).partition(";")[0])
            raise

    define(shop, "plain", lambda: is_over.wait(SOON_S))

    answer = await ended(shop, timeout_ms=SHORT_MS)
    is_over.set()

    assert answer.status == 504
    assert shop.ran == ["the task did not finish within 0.03 s"]


# --- what is no hook --------------------------------------------------------------------------------


def _no_generator(context: Context) -> None: ...


async def _no_async_generator(context: Context) -> None: ...


@contextmanager
def _made_already(context: Context) -> Iterator[None]:
    yield


def _takes_nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("hook", [_no_generator, _no_async_generator, _made_already])
def test_what_is_no_generator_function_is_refused(shop: Workshop, hook: Any) -> None:
    with pytest.raises(TaskDefinitionError) as raised:
        shop.around.add(hook)

    assert str(raised.value) == (
        f"around: {hook.__name__} is no generator function; write def {hook.__name__}(context): "
        "... yield ..., async or not, and without @contextmanager"
    )


def test_a_hook_that_does_not_take_the_context_is_refused(shop: Workshop) -> None:
    hook: Any = _takes_nothing

    with pytest.raises(TaskDefinitionError, match="around: _takes_nothing must take the context of the task"):
        shop.around.add(hook)


def _throw(error: BaseException) -> None:
    raise error
