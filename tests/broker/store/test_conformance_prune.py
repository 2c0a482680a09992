"""What pruning owes on every database: old history goes, nothing that is still needed does."""

from __future__ import annotations

from typing import Any

from qtasks.broker.config import BrokerConfig
from qtasks.broker.janitor import Janitor
from qtasks.broker.store import messages
from tests.support.store import DAY_MS, Verbs

CONFIG = BrokerConfig(retention_ms=3 * DAY_MS, dead_letter_retention_ms=30 * DAY_MS)
WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 10_000, "ordered": False}


async def prune(store: Verbs) -> int:
    """Let the janitor work until it is done; give the number of its steps."""
    janitor = Janitor(store.database, CONFIG, store.clock)
    steps = 1
    while await janitor.step():
        steps += 1
        assert steps < 100
    return steps


def deliver_one(store: Verbs, **changes: Any) -> str:
    message_id = store.enqueue(**changes)
    store.deliver(store.claim_one())
    return message_id


async def test_a_finished_message_is_kept_for_as_long_as_its_history(store: Verbs) -> None:
    message_id = deliver_one(store)

    store.clock.advance(3 * DAY_MS - 1)
    await prune(store)

    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


async def test_an_old_finished_message_goes_with_all_its_entries(store: Verbs) -> None:
    message_id = deliver_one(store)

    store.clock.advance(3 * DAY_MS)
    await prune(store)

    assert (store.is_stored(message_id), store.log()) == (False, [])


async def test_a_message_is_as_old_as_its_last_attempt(store: Verbs) -> None:
    message_id = store.enqueue()
    store.fail(store.claim_one(), after_ms=2 * DAY_MS)
    store.clock.advance(2 * DAY_MS)
    store.deliver(store.claim_one())

    store.clock.advance(2 * DAY_MS)
    await prune(store)

    assert store.is_stored(message_id)


async def test_what_is_not_finished_is_never_pruned(store: Verbs) -> None:
    waiting = store.enqueue(**WIDE, start_at=store.clock.now() + 300 * DAY_MS)
    paused = store.enqueue(queue="paused")
    store.pause("paused")
    active = store.enqueue()
    claim = store.claim_one()

    store.clock.advance(200 * DAY_MS)
    await prune(store)

    assert all(store.is_stored(each) for each in (waiting, paused, active))
    assert store.deliver(claim)


async def test_a_dead_letter_outlives_the_history_with_all_its_content(store: Verbs) -> None:
    message_id = store.enqueue(b"hello")
    store.kill(store.claim_one())

    store.clock.advance(30 * DAY_MS - 1)
    await prune(store)

    [letter] = store.dead_letters()
    assert (letter.message.message_id, letter.message.body) == (message_id, b"hello")


async def test_an_old_dead_letter_goes_with_its_message(store: Verbs) -> None:
    message_id = store.enqueue()
    store.kill(store.claim_one())

    store.clock.advance(30 * DAY_MS)
    await prune(store)
    await prune(store)

    assert (store.dead_letters(), store.is_stored(message_id)) == ([], False)


async def test_an_expired_result_goes(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=10 * DAY_MS)
    store.deliver(store.claim_one())

    store.clock.advance(9 * DAY_MS)
    await prune(store)
    assert store.result("tsk_1").state == "SUCCEEDED"
    store.clock.advance(DAY_MS)
    await prune(store)

    assert store.result("tsk_1").state == "UNKNOWN"


async def test_the_progress_of_tasks_that_have_finished_goes(store: Verbs) -> None:
    for n in range(1200):  # more than one step takes
        store.enqueue(task_id=f"tsk_{n}", queue="wide", parallelism=2000, ordered=False)
        store.report(f"tsk_{n}", 1)
    for claim in store.claim(1199):
        store.deliver(claim)

    await prune(store)

    assert store.reports() == 1
    assert store.result("tsk_1199").progress is not None


async def test_pruning_forgets_no_id_inside_its_window(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.clock.advance(599_999)
    await prune(store)

    assert store.enqueue(dedup_key="id:a") == first


async def test_more_than_one_step_can_prune_is_pruned_in_several(store: Verbs) -> None:
    store.store(*(store.message(**WIDE, dedup_key=f"id:{n}") for n in range(1200)))
    for claim in store.claim(2000):
        store.deliver(claim)

    store.clock.advance(4 * DAY_MS)
    steps = await prune(store)

    assert store.log() == []
    assert steps > 1


async def test_a_young_message_among_old_ones_stays(store: Verbs) -> None:
    old = [deliver_one(store) for _ in range(3)]
    store.clock.advance(3 * DAY_MS)
    young = deliver_one(store)

    await prune(store)

    assert [store.is_stored(each) for each in (*old, young)] == [False, False, False, True]


async def test_what_is_young_is_not_walked_through(store: Verbs) -> None:
    old = deliver_one(store)
    store.clock.advance(3 * DAY_MS)
    store.store(*(store.message(**WIDE) for _ in range(1200)))

    steps = await prune(store)

    assert (store.is_stored(old), steps) == (False, 1)


async def test_what_comes_after_everything_was_pruned_is_a_message_of_its_own(store: Verbs) -> None:
    deliver_one(store)
    store.clock.advance(3 * DAY_MS)
    await prune(store)

    message_id = deliver_one(store)

    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


def test_pruning_looks_at_no_more_rows_than_it_is_told_to(store: Verbs) -> None:
    store.store(*(store.message(**WIDE) for _ in range(10)))
    for claim in store.claim(20):
        store.deliver(claim)
    before = store.clock.now()

    def count() -> int:
        return len({each.message_id for each in store.log()})

    goes_on = store.database.run(lambda s: messages.prune(s, after=0, before=before, count=4))
    assert count() == 6
    assert goes_on is not None
    store.database.run(lambda s: messages.prune(s, after=goes_on, before=before, count=4))

    assert count() == 2
