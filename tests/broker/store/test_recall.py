"""What the one who writes to a SQLite file need not look up again, and when it has to all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.broker.store import messages
from qtasks.broker.store.database import Session
from qtasks.broker.store.group import Ticket
from qtasks.broker.store.records import NewMessage
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest
from tests.support.store import DAY_MS, DEDUP_WINDOW_MS, Verbs, bodies


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(str(tmp_path / "q.db"), durability="relaxed")) as database:
        yield database


@pytest.fixture
def store(database: SqliteDatabase) -> Verbs:
    return Verbs(database, ManualClock())


def reads(database: SqliteDatabase) -> list[str]:
    """Collect what is looked up from now on."""
    seen: list[str] = []
    database._writer.set_trace_callback(lambda text: seen.append(text) if text.startswith("SELECT") else None)
    return seen


def failing(store: Verbs, *wanted: NewMessage) -> None:
    """Have messages stored by a work that fails after that."""

    def work(session: Session) -> None:
        messages.enqueue(session, wanted, store.clock.now())
        raise BadRequest("not so")

    with pytest.raises(BadRequest, match="not so"):
        store.database.run(work)


def test_a_message_like_the_one_before_looks_nothing_up(database: SqliteDatabase, store: Verbs) -> None:
    store.enqueue(b"1")
    store.enqueue(b"2")  # the first has put its queue in line
    looked_up = reads(database)

    store.enqueue(b"3")
    store.store(store.message(b"4"), store.message(b"5"))

    assert looked_up == []
    store.set_queue("mail", parallelism=10)
    assert bodies(store.claim()) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("changes", [{"dedup_key": "id:1"}, {"queue": "others"}], ids=["key", "queue"])
def test_what_has_a_key_or_another_queue_does(
    database: SqliteDatabase, store: Verbs, changes: dict[str, Any]
) -> None:
    store.enqueue()
    store.enqueue()
    looked_up = reads(database)

    store.enqueue(**changes)

    assert looked_up


REPEATS = (
    {"dedup_key": "id:a"},
    {"dedup_key": "id:b", "task_id": "b"},
    {"dedup_key": "id:b", "task_id": "another"},
    {"dedup_key": "id:another"},
    {"dedup_key": "cb:c"},
    {"dedup_key": "us:d", "dedup_until": messages.NO_WINDOW},
    {"dedup_key": "uf:e", "dedup_until": messages.NO_WINDOW},
    {"task_id": "f"},
    {"dedup_key": "id:f"},
)


@given(st.lists(st.sampled_from([*REPEATS, "claim", "deliver", "later"]), min_size=2, max_size=14))
def test_whose_a_key_is_is_found_with_what_is_known_as_without(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    answers: list[list[Any]] = []
    for forgets in (False, True):
        path = str(tmp_path_factory.mktemp("recall") / "q.db")
        with closing(SqliteDatabase(path, durability="relaxed")) as database:
            store = Verbs(database, ManualClock())
            answers.append(list(follow(store, steps, forgets=forgets)))

    assert answers[0] == answers[1]


def follow(store: Verbs, steps: list[Any], *, forgets: bool) -> Iterator[Any]:
    """Take these steps; gives the place of the message that was answered for each that is stored."""
    store.set_queue("mail", parallelism=10)
    stored: list[str] = []
    claims: list[Any] = []
    assert isinstance(store.database, SqliteDatabase)
    for step in steps:
        if forgets:
            store.database._recall.forget()
        if step == "claim":
            claims += store.claim(1)
        elif step == "deliver":
            if claims:
                store.deliver(claims.pop(0))
        elif step == "later":
            store.clock.advance(DEDUP_WINDOW_MS // 2)
        else:
            message = store.message(**step)
            [answer] = store.store(message)
            if not answer.deduplicated:
                stored.append(message.id)
            yield stored.index(answer.message_id), answer.deduplicated, answer.task_id


def test_queues_that_were_changed_are_looked_up_again(store: Verbs) -> None:
    for queue in ("a", "b"):
        store.set_queue(queue, parallelism=10)
        store.enqueue(b"1", queue=queue)
        store.enqueue(b"2", queue=queue, dedup_key=f"id:{queue}")  # finds that the queue stands in line
    assert len(store.claim()) == 4  # and they are out of it

    store.enqueue(b"3", queue="a")
    store.enqueue(b"4", queue="a")
    store.enqueue(b"5", queue="b")

    assert bodies(store.claim()) == [b"3", b"4", b"5"]


@pytest.mark.parametrize("count", [1, 2])
def test_messages_behind_some_that_were_rolled_back_take_their_numbers(store: Verbs, count: int) -> None:
    store.set_queue("mail", parallelism=10)
    store.enqueue()
    store.enqueue()
    failing(store, store.message(b"lost"), store.message(b"lost"))

    store.store(*[store.message() for _ in range(count)])

    assert [each.seq for each in store.claim()] == list(range(1, 3 + count))


def test_a_queue_that_was_rolled_back_is_made(store: Verbs) -> None:
    store.enqueue(b"1")
    failing(store, store.message(b"lost", queue="new"))

    store.enqueue(b"2", queue="new")

    assert bodies(store.claim()) == [b"1", b"2"]


def test_a_queue_that_was_dropped_is_made_anew(store: Verbs) -> None:
    store.enqueue(b"1", queue="new")
    [claim] = store.claim()
    store.deliver(claim)
    found = store.database.look(lambda session: session.one("queue_find", {"name": "new"}))
    assert found is not None
    store.database.run(lambda session: session.run("queue_delete", {"id": found[0]}))

    store.enqueue(b"2", queue="new")

    assert bodies(store.claim()) == [b"2"]


def test_a_message_behind_one_that_was_pruned_is_stored(store: Verbs) -> None:
    store.enqueue(b"1")
    store.deliver(store.claim_one())
    store.clock.advance(DAY_MS)
    now = store.clock.now()
    store.database.run(lambda session: messages.prune(session, after=0, before=now, count=10))

    store.enqueue(b"2")

    assert bodies(store.claim()) == [b"2"]


def test_who_fails_beside_others_leaves_no_gap(database: SqliteDatabase, store: Verbs) -> None:
    """In a commit that several share, the one that fails is undone alone."""
    store.set_queue("mail", parallelism=10)
    store.enqueue(b"1")

    def both(session: Session) -> None:
        messages.enqueue(session, [store.message(b"lost")], store.clock.now())
        raise BadRequest("not so")

    tickets = [Ticket(both), Ticket(lambda session: None)]
    database._group.run_all(tickets)
    store.enqueue(b"2")

    assert isinstance(tickets[0].error, BadRequest)
    assert [each.seq for each in store.claim()] == [1, 2]
