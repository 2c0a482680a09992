"""What every `Database` owes: transactions, group commit, snapshots, wake-ups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from qtasks.broker.store import messages, queues
from qtasks.broker.store.changes import Errand
from qtasks.broker.store.database import Database, Session
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.errors import StoreError
from tests.support.homes import until
from tests.support.store import Verbs

SOON_S = 10
THREADS = 8
SHARED = ["sqlite"]  # the databases in which one thread can work while another does
ON_DISK = ["sqlite", "postgres"]


WAITS: list[asyncio.Future[bool]] = []


@pytest.fixture(autouse=True)
async def end_waits() -> AsyncIterator[None]:
    """End the waits for changes that a test has left."""
    yield
    for each in WAITS:
        each.cancel()
    WAITS.clear()


def spawn(function: Callable[[], Any]) -> Future[Any]:
    """Call a function on a thread of its own."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def run_together(database: Database, works: Sequence[Callable[[Session], Any]]) -> list[Future[Any]]:
    """Run works that all wait for the same transaction to end, so that they may share a commit."""
    is_inside, may_end = threading.Event(), threading.Event()

    def hold(_: Session) -> None:
        is_inside.set()
        assert may_end.wait(SOON_S)

    holder = spawn(lambda: database.run(hold))
    assert is_inside.wait(SOON_S)
    futures = [spawn(partial(database.run, work)) for work in works]
    with pytest.raises(TimeoutError):  # none can end before the holder; meanwhile they line up
        futures[-1].result(0.05)
    may_end.set()
    holder.result(SOON_S)
    return futures


def make_queue(name: str) -> Callable[[Session], str]:
    """Give a work that has an effect which can be looked for."""

    def work(session: Session) -> str:
        queues.upsert(session, name, 1, None, 1)
        return name

    return work


def announce_queue(name: str) -> Callable[[Session], None]:
    """Give a work that has an effect and wakes the dispatcher."""

    def work(session: Session) -> None:
        queues.upsert(session, name, 1, None, 1)
        session.announce()

    return work


def names(database: Database) -> set[str]:
    """Give the names of all queues."""
    return {each.name for each in database.look(queues.views)}


def test_a_work_gives_its_result(database: Database) -> None:
    assert database.run(make_queue("mail")) == "mail"


def test_a_failing_work_raises_its_error_in_its_caller_and_leaves_nothing(database: Database) -> None:
    def work(session: Session) -> None:
        make_queue("mail")(session)
        raise LookupError("no such order")

    with pytest.raises(LookupError, match="no such order"):
        database.run(work)

    assert names(database) == set()


def test_a_failing_work_leaves_the_effects_of_those_that_share_its_commit(database: Database) -> None:
    def fails(session: Session) -> None:
        make_queue("lost")(session)
        raise LookupError("no such order")

    first, second, third = run_together(database, [make_queue("a"), fails, make_queue("b")])

    assert (first.result(SOON_S), third.result(SOON_S)) == ("a", "b")
    assert isinstance(second.exception(SOON_S), LookupError)
    assert names(database) == {"a", "b"}


def test_a_mistake_in_a_query_fails_its_caller_alone(database: Database) -> None:
    first, second, third = run_together(
        database, [make_queue("a"), lambda session: session.run("queue_turn", {}), make_queue("b")]
    )

    assert second.exception(SOON_S) is not None
    assert (first.result(SOON_S), third.result(SOON_S)) == ("a", "b")
    assert names(database) == {"a", "b"}


def test_works_that_share_a_commit_each_get_their_own_result(database: Database) -> None:
    futures = run_together(database, [make_queue(f"q{n}") for n in range(20)])

    assert [each.result(SOON_S) for each in futures] == [f"q{n}" for n in range(20)]


def test_works_of_many_threads_lose_nothing(store: Verbs) -> None:
    def enqueue_some() -> list[str]:
        return [store.enqueue(queue=f"q{n % 3}") for n in range(25)]

    futures = [spawn(enqueue_some) for _ in range(THREADS)]
    ids = [each for future in futures for each in future.result(SOON_S)]

    assert len(set(ids)) == THREADS * 25
    assert {each.message_id for each in store.log()} == set(ids)
    assert sum(store.queue(f"q{n}").lag for n in range(3)) == THREADS * 25


def test_what_one_thread_enqueues_in_turn_keeps_its_order(store: Verbs) -> None:
    def enqueue_some(name: str) -> None:
        for number in range(20):
            store.enqueue(b"%d" % number, queue=name, parallelism=100)

    for future in [spawn(partial(enqueue_some, f"q{n}")) for n in range(THREADS)]:
        future.result(SOON_S)

    claims = store.claim(1000)
    for n in range(THREADS):
        numbers = [int(each.body) for each in claims if each.queue == f"q{n}"]
        assert numbers == list(range(20))


@pytest.mark.parametrize("database", SHARED, indirect=True)
def test_a_look_sees_one_snapshot_whatever_is_committed_meanwhile(store: Verbs) -> None:
    store.enqueue()

    def look(session: Session) -> tuple[int, int]:
        before = queues.views(session, "mail")[0].lag
        spawn(store.enqueue).result(SOON_S)
        return before, queues.views(session, "mail")[0].lag

    assert store.database.look(look) == (1, 1)
    assert store.queue("mail").lag == 2


def test_a_look_sees_what_was_committed_before_it(store: Verbs) -> None:
    message_id = store.enqueue()

    assert store.is_stored(message_id)


@pytest.mark.parametrize("database", SHARED, indirect=True)
def test_a_look_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError):
        database.look(make_queue("mail"))

    assert names(database) == set()


def test_a_failing_look_does_not_spoil_the_next(store: Verbs) -> None:
    def fails(_: Session) -> None:
        raise LookupError("no such order")

    for _ in range(5):
        with pytest.raises(LookupError):
            store.database.look(fails)

    store.enqueue()
    assert store.queue("mail").lag == 1


async def test_writing_and_reading_off_the_loop_do_the_same(database: Database) -> None:
    written = await database.write(make_queue("mail"))
    read = await database.read(queues.views)

    assert (written, [each.name for each in read]) == ("mail", ["mail"])


@pytest.mark.parametrize("database", SHARED, indirect=True)
async def test_writing_leaves_the_loop_free(database: Database) -> None:
    may_end = threading.Event()
    writing = asyncio.ensure_future(database.write(lambda _: may_end.wait(SOON_S)))

    asyncio.get_running_loop().call_soon(may_end.set)

    assert await writing is True


async def test_a_commit_that_announces_wakes_who_waits_for_changes(database: Database) -> None:
    waiting = asyncio.ensure_future(database.changed(60_000))
    await asyncio.sleep(0)

    await database.write(lambda session: session.announce())

    async with asyncio.timeout(SOON_S):
        assert await waiting


async def test_a_change_that_came_before_the_wait_is_not_missed(database: Database) -> None:
    await database.write(lambda session: session.announce())

    async with asyncio.timeout(SOON_S):
        assert await database.changed(60_000)


async def test_who_is_woken_is_not_told_of_changes_that_nobody_made(database: Database) -> None:
    await hearing(database)
    wake = asyncio.Event()
    asyncio.get_running_loop().call_soon(wake.set)

    async with asyncio.timeout(SOON_S):
        assert not await database.changed(60_000, None, wake)


async def test_a_change_is_told_once(database: Database) -> None:
    await hearing(database)
    await database.write(lambda session: session.announce())

    assert await database.changed(60_000)
    assert not await database.changed(200)


async def test_a_change_that_meets_a_cancelled_wait_is_not_missed(database: Database) -> None:
    waiting = asyncio.ensure_future(database.changed(60_000))
    await asyncio.sleep(0)

    waiting.cancel()
    database.run(lambda session: session.announce())
    await asyncio.gather(waiting, return_exceptions=True)

    async with asyncio.timeout(SOON_S):
        await database.changed(60_000)


async def test_what_is_written_in_one_turn_of_a_loop_is_all_done_and_what_fails_fails_alone(
    database: Database,
) -> None:
    def refuse(session: Session) -> None:
        make_queue("refused")(session)
        raise LookupError

    works: list[Callable[[Session], Any]] = [make_queue(f"q{n}") for n in range(300)]  # more than a group
    ends = await asyncio.gather(*(database.write(each) for each in [*works, refuse]), return_exceptions=True)

    assert ends[:-1] == [f"q{n}" for n in range(300)]
    assert isinstance(ends[-1], LookupError)
    assert names(database) == {f"q{n}" for n in range(300)}


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_a_write_that_is_given_up_before_its_turn_is_not_done(database: Database) -> None:
    writing = asyncio.ensure_future(database.write(make_queue("mail")))
    await asyncio.sleep(0)

    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await database.write(make_queue("after"))

    assert names(database) == {"after"}


async def test_enqueuing_wakes_who_waits_for_changes(store: Verbs) -> None:
    waiting = asyncio.ensure_future(store.database.changed(60_000))
    await asyncio.sleep(0)

    await store.database.write(
        lambda session: messages.enqueue(session, [store.message()], store.clock.now())
    )

    async with asyncio.timeout(SOON_S):
        await waiting


async def hearing(database: Database) -> None:
    """Have a database hear of others: who begins to is told at once."""
    if isinstance(database, PostgresDatabase):
        await until(lambda: database.presence.is_hearing)
        await database.changed(1000)


async def errand_of(
    database: Database, work: Callable[[Session], Any], then: Callable[[Any], None] = lambda result: None
) -> Errand[Any]:
    """Leave an errand with a wait for changes, which ends with the test."""
    await hearing(database)
    errand = Errand(lambda session, arrival: work(session), then)
    WAITS.append(asyncio.ensure_future(database.changed(60_000, errand)))
    await asyncio.sleep(0)
    return errand


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_an_errand_is_done_in_the_transaction_that_announces(database: Database) -> None:
    errand = await errand_of(database, lambda session: queues.views(session, "new"))

    await database.write(announce_queue("new"))

    assert not errand.withdraw()
    async with asyncio.timeout(SOON_S):
        assert [each.name for each in await errand.outcome()] == ["new"]
        await WAITS.pop()


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_what_follows_an_errand_hears_of_it_once_it_is_committed(database: Database) -> None:
    heard: list[tuple[object, set[str]]] = []

    def follow(result: object) -> None:
        heard.append((result, names(database)))
        raise LookupError("it spoils nothing")

    errand = await errand_of(database, make_queue("errand"), follow)

    await database.write(announce_queue("new"))

    assert await errand.outcome() == "errand"
    assert heard == [("errand", {"errand", "new"})]


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_an_errand_is_not_done_by_who_announces_nothing(database: Database) -> None:
    errand = await errand_of(database, lambda session: None)

    await database.write(lambda session: None)

    assert errand.withdraw()


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_an_errand_that_was_withdrawn_is_not_done(database: Database) -> None:
    errand = await errand_of(database, announce_queue("unwanted"))

    assert errand.withdraw()
    await database.write(announce_queue("wanted"))

    assert [each.name for each in database.look(queues.views)] == ["wanted"]


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_an_errand_that_fails_spoils_nothing_but_itself(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(session: Session) -> None:
        queues.upsert(session, "half", 1, None, 0)
        raise ZeroDivisionError

    errand = await errand_of(database, break_down)

    await database.write(announce_queue("whole"))

    assert not errand.withdraw()
    with pytest.raises((StoreError, ZeroDivisionError)):
        await errand.outcome()
    assert [each.name for each in database.look(queues.views)] == ["whole"]
    assert "what was to be done along failed" in caplog.text
    async with asyncio.timeout(SOON_S):
        await WAITS.pop()  # and whoever waits finds the news by himself


@pytest.mark.parametrize("database", ON_DISK, indirect=True)
async def test_an_errand_stands_on_after_a_work_that_failed(database: Database) -> None:
    errand = await errand_of(database, lambda session: None)

    def announce_and_fail(session: Session) -> None:
        session.announce()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(announce_and_fail)

    assert errand.withdraw()


async def test_a_wait_for_changes_ends_by_itself(database: Database) -> None:
    await hearing(database)
    async with asyncio.timeout(SOON_S):
        assert not await database.changed(1)
