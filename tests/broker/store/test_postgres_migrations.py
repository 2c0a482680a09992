"""An earlier schema becomes this version's, whole or not at all, and nodes go on meanwhile (promise P24)."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from qtasks.broker.store import migrate_postgres as module
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_links import Place, link
from qtasks.broker.store.queries import load_migrations
from qtasks.clock import ManualClock
from qtasks.errors import StoreTooNew
from tests.support.postgres import Postgres
from tests.support.store import Verbs, bodies

Migrations = tuple[tuple[int, str], ...]
Offer = Callable[[Migrations], None]
MIGRATIONS = load_migrations("postgres")
NEWEST = MIGRATIONS[-1][0]
STATEMENTS = [
    (number, statement)
    for number, text in MIGRATIONS
    for statement in re.sub("--.*", "", text).split(";")
    if statement.strip()
]
# What a version to come may do while nodes of this one run: see CONTRIBUTING.md.
NEXT = """
ALTER TABLE messages ADD COLUMN mood TEXT;
ALTER TABLE pending ADD COLUMN mood BIGINT NOT NULL DEFAULT 0;
ALTER TABLE results ADD COLUMN mood TEXT;
CREATE TABLE moods (name TEXT PRIMARY KEY);
CREATE INDEX log_status ON log (status);
"""


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Have the next start know these migrations instead of ours."""

    def be_known(migrations: Migrations) -> None:
        monkeypatch.setattr(module, "load_migrations", lambda dialect: migrations)

    return be_known


def migrate(url: str) -> None:
    """Do what a start does first."""
    place = Place.parse(url)
    with link(place) as connection:
        module.migrate_postgres(connection, place)


def schema_of(url: str) -> set[tuple[str, ...]]:
    """Give the columns of all tables, and the indexes."""
    place = Place.parse(url)
    with link(place) as connection:
        columns = connection.execute(
            b"SELECT table_name, column_name, data_type FROM information_schema.columns "
            b"WHERE table_schema = %s",
            [place.schema],
        ).fetchall()
        indexes = connection.execute(
            b"SELECT indexname FROM pg_indexes WHERE schemaname = %s", [place.schema]
        ).fetchall()
    return {*columns, *indexes}


def version_of(url: str) -> int | None:
    place = Place.parse(url)
    with link(place) as connection:
        return module._version(connection, place)


@pytest.mark.parametrize("until", [number for number, _ in MIGRATIONS[:-1]])
def test_an_earlier_schema_ends_as_a_new_one(postgres: Postgres, offer: Offer, until: int) -> None:
    old, new = postgres.new_store(), postgres.new_store()
    offer(MIGRATIONS[:until])
    migrate(old)
    assert version_of(old) == until

    offer(MIGRATIONS)
    migrate(old)
    migrate(new)

    assert schema_of(old) == schema_of(new)
    assert version_of(old) == NEWEST


@pytest.mark.parametrize("survives", range(0, len(STATEMENTS), 4))
def test_a_migration_that_dies_at_a_statement_leaves_the_schema_before_it(
    postgres: Postgres, offer: Offer, survives: int
) -> None:
    """The session ends after some statements of what is missing."""
    url = postgres.new_store()
    number = STATEMENTS[survives][0]
    offer(MIGRATIONS[: number - 1])
    if number > 1:
        migrate(url)
    before = schema_of(url)

    done = ";".join(text for of, text in STATEMENTS[:survives] if of == number)
    dying = f"{done};SELECT pg_terminate_backend(pg_backend_pid())"
    offer((*MIGRATIONS[: number - 1], (number, dying)))
    with pytest.raises(psycopg.OperationalError):
        migrate(url)

    assert schema_of(url) == before
    offer(MIGRATIONS)
    migrate(url)
    assert version_of(url) == NEWEST


def test_nodes_that_start_at_once_make_one_schema(postgres: Postgres) -> None:
    url = postgres.new_store()

    with ThreadPoolExecutor(4) as pool:
        databases = list(pool.map(lambda _: PostgresDatabase(url), range(4)))

    stores = [Verbs(each, ManualClock()) for each in databases]
    stores[0].enqueue(b"one")
    assert bodies(stores[3].claim()) == [b"one"]
    for each in databases:
        each.close()


def test_a_node_goes_on_while_a_newer_one_brings_the_schema_forward(postgres: Postgres, offer: Offer) -> None:
    url = postgres.new_store()
    with closing(PostgresDatabase(url)) as database:
        store = Verbs(database, ManualClock())

        def work() -> list[bytes]:
            """Do all that a node does, with statements that are prepared by now."""
            store.enqueue(b"again", task_id="tsk_1", result_ttl_ms=1000, dedup_key=None)
            claims = store.claim()
            for each in claims:
                store.deliver(each)
            assert store.result("tsk_1").state == "SUCCEEDED"
            assert store.log()
            return bodies(claims)

        before = [work() for _ in range(8)]
        offer((*MIGRATIONS, (NEWEST + 1, NEXT)))
        migrate(url)
        after = [work() for _ in range(8)]

        offer(MIGRATIONS)
        with pytest.raises(StoreTooNew, match=f"is at schema {NEWEST + 1}, made by a newer version"):
            PostgresDatabase(url)
        assert before == after == [[b"again"]] * 8
        assert work() == [b"again"]
