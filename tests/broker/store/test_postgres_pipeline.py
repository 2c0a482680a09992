"""Statements that nobody waits for: whose error it is when they fail, and what the server sees meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from psycopg import errors

from qtasks.broker.store import postgres_pipeline, queues
from qtasks.broker.store.changes import Errand
from qtasks.broker.store.database import Session
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_links import link
from qtasks.clock import ManualClock
from qtasks.errors import BadRequest, StoreUnreachable
from tests.support.homes import until
from tests.support.postgres import Postgres
from tests.support.store import Verbs

SOON_S = 30
TOO_LITTLE: dict[str, Any] = {"key": "k", "message_id": None, "expires_at": 1}
LOG_ROW: dict[str, Any] = {
    "message": 1, "epoch": 1, "kind": 1, "started_at": 1, "ended_at": 1, "next_at": None, "cancel_at": None,
    "status": 500, "error": None, "headers": b"[]",
}  # fmt: skip
NEW_QUEUE = {"parallelism": 1, "ordered": 0, "paused": 0, "is_set": 0, "kind": 0, "now": 1}


@pytest.fixture(params=["", "&pooler=on"], ids=["alone", "pooler"])
def database(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[PostgresDatabase]:
    with closing(PostgresDatabase(postgres.new_store() + request.param)) as database:
        yield database


@pytest.fixture
def store(database: PostgresDatabase) -> Verbs:
    return Verbs(database, ManualClock())


def new_queue(name: str) -> Callable[[Session], None]:
    return lambda session: session.insert_many("queue_insert", [{"name": name, **NEW_QUEUE}])


def fails(session: Session) -> None:
    """Make a queue, and a row that is refused; learn of neither."""
    new_queue("never")(session)
    session.insert_many("dedup_insert", [TOO_LITTLE])


def names(store: Verbs) -> list[str]:
    return [each.name for each in store.database.look(queues.views)]


def test_what_fails_when_it_is_committed_is_told_to_its_caller_and_nothing_is_stored(
    database: PostgresDatabase, store: Verbs
) -> None:
    with pytest.raises(errors.NotNullViolation, match="message_id"):
        database.run(fails)

    assert names(store) == []
    database.run(new_queue("next"))
    assert names(store) == ["next"]


def test_what_has_failed_is_told_by_the_next_answer_that_is_waited_for(
    database: PostgresDatabase, store: Verbs
) -> None:
    went_on = []

    def asks(session: Session) -> None:
        fails(session)
        session.one("queue_find", {"name": "never"})
        went_on.append(True)

    with pytest.raises(errors.NotNullViolation, match="message_id"):
        database.run(asks)

    assert went_on == []
    assert names(store) == []


def test_of_works_that_share_a_commit_only_the_one_that_fails_is_told(
    database: PostgresDatabase, store: Verbs
) -> None:
    is_begun, goes_on = threading.Event(), threading.Event()

    def blocks(session: Session) -> None:
        is_begun.set()
        assert goes_on.wait(SOON_S)

    with ThreadPoolExecutor(4) as executor:
        first = executor.submit(database.run, blocks)
        assert is_begun.wait(SOON_S)
        works = new_queue("one"), fails, new_queue("two")
        others = [executor.submit(database.run, each) for each in works]
        goes_on.set()
        first.result(SOON_S)
        told = [each.exception(SOON_S) for each in others]

    assert [type(each) for each in told] == [type(None), errors.NotNullViolation, type(None)]
    assert sorted(names(store)) == ["one", "two"]


def test_what_a_work_itself_raises_undoes_what_it_has_sent(database: PostgresDatabase, store: Verbs) -> None:
    def refuses(session: Session) -> None:
        new_queue("never")(session)
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        database.run(refuses)

    database.run(new_queue("next"))
    assert names(store) == ["next"]


async def test_an_errand_along_with_what_fails_is_not_done(database: PostgresDatabase, store: Verbs) -> None:
    def fails_with_news(session: Session) -> None:
        fails(session)
        session.announce()

    errand = Errand(lambda session, arrival: session.all("queue_list", {"name": None}))
    if not database.place.has_pooler:  # who begins to hear is told at once
        await until(lambda: database.presence.is_hearing)
        await database.changed(1000)
    waits = asyncio.ensure_future(database.changed(60_000, errand))
    await asyncio.sleep(0)

    with pytest.raises(errors.NotNullViolation, match="message_id"):
        await database.write(fails_with_news)

    waits.cancel()
    assert not errand.withdraw()
    with pytest.raises(errors.NotNullViolation):
        await errand.outcome()
    assert names(store) == []


def test_what_was_sent_on_a_connection_that_was_lost_while_idle_is_stored(
    database: PostgresDatabase, store: Verbs
) -> None:
    database.run(new_queue("before"))
    end_sessions(database, "idle")

    database.run(new_queue("after"))

    assert sorted(names(store)) == ["after", "before"]


def test_what_was_sent_on_a_connection_that_is_lost_in_the_middle_is_not_stored(
    database: PostgresDatabase, store: Verbs
) -> None:
    def dies(session: Session) -> None:
        session.one("identity", {})
        new_queue("never")(session)
        end_sessions(database, "idle in transaction")

    with pytest.raises(StoreUnreachable, match="does not answer"):
        database.run(dies)
    assert names(store) == []


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 9_000), (1, 500_000), (4, 3_000), (300, 1)])
def test_the_server_never_waits_in_the_middle_of_what_was_sent(
    database: PostgresDatabase, count: int, size: int
) -> None:
    """There it would end no transaction of a node that has stopped, and the lock would be held for good."""

    def states(session: Session) -> list[str]:
        session.one("identity", {})
        for epoch in range(count):
            session.insert_many("log_insert", [{**LOG_ROW, "epoch": epoch, "body": bytes(size)}])
        with link(database.place) as connection:
            rows = connection.execute(
                f"SELECT state FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE l.granted "
                f"AND locktype = 'advisory' AND objid = {database.place.lock}".encode()
            ).fetchall()
        return [row[0] for row in rows]

    assert database.run(states) == ["idle in transaction"]


def test_a_question_that_is_larger_than_what_is_left_for_later_is_answered(
    database: PostgresDatabase,
) -> None:
    name = "q" * 10 * postgres_pipeline.FULL_BYTES

    assert database.run(lambda session: session.one("queue_find", {"name": name})) is None
    assert (
        database.run(lambda session: session.run("queue_pause", {"name": name, "paused": 1, "now": 1})) == 0
    )


def test_statements_of_too_many_kinds_are_forgotten_and_prepared_again(
    database: PostgresDatabase, store: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pipeline, "PREPARED", 8)

    for _ in range(3):
        for number in range(10):
            store.enqueue(str(number).encode())
        store.deliver(store.claim_one())

    assert store.queue("mail").lag == 27


def end_sessions(database: PostgresDatabase, state: str) -> None:
    with link(database.place) as connection:
        connection.execute(
            b"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            b"WHERE pid <> pg_backend_pid() AND application_name = 'qtasks' AND state = $1".replace(
                b"$1", f"'{state}'".encode()
            )
        )
