"""The same simulated misfortunes over both stores: nothing lost, stuck, doubled or out of order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import FULL, repeats
from tests.support.postgres import Postgres
from tests.support.simulation import simulate
from tests.support.simulation_store import PostgresStore, SqliteStore, Store

SEEDS = range(repeats(500))


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[PostgresStore]:
    store = PostgresStore(postgres.new_near_store())
    yield store
    store.close()


def check(seed: int, store: Store, name: str) -> None:
    found = simulate(seed, store)
    if found.faults:
        environment = "QTASKS_TEST_FULL=1 " if FULL else ""
        repeat = f"{environment}python -m pytest 'tests/faults/test_simulation.py::{name}[{seed}]'"
        raise AssertionError("\n".join([f"repeat with: {repeat}", *found.faults[:20], *found.story[-80:]]))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_on_sqlite_keeps_its_promises(seed: int, tmp_path: Path) -> None:
    check(seed, SqliteStore(tmp_path / "q.db"), "test_a_node_on_sqlite_keeps_its_promises")


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_on_postgresql_keep_their_promises(seed: int, shared: PostgresStore) -> None:
    shared.empty()
    check(seed, shared, "test_nodes_on_postgresql_keep_their_promises")


def test_a_seed_has_the_same_fate_every_time(tmp_path: Path) -> None:
    first, second = (simulate(7, SqliteStore(tmp_path / name)) for name in ("a.db", "b.db"))

    assert first == second
    assert first.attempts > first.accepted > 20
