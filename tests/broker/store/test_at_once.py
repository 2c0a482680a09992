"""Small works on SQLite are done on the event loop while commits are quick, and make it wait for nobody."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.store import at_once, queues
from qtasks.broker.store.by_turn import LONE_TURNS
from qtasks.broker.store.database import Session
from qtasks.broker.store.group import Ticket
from qtasks.broker.store.sqlite import READERS, SqliteDatabase
from qtasks.errors import BadRequest
from tests.support.homes import until

SLOW_NS, QUICK_NS = 1_000_000_000, 0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "q.db")


@pytest.fixture
def database(path: str) -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(path, durability="relaxed")) as database:
        learn(database, QUICK_NS)
        yield database


def learn(database: SqliteDatabase, ns: int) -> None:
    """Let the commits of a database have taken so long of late."""
    for _ in range(100):
        database._commits.took(ns)


def commits(database: SqliteDatabase) -> list[str]:
    """Collect the commits that are made from now on."""
    made: list[str] = []
    database._writer.set_trace_callback(lambda text: made.append(text) if text == "COMMIT" else None)
    return made


def make_queue(name: str) -> Callable[[Session], int]:
    """Give a work that makes a queue and tells on which thread."""

    def work(session: Session) -> int:
        queues.upsert(session, name, 1, None, 0)
        return threading.get_ident()

    return work


def names(database: SqliteDatabase) -> list[str]:
    return [each.name for each in database.look(queues.views)]


async def test_a_small_work_is_done_on_the_loop(database: SqliteDatabase) -> None:
    assert await database.write(make_queue("a"), is_small=True) == threading.get_ident()
    assert names(database) == ["a"]


async def test_any_other_work_is_done_on_a_thread(database: SqliteDatabase) -> None:
    assert await database.write(make_queue("a")) != threading.get_ident()


async def test_small_works_of_one_turn_share_a_commit(database: SqliteDatabase) -> None:
    made = commits(database)

    await asyncio.gather(*(database.write(make_queue(each), is_small=True) for each in "abc"))

    assert (names(database), made) == (["a", "b", "c"], ["COMMIT"])


async def test_a_work_that_fails_fails_alone(database: SqliteDatabase) -> None:
    def refuse(session: Session) -> None:
        queues.upsert(session, "refused", 1, None, 0)
        raise BadRequest("no")

    works: list[Any] = [make_queue("a"), refuse, make_queue("b")]
    ends = await asyncio.gather(
        *(database.write(each, is_small=True) for each in works), return_exceptions=True
    )

    assert [isinstance(each, BadRequest) for each in ends] == [False, True, False]
    assert names(database) == ["a", "b"]


async def test_a_work_that_was_given_up_before_its_turn_is_not_done(database: SqliteDatabase) -> None:
    writing = asyncio.ensure_future(database.write(make_queue("a"), is_small=True))
    await asyncio.sleep(0)

    writing.cancel()

    await asyncio.gather(writing, return_exceptions=True)
    await asyncio.sleep(0)
    assert names(database) == []


async def test_on_a_slow_disk_all_is_done_on_threads_but_for_a_trial_now_and_then(
    database: SqliteDatabase,
) -> None:
    on_loop = 0
    for _ in range(2 * at_once.TRIED_AGAIN):
        learn(database, SLOW_NS)
        on_loop += await database.write(make_queue("a"), is_small=True) == threading.get_ident()

    assert on_loop == 2


@pytest.mark.parametrize(
    ("commits_ms", "is_quick"),
    [
        ([0.2] * 20, True),
        ([2] * 20, False),
        ([0.2] * 20 + [1000], True),
        ([0.2] * 20 + [5] * 10, False),
        ([5] * 20 + [0.2] * 10, True),
        ([0.2, 0.2, 5] * 20, True),
        ([0.2, 5, 5, 5, 5, 5] * 20, False),
    ],
    ids=["quick", "slow", "stalls once", "turns slow", "turns quick", "some wait", "most are slow"],
)
def test_a_disk_is_quick_if_it_usually_is(commits_ms: list[float], is_quick: bool) -> None:
    learnt = at_once.Commits()
    for each in commits_ms:
        learnt.took(int(each * 1e6))

    assert learnt.are_quick == is_quick


async def test_while_a_thread_writes_the_loop_goes_on(database: SqliteDatabase) -> None:
    entered, may_end = threading.Event(), threading.Event()

    def dwell(session: Session) -> None:
        entered.set()
        may_end.wait(10)

    dwelling = asyncio.ensure_future(database.write(dwell))
    await until(entered.is_set)

    writing = asyncio.ensure_future(database.write(make_queue("a"), is_small=True))
    await asyncio.sleep(0.02)
    assert not writing.done()
    may_end.set()

    assert await writing != threading.get_ident()
    await dwelling


@pytest.mark.parametrize("turns", [0, LONE_TURNS])
async def test_while_another_program_has_the_lock_the_loop_goes_on(
    database: SqliteDatabase, path: str, turns: int
) -> None:
    await lone(database, turns)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.ensure_future(database.write(make_queue("a"), is_small=True))
        await asyncio.sleep(0.02)
        assert not writing.done()
        other.execute("ROLLBACK")

    assert await writing != threading.get_ident()


async def test_the_log_is_copied_back_though_only_loops_commit(database: SqliteDatabase, path: str) -> None:
    def copied() -> bool:
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as without_log:
            return bool(without_log.execute("SELECT 1 FROM sqlite_schema WHERE name = 'queues'").fetchall())

    database.checkpoint_soon()

    assert await database.write(make_queue("a"), is_small=True) == threading.get_ident()

    await until(copied)


async def test_a_few_rows_are_read_on_the_loop_unless_the_disk_is_slow(database: SqliteDatabase) -> None:
    def where(session: Session) -> int:
        return threading.get_ident()

    assert await database.read(where, is_small=True) == threading.get_ident()
    assert await database.read(where) != threading.get_ident()
    learn(database, SLOW_NS)
    assert await database.read(where, is_small=True) != threading.get_ident()


async def test_while_others_read_for_long_the_loop_goes_on(database: SqliteDatabase) -> None:
    may_end = threading.Event()
    long = [asyncio.ensure_future(database.read(lambda session: may_end.wait(10))) for _ in range(READERS)]
    await asyncio.sleep(0.02)

    reading = asyncio.ensure_future(database.read(queues.views, is_small=True))
    await asyncio.sleep(0.02)
    assert not reading.done()
    may_end.set()

    assert await reading == []
    await asyncio.gather(*long)


async def lone(database: SqliteDatabase, turns: int = LONE_TURNS) -> None:
    """Ask for one thing in each of some turns, until no thread is at work any more."""
    for _ in range(turns):
        await database.write(make_queue("before"), is_small=True)
        await asyncio.sleep(0)
    await until(lambda: not (database._is_checkpointing or database._group._busy))


async def turns_until_done(database: SqliteDatabase) -> int:
    """Say how many turns the loop takes before a work is done."""
    turns, is_done = 0, False

    def count() -> None:
        nonlocal turns
        if not is_done:
            turns += 1
            asyncio.get_running_loop().call_soon(count)

    asyncio.get_running_loop().call_soon(count)
    await database.write(make_queue("a"), is_small=True)
    is_done = True
    return turns


async def test_after_turns_with_one_work_each_the_next_does_not_wait_for_others(
    database: SqliteDatabase,
) -> None:
    await lone(database, LONE_TURNS - 1)
    assert await turns_until_done(database) > 0

    await lone(database)
    assert await turns_until_done(database) == 0


async def test_a_burst_after_such_turns_shares_a_commit_but_for_its_first(database: SqliteDatabase) -> None:
    await lone(database)
    made: list[int] = []
    do = database._by_turn._at_once

    def counted(tickets: Sequence[Ticket]) -> bool:
        made.append(len(tickets))
        return do(tickets)

    database._by_turn._at_once = counted

    await asyncio.gather(*(database.write(make_queue(each), is_small=True) for each in "abcd"))
    await asyncio.gather(*(database.write(make_queue(each), is_small=True) for each in "efgh"))

    assert made == [1, 3, 4]
    assert {*names(database)} == {"before", *"abcdefgh"}


async def test_who_asks_for_one_after_the_other_lets_others_have_their_turns(
    database: SqliteDatabase,
) -> None:
    await lone(database)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    for _ in range(100):
        await database.write(make_queue("a"), is_small=True)
    counting.cancel()

    assert turns >= 90


async def test_a_lone_work_that_fails_says_so_and_the_next_is_done(database: SqliteDatabase) -> None:
    def refuse(session: Session) -> None:
        queues.upsert(session, "refused", 1, None, 0)
        raise BadRequest("no")

    await lone(database)
    with pytest.raises(BadRequest, match="no"):
        await database.write(refuse, is_small=True)
    await asyncio.sleep(0)
    await database.write(make_queue("a"), is_small=True)

    assert names(database) == ["a", "before"]
