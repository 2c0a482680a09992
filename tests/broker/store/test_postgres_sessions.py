"""Sessions that PostgreSQL ends: while they are idle nobody notices, in the midst of something it is told."""

from __future__ import annotations

from contextlib import closing

import pytest

from qtasks.broker.store.database import Session
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_links import Place, link
from qtasks.clock import ManualClock
from qtasks.errors import StoreUnreachable
from tests.support.postgres import Postgres
from tests.support.store import Verbs


def test_sessions_that_were_ended_while_they_were_idle_are_replaced_unseen(postgres: Postgres) -> None:
    with closing(PostgresDatabase(postgres.new_store())) as database, link(database.place) as connection:
        store = Verbs(database, ManualClock())
        store.enqueue(b"before")
        store.queue("mail")

        ended = connection.execute(
            b"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            b"WHERE pid <> pg_backend_pid() AND state = 'idle' AND application_name = 'qtasks'"
        ).fetchone()

        store.enqueue(b"after")
        assert store.queue("mail").lag == 2
        assert ended is not None
        assert ended[0] >= 2


def test_a_write_that_is_lost_in_its_middle_is_told_and_the_next_one_works(postgres: Postgres) -> None:
    with closing(PostgresDatabase(postgres.new_store())) as database:
        store = Verbs(database, ManualClock())

        def dies(session: Session) -> None:
            session.one("identity", {})
            with link(database.place) as connection:
                connection.execute(
                    b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    b"WHERE state = 'idle in transaction' AND application_name = 'qtasks'"
                )
            session.one("identity", {})

        with pytest.raises(StoreUnreachable, match="does not answer"):
            database.run(dies)
        store.enqueue(b"after")
        assert store.queue("mail").lag == 1


@pytest.mark.parametrize(
    ("url", "conninfo"),
    [
        ("postgresql:///db?host=/run/pg", "postgresql:///db?host=%2Frun%2Fpg"),
        ("postgresql:///db?host=%2Frun%2Fpg&schema=s", "postgresql:///db?host=%2Frun%2Fpg"),
        ("postgresql://?schema=s", "postgresql://"),
        ("postgresql://me:p%40ss@a:1,b:2/db?schema=s&pooler=on", "postgresql://me:p%40ss@a:1,b:2/db"),
    ],
)
def test_an_address_is_handed_to_libpq_without_what_is_ours(url: str, conninfo: str) -> None:
    assert Place.parse(url).conninfo == conninfo


def test_a_server_is_reached_by_its_socket_without_a_host(postgres: Postgres) -> None:
    near = postgres.new_near_store().replace("postgres@", "", 1) + "&user=postgres"
    assert near.startswith("postgresql:///")

    with closing(PostgresDatabase(near)) as database:
        store = Verbs(database, ManualClock())
        store.enqueue(b"here")
        assert store.queue("mail").lag == 1
