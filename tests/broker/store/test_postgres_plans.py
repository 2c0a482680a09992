"""PostgreSQL is never left to read whole tables, whatever it knows of them: no cost grows with a backlog."""

from __future__ import annotations

from dataclasses import replace

from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_links import link
from qtasks.broker.store.records import Delivered, NewMessage, Settlement
from qtasks.clock import ManualClock
from qtasks.ids import message_of
from tests.support.postgres import Postgres
from tests.support.store import OK, Verbs

LARGE = ("messages", "pending", "log", "results", "dedup")


def _message(store: Verbs, name: str, key: str | None = None) -> NewMessage:
    message = store.message(
        queue="wide",
        ordered=False,
        parallelism=50,
        task_id=name,
        dedup_key=key,
        result_ttl_ms=60_000,
    )
    return replace(message, id=message_of(name) or message.id)


def test_a_store_that_nobody_has_analysed_is_read_by_its_indexes(postgres: Postgres) -> None:
    database = PostgresDatabase(postgres.new_store())
    store = Verbs(database, ManualClock())
    with link(database.place) as connection:
        for table in LARGE:
            off = f"ALTER TABLE {database.place.schema}.{table} SET (autovacuum_enabled = off)"
            connection.execute(off.encode())

    for n in range(30):  # enough for plans that are kept
        store.store(*(_message(store, f"tsk_{n}_{m}", f"id:tsk_{n}_{m}") for m in range(20)))
        own = [f"tsk_{n:016x}{m:016x}" for m in range(20)]
        store.store(*(_message(store, each, f"id:{each}") for each in own))
        store.store(_message(store, own[0], f"id:{own[0]}"))
        store.store(_message(store, f"tsk_{n}_one"))
        store.store(*(_message(store, f"tsk_{n}_new_{m}") for m in range(5)))
        store.settle_all(*(Settlement(each, OK, Delivered(), each.started_at) for each in store.claim(10)))
        store.settled("tsk_0_0", f"tsk_{n}_0", own[0])
        store.result(own[1])
        store.result(f"tsk_{n}_1")
    database.close()  # only then is it certain that its sessions have told what they read

    with link(database.place) as connection:
        rows = connection.execute(
            b"SELECT relname, seq_tup_read FROM pg_stat_user_tables "
            b"WHERE schemaname = %s AND relname = ANY(%s)",
            [database.place.schema, list(LARGE)],
        ).fetchall()
    assert dict(rows) == dict.fromkeys(LARGE, 0)
