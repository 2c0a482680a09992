"""Nodes of different apps, and standalone ones, on one PostgreSQL: none takes a queue from the others."""

from __future__ import annotations

from functools import partial

import pytest

from qtasks.broker.store import claiming
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.clock import ManualClock
from tests.support.postgres import Postgres
from tests.support.store import Verbs, bodies


@pytest.mark.parametrize("looker", [None, "shop"])
def test_a_node_that_may_not_start_what_waits_leaves_it_to_the_one_that_may(
    postgres: Postgres, looker: str | None
) -> None:
    database = PostgresDatabase(postgres.new_store())
    store = Verbs(database, ManualClock())
    store.enqueue(b"of blog", app="blog", ordered=False, parallelism=5)
    claim = partial(
        claiming.claim, slots=9, alone_is_free=True, lease_margin_ms=1000, now=store.clock.now(),
        has_others=True,
    )  # fmt: skip

    for _ in range(3):
        assert database.run(lambda session: claim(session, node="looker", app=looker)).claims == []
    found = database.run(lambda session: claim(session, node="owner", app="blog"))
    database.close()

    assert bodies(list(found.claims)) == [b"of blog"]
