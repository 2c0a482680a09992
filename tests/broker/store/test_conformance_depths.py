"""How deep the queues are, on every kind of database."""

from __future__ import annotations

from typing import Any

from qtasks.broker.store import depths
from qtasks.broker.store.database import Database
from qtasks.broker.store.depths import Depth
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.queues import Kind
from qtasks.broker.store.records import Dead
from qtasks.clock import ManualClock
from qtasks.protocol.flow import FlowSpec
from tests.support.store import BROKEN, Verbs, new_message

WIDE: dict[str, Any] = {"parallelism": 100, "ordered": False}


def found(database: Database, most: int = 100) -> dict[str, Depth]:
    return {each.name: each for each in database.look(lambda session: depths.look(session, most)).queues}


def test_an_empty_store_has_no_depth(database: Database) -> None:
    assert database.look(depths.look) == depths.Depths([], 0)


def test_what_is_ready_active_and_waiting_is_counted_by_queue(
    store: Verbs, database: Database, clock: ManualClock
) -> None:
    began = clock.now()
    for _ in range(3):
        store.enqueue(queue="wide", **WIDE)
    store.enqueue(queue="wide", start_at=clock.now() + 60_000, **WIDE)
    store.claim(slots=1)
    clock.advance(seconds=5)
    store.enqueue(queue="", **WIDE)
    store.pause("wide")

    by_name = found(database)

    assert by_name == {
        "wide": Depth("wide", Kind.NAMED, True, ready=2, active=1, waiting=1, oldest_at=began),
        "": Depth("", Kind.UNNAMED, False, ready=1, active=0, waiting=0, oldest_at=clock.now()),
    }


def test_the_oldest_of_an_ordered_queue_is_as_old_as_its_message(
    store: Verbs, database: Database, clock: ManualClock
) -> None:
    began = clock.now()
    store.enqueue(queue="mail")
    clock.advance(minutes=1)
    store.enqueue(queue="mail")

    assert found(database)["mail"].oldest_at == began


def test_a_message_that_has_waited_for_its_time_is_as_old_as_since_then(
    store: Verbs, database: Database, clock: ManualClock
) -> None:
    due_at = clock.now() + 60_000
    store.enqueue(queue="narrow", parallelism=1, ordered=False)
    store.enqueue(queue="narrow", start_at=due_at)
    store.claim_one()
    clock.advance(minutes=2)
    store.claim()  # finds it due, and no slot free

    depth = found(database)["narrow"]
    assert (depth.ready, depth.active, depth.waiting, depth.oldest_at) == (1, 1, 0, due_at)


def test_a_flow_control_key_is_a_queue_of_its_kind(
    store: Verbs, database: Database, clock: ManualClock
) -> None:
    store.store(new_message(now=clock.now(), queue="", extras=Extras(flow=FlowSpec("key", parallelism=1))))

    [depth] = found(database).values()
    assert (depth.kind, depth.ready) == (Kind.FLOW, 1)


def test_a_count_stops_at_its_limit_also_where_queues_are_counted_together(
    store: Verbs, database: Database, clock: ManualClock
) -> None:
    count = depths.MOST_QUEUES + 20
    store.store(*(new_message(now=clock.now(), queue=f"q{n}", **WIDE) for n in range(count)))

    whole = database.look(depths.look)
    cut = database.look(lambda session: depths.look(session, 5))

    assert len(whole.queues) == depths.MOST_QUEUES + 1
    assert sum(each.ready for each in whole.queues) == count
    assert (whole.queues[-1].kind, whole.queues[-1].ready) == (None, 20)
    assert cut.queues[-1].ready == 5


def test_dead_letters_are_counted_up_to_the_limit(store: Verbs, database: Database) -> None:
    for _ in range(3):
        store.enqueue(queue="wide", **WIDE)
    for each in store.claim(slots=3):
        store.settle(each, Dead(), BROKEN)

    assert database.look(depths.look).dead == 3
    assert database.look(lambda session: depths.look(session, 2)).dead == 2
