"""Nodes on PostgreSQL that live, are counted as dead, and come back: moved by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_links import link
from qtasks.broker.store.presence import LIFE_MS
from qtasks.clock import ManualClock
from tests.support.postgres import Postgres
from tests.support.store import Verbs

LONG_AGO = LIFE_MS + 1000


class Nodes:
    """Two nodes of one store, `a` and `b`, and what each was told."""

    def __init__(self, url: str) -> None:
        self.a = PostgresDatabase(url, steps_by_hand=True)
        self.b = PostgresDatabase(url, steps_by_hand=True)
        self.connection = link(self.a.place)
        self.told: list[str] = []
        self.a.join("a", lambda: self.told.append("a"))
        self.b.join("b", lambda: self.told.append("b"))

    def silence(self, node: str, ms: int = LONG_AGO) -> None:
        """Let a node not have been heard for some time."""
        self.connection.execute(
            f"UPDATE {self.a.place.schema}.nodes SET seen_at = seen_at - %s WHERE id = %s".encode(),
            [ms, node],
        )

    def look(self, database: PostgresDatabase, *, beats: bool = True) -> None:
        """Let one node look at the others."""
        database.presence.step(self.connection, beats=beats)

    @property
    def alive(self) -> list[str]:
        """Who counts as alive."""
        found = self.connection.execute(f"SELECT id FROM {self.a.place.schema}.nodes ORDER BY id".encode())
        return [row[0] for row in found]

    def close(self) -> None:
        """End both."""
        self.connection.close()
        self.a.close()
        self.b.close()


@pytest.fixture
def nodes(postgres: Postgres) -> Iterator[Nodes]:
    found = Nodes(postgres.new_store())
    yield found
    found.close()


def test_a_node_that_is_silent_for_too_long_is_struck_off_by_one_other(nodes: Nodes) -> None:
    nodes.silence("a")

    nodes.look(nodes.b)
    nodes.look(nodes.b)

    assert nodes.alive == ["b"]
    assert nodes.told == ["b"]


def test_a_node_that_beats_is_not_struck_off(nodes: Nodes) -> None:
    nodes.silence("a")

    nodes.look(nodes.a)
    nodes.look(nodes.b)

    assert nodes.alive == ["a", "b"]
    assert nodes.told == []


def test_a_node_that_was_struck_off_owns_what_it_claims_from_its_first_write_on(nodes: Nodes) -> None:
    clock = ManualClock()
    Verbs(nodes.b, clock).enqueue()
    nodes.silence("a")
    nodes.look(nodes.b)
    assert nodes.alive == ["b"]

    [claim] = Verbs(nodes.a, clock).claim(node="a")

    assert nodes.alive == ["a", "b"]
    assert Verbs(nodes.b, clock).recover("b") == 0
    assert Verbs(nodes.a, clock).deliver(claim)


def test_a_node_that_writes_is_not_struck_off_though_its_heart_stood_still(nodes: Nodes) -> None:
    nodes.silence("a")

    Verbs(nodes.a, ManualClock()).enqueue()
    nodes.look(nodes.b)

    assert nodes.alive == ["a", "b"]


def test_what_a_node_that_leaves_still_holds_is_taken_over_at_the_next_look(nodes: Nodes) -> None:
    clock = ManualClock()
    Verbs(nodes.a, clock).enqueue()
    Verbs(nodes.a, clock).claim(node="a")

    nodes.a.leave()
    nodes.look(nodes.b)

    assert nodes.told == ["b"]
    assert Verbs(nodes.b, clock).recover("b") == 1


def test_a_node_that_has_left_does_not_come_back_by_writing(nodes: Nodes) -> None:
    nodes.a.leave()

    Verbs(nodes.a, ManualClock()).enqueue()
    nodes.look(nodes.b)

    assert nodes.alive == ["b"]
