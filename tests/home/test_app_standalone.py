"""An app whose broker is a process of its own, or nearly: calls, options and contexts over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from qtasks import Context, QTasks, Queue, TaskFailed
from qtasks.broker.http_delivery import QUICK_NS
from qtasks.broker.pace import MEMORY
from qtasks.protocol.batches import read_deliveries
from qtasks.tasks.envelope import unpack
from tests.support import BATCH, every_home
from tests.support.every_home import Mount, in_standalone
from tests.support.homes import SOON_S


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    async with in_standalone(store) as tasks:
        yield tasks


async def test_many_calls_over_http_give_a_handle_each_in_their_order(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    results = await double.adelay_many(double.call(n) for n in range(120))

    assert [await each.aget(SOON_S) for each in results] == [2 * n for n in range(120)]


async def test_many_calls_over_http_in_an_ordered_queue_run_in_their_order(store: Path) -> None:
    runs: list[int] = []
    async with in_standalone(store, queues={"books": Queue(ordered=True)}) as tasks:

        @tasks.task(queue="books")
        async def book(number: int) -> None:
            runs.append(number)

        await book.adelay_many(book.call(n) for n in range(450))
        async with tasks.buffered(size=250) as buffer:
            calls = [buffer.delay(book, n) for n in range(450, 900)]
        await calls[-1].result().aget(SOON_S)

    assert runs == list(range(900))


async def test_a_block_over_http_is_sent_at_its_end(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    async with app.collect():
        first, second = await double.adelay(1), await app.asend(double.name, 2)
        state = (await app._home.aresult(first.id)).state

    assert state == "UNKNOWN"
    assert [await first.aget(SOON_S), await second.aget(SOON_S)] == [2, 4]


async def test_a_context_over_http_is_as_full_as_in_process(app: QTasks) -> None:
    seen: list[Context] = []

    @app.task(bind=True, queue="mail", label=["blue", "tall"], aliases=["old"])
    async def note(context: Context) -> None:
        seen.append(context)
        if not context.retried:
            context.retry(countdown=0)

    result = await app.asend("old")
    await result.aget(SOON_S)

    assert [(each.attempt, each.queue, each.task_id) for each in seen] == [
        (1, "mail", result.id),
        (2, "mail", result.id),
    ]
    assert seen[0].message_id == seen[1].message_id != ""
    assert seen[0].remaining() > 200


async def test_an_exception_that_is_not_retried_is_a_dead_letter_over_http(app: QTasks) -> None:
    runs: list[int] = []

    @app.task(no_retry_on=ValueError, retry_delay=0.01)
    async def fail() -> None:
        runs.append(1)
        raise ValueError("bad")

    with pytest.raises(TaskFailed, match="ValueError: bad"):
        await (await fail.adelay()).aget(SOON_S)

    assert runs == [1]


async def test_calls_share_requests_once_they_were_quick_if_this_run_has_batches(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []

    class Recorder(Mount):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            paths.append(scope["path"])
            await super().__call__(scope, receive, send)

    monkeypatch.setattr(every_home, "Mount", Recorder)
    monkeypatch.setattr("qtasks.broker.http_delivery.stopwatch_ns", lambda: 0)
    async with in_standalone(store) as tasks:

        @tasks.task
        async def double(number: int) -> int:
            return 2 * number

        for _ in range(2):
            for each in await double.adelay_many(double.call(n) for n in range(2 * MEMORY)):
                await each.aget(SOON_S)

    assert any(path.endswith("/run") for path in paths)
    assert any(path.endswith("/batch") for path in paths) == (BATCH > 1)


async def test_a_slow_task_goes_alone_while_quick_ones_of_its_app_share_requests(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns, took_ns = 0, 2 * QUICK_NS
    shared: list[list[str]] = []

    class Recorder(Mount):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            body = b""

            async def listen() -> Message:
                nonlocal body
                message = await receive()
                body += message.get("body", b"")
                return message

            await super().__call__(scope, listen, send)
            if scope["path"].endswith("/batch"):
                shared.append([unpack(each.body).task for each in read_deliveries(body)])

    monkeypatch.setattr(every_home, "Mount", Recorder)
    monkeypatch.setattr("qtasks.broker.http_delivery.stopwatch_ns", lambda: now_ns)
    async with in_standalone(store) as tasks:

        @tasks.task(name="quick")
        async def quick() -> None: ...

        @tasks.task(name="slow")
        async def slow() -> None:
            nonlocal now_ns
            now_ns += took_ns

        for task in (quick, slow):
            for _ in range(2 * MEMORY):
                await (await task.adelay()).aget(SOON_S)
        took_ns = 0  # or the quick ones beside it would seem slow
        async with tasks.collect():
            calls = [await task.adelay() for _ in range(MEMORY // 4) for task in (quick, quick, slow)]
        for each in calls:
            await each.aget(SOON_S)

    assert {name for names in shared for name in names} == ({"quick"} if BATCH > 1 else set())
