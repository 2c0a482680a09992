"""What the one who writes to a SQLite file need not look up again, and when it has to all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.store import messages
from qtasks.broker.store.database import Session
from qtasks.broker.store.group import Ticket
from qtasks.broker.store.records import NewMessage
from qtasks.broker.store.sqlite import SqliteDatabase
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest
from tests.support.store import DAY_MS, Verbs, bodies


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
