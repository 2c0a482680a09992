"""Many calls at once: `delay_many`, `collect` blocks, and calls of tasks that are defined elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest

from qtasks import (
    ArgumentsError,
    AsyncResult,
    EncodeError,
    QTasks,
    Queue,
    RequestError,
    TaskFailed,
)
from qtasks.client import calls
from qtasks.tasks.many import BATCH
from tests.support.homes import SOON_S, ask_owner, embedded

MANY = 2 * BATCH + 7


@pytest.fixture
async def app(store: Path) -> AsyncIterator[QTasks]:
    """An app that runs, on the loop of the test."""
    tasks = embedded(store)
    async with tasks.lifespan():
        yield tasks


def waiting_in(store: Path, queue: str = "default") -> int:
    """Say how many messages wait in a queue of a running app."""
    return {each.name: each.lag for each in ask_owner(store, calls.queues())}.get(queue, 0)


# --- delay_many -------------------------------------------------------------------------------------


async def test_many_calls_give_a_handle_each_in_their_order(app: QTasks) -> None:
    @app.task
    async def double(number: int, *, plus: int = 0) -> int:
        return 2 * number + plus

    results = await asyncio.to_thread(
        lambda: double.delay_many(double.call(n, plus=n % 2) for n in range(MANY))
    )

    assert len({each.id for each in results}) == MANY
    assert [await each.aget(SOON_S) for each in results] == [2 * n + n % 2 for n in range(MANY)]


async def test_many_calls_are_sent_without_blocking_the_loop(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    results = await double.adelay_many([double.call(n) for n in range(3)])

    assert [await each.aget(SOON_S) for each in results] == [0, 2, 4]


async def test_no_calls_are_no_handles(app: QTasks, store: Path) -> None:
    @app.task
    async def nothing() -> None: ...

    assert nothing.delay_many([]) == []
    assert await nothing.adelay_many(iter(())) == []
    assert ask_owner(store, calls.log()).items == []


async def test_many_calls_in_an_ordered_queue_run_in_their_order(store: Path) -> None:
    tasks = embedded(store, queues={"books": Queue(ordered=True)})
    runs: list[int] = []

    @tasks.task
    async def book(number: int) -> None:
        runs.append(number)

    async with tasks.lifespan():
        results = book.with_options(queue="books").delay_many(book.call(n) for n in range(50))
        await results[-1].aget(SOON_S)

    assert runs == list(range(50))


async def test_a_guest_s_many_calls_reach_the_owner(app: QTasks, store: Path) -> None:
    @app.task(name="double")
    async def double(number: int) -> int:
        return 2 * number

    guest = embedded(store)

    @guest.task(name="double")
    async def twin(number: int) -> int:
        raise AssertionError(number)

    results = await asyncio.to_thread(lambda: twin.delay_many(twin.call(n) for n in range(250)))

    assert [await app.result(each.id).aget(SOON_S) for each in results] == [2 * n for n in range(250)]


def test_many_calls_without_an_owner_wait_for_one(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def double(number: int) -> int:
        return 2 * number

    results = double.delay_many(double.call(n) for n in range(3))

    assert [each.state for each in results] == ["QUEUED"] * 3


def test_a_call_that_does_not_fit_is_refused_when_it_is_made(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task
    async def double(number: int) -> int:
        return 2 * number

    with pytest.raises(ArgumentsError, match=r"missing.*'number'"):
        double.call()  # type: ignore[call-arg]  # refused
    with pytest.raises(EncodeError, match="number: expected int, got str"):
        double.call("1")  # type: ignore[arg-type]  # refused

    assert not store.exists()


async def test_a_call_keeps_the_arguments_as_they_were(app: QTasks) -> None:
    @app.task
    async def count(items: list[int]) -> int:
        return len(items)

    items = [1, 2]
    call = count.call(items)
    items.append(3)
    [result] = count.delay_many([call])

    assert await result.aget(SOON_S) == 2


async def test_one_call_that_is_given_twice_is_two_calls(app: QTasks) -> None:
    runs: list[int] = []

    @app.task
    async def note(number: int) -> None:
        runs.append(number)

    call = note.call(1)
    results = note.delay_many([call, call])
    for each in results:
        await each.aget(SOON_S)

    assert runs == [1, 1]


def test_calls_of_another_task_are_refused(store: Path) -> None:
    tasks = embedded(store)

    @tasks.task(name="a")
    async def one(number: int) -> None: ...

    @tasks.task(name="b")
    async def two(number: int) -> None: ...

    with pytest.raises(
        ArgumentsError, match=r"a\.delay_many takes calls of its own task, not TaskCall\(.*'b'"
    ):
        one.delay_many([two.call(1)])
    with pytest.raises(ArgumentsError, match=r"a\.delay_many takes calls of its own task, not \(1,\)"):
        one.delay_many([(1,)])  # type: ignore[list-item]  # refused

    assert not store.exists()


async def test_an_error_on_the_way_says_how_many_calls_are_enqueued(app: QTasks, store: Path) -> None:
    @app.task
    async def note(number: int) -> None: ...

    ask_owner(store, calls.set_queue("default", paused=True))

    with pytest.raises(ZeroDivisionError) as caught:
        note.delay_many(note.call(1 // (BATCH + 3 - n)) for n in range(MANY))

    assert caught.value.__notes__ == [f"{BATCH} calls had been enqueued before"]
    assert waiting_in(store) == BATCH


async def test_a_batch_that_the_broker_refuses_is_not_stored(app: QTasks, store: Path) -> None:
    @app.task
    async def note(text: str) -> None: ...

    ask_owner(store, calls.set_queue("default", paused=True))
    too_large = "x" * (11 * 1024 * 1024)

    with pytest.raises(RequestError, match=r"message 1: quota maxMessageSize exceeded"):
        note.delay_many(note.call(each) for each in ("a", too_large, "b"))

    assert waiting_in(store) == 0


# --- collect ----------------------------------------------------------------------------------------


async def test_the_calls_of_a_block_are_sent_at_its_end(app: QTasks, store: Path) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    results: list[AsyncResult[int]] = []
    with app.collect():
        results += [double.delay(1), await double.adelay(2), double.apply_async([3])]
        results += double.delay_many(double.call(n) for n in (4, 5))
        results += [app.send(double.name, 6)]
        before = ask_owner(store, calls.log()).items

    assert before == []
    assert [await each.aget(SOON_S) for each in results] == [2, 4, 6, 8, 10, 12]


async def test_an_async_block_is_sent_without_blocking_the_loop(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    async with app.collect():
        results = await asyncio.gather(*(double.adelay(n) for n in range(5)))
        state = results[0].state

    assert state == "UNKNOWN"
    assert [await each.aget(SOON_S) for each in results] == [0, 2, 4, 6, 8]


async def test_a_block_that_raises_sends_nothing(app: QTasks, store: Path) -> None:
    @app.task
    async def note() -> None: ...

    def fail() -> None:
        with app.collect():
            note.delay()
            raise KeyError("x")

    async def afail() -> None:
        async with app.collect():
            await note.adelay()
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(KeyError):
        await afail()
    result = note.delay()

    await result.aget(SOON_S)
    assert len({each.message_id for each in ask_owner(store, calls.log()).items}) == 1


async def test_a_block_in_a_block_hands_its_calls_on(app: QTasks, store: Path) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    lost: list[AsyncResult[int]] = []

    def fail() -> None:
        with app.collect():
            lost.append(double.delay(2))
            raise KeyError("x")

    with app.collect():
        with app.collect():
            inner = double.delay(1)
        between = ask_owner(store, calls.log()).items
        with pytest.raises(KeyError):
            fail()

    assert between == []
    assert await inner.aget(SOON_S) == 2
    assert lost[0].state == "UNKNOWN"


async def test_a_block_gathers_the_calls_of_its_own_app_alone(app: QTasks, store: Path) -> None:
    other = embedded(store.with_name("other.db"))

    @other.task
    async def note() -> None: ...

    with app.collect():
        result = note.delay()
        state = result.state

    assert state == "QUEUED"


async def test_what_a_block_has_started_is_sent_at_once_after_its_end(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    is_over = asyncio.Event()

    async def later() -> AsyncResult[int]:
        await is_over.wait()
        return await double.adelay(1)

    with app.collect():
        started = asyncio.create_task(later())
        await asyncio.sleep(0)
    is_over.set()

    assert await (await started).aget(SOON_S) == 2


async def test_calls_of_a_thread_belong_to_the_block_that_waits_for_it(app: QTasks, store: Path) -> None:
    @app.task
    def double(number: int) -> int:
        return 2 * number

    async with app.collect():
        result = await asyncio.to_thread(double.delay, 4)
        before = ask_owner(store, calls.log()).items

    assert before == []
    assert await result.aget(SOON_S) == 8


async def test_a_block_that_is_left_on_another_thread_sends_what_it_has(app: QTasks) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    block = app.collect()

    def enter() -> AsyncResult[int]:
        block.__enter__()
        return double.delay(1)

    inside = await asyncio.to_thread(enter)
    before = inside.state
    await asyncio.to_thread(block.__exit__, None, None, None)

    assert before == "UNKNOWN"
    assert await inside.aget(SOON_S) == 2


async def test_an_open_block_is_not_opened_again(app: QTasks) -> None:
    block = app.collect()

    with block, pytest.raises(RuntimeError, match=r"open already; call collect\(\) again"):
        block.__enter__()
    with block:
        pass


# --- elsewhere --------------------------------------------------------------------------------------


async def test_a_task_that_is_defined_elsewhere_is_called_by_name(app: QTasks, store: Path) -> None:
    @app.task(name="shop.greet")
    async def greet(name: str, *, on: date) -> str:
        return f"{name} {on:%A}"

    shop = embedded(store)
    first = await asyncio.to_thread(lambda: shop.send("shop.greet", "Ada", on="2026-11-26"))
    second = await shop.asend("shop.greet", "Bob", on="2026-11-27")

    assert await app.result(first.id).aget(SOON_S) == "Ada Thursday"
    assert await app.result(second.id).aget(SOON_S) == "Bob Friday"


async def test_a_task_that_is_defined_here_after_all_keeps_its_options(app: QTasks, store: Path) -> None:
    @app.task(name="mail", queue="mail", retries=7)
    async def mail(at: date) -> None: ...

    ask_owner(store, calls.set_queue("mail", paused=True))
    app.send("mail", "2026-11-26")

    [entry] = ask_owner(store, calls.log()).items
    assert (entry.queue_name, entry.max_retries) == ("mail", 7)


async def test_a_task_elsewhere_goes_where_the_app_s_defaults_say(store: Path) -> None:
    tasks = embedded(store, defaults={"queue": "usual", "retries": 1})

    async with tasks.lifespan():
        ask_owner(store, calls.set_queue("usual", paused=True))
        tasks.send("unknown.here")
        [entry] = ask_owner(store, calls.log()).items

    assert (entry.queue_name, entry.max_retries) == ("usual", 1)


async def test_arguments_that_do_not_fit_elsewhere_are_a_dead_letter(app: QTasks) -> None:
    @app.task(name="count")
    async def count(items: list[int]) -> int:
        return len(items)

    with pytest.raises(TaskFailed, match=r"DecodeError.*items\[1\]"):
        await app.send("count", [1, "two"]).aget(SOON_S)


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((date(2026, 1, 1),), {}, r"args\[0\]"),
        ((1, {"a": [b"x"]}), {}, r"args\[1\]\.values\(\)\[0\]\[0\]"),
        ((), {"when": {1}}, "when"),
    ],
)
def test_what_is_not_plain_json_cannot_be_sent_elsewhere(
    store: Path, args: tuple[object, ...], kwargs: dict[str, object], path: str
) -> None:
    with pytest.raises(EncodeError, match=path):
        embedded(store).send("shop.greet", *args, **kwargs)

    assert not store.exists()


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", 5])
def test_a_name_that_no_task_can_bear_is_refused(store: Path, name: str) -> None:
    with pytest.raises(ArgumentsError, match="a task is named by a text"):
        embedded(store).send(name)
