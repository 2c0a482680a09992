"""What calling off owes on every database (contract 1.9): at once where it waits, at the end where not."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pytest

from qtasks.broker.store import cancelling, logs
from qtasks.broker.store.database import Session
from qtasks.broker.store.records import Dead
from qtasks.protocol.shapes import LogEntry
from tests.support.store import BROKEN, Verbs, bodies

WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}
NEXT_LIFE = "node-2"
CALLED_OFF = "CREATED, CANCEL_REQUESTED, CANCELED"


def cancel(store: Verbs, *message_ids: str) -> int:
    """Call messages off; say how many were not before."""
    now = store.clock.now()
    return store.database.run(lambda session: cancelling.cancel(session, message_ids, now)).count


# --- what waits -----------------------------------------------------------------------------------


def test_a_message_that_waits_is_called_off_at_once(store: Verbs) -> None:
    message_id = store.enqueue()

    assert cancel(store, message_id) == 1

    assert store.claim() == []
    assert (store.queue("mail").lag, store.states(message_id)) == (0, CALLED_OFF)


def test_a_message_that_is_not_due_yet_is_called_off_at_once(store: Verbs) -> None:
    message_id = store.enqueue(**WIDE, start_at=store.clock.now() + 60_000)

    assert cancel(store, message_id) == 1

    store.clock.advance(minutes=2)
    assert (store.claim(), store.states(message_id)) == ([], CALLED_OFF)


@pytest.mark.parametrize("queue", [{}, WIDE], ids=["ordered", "unordered"])
def test_a_message_that_waits_for_its_retry_is_called_off_at_once(
    store: Verbs, queue: dict[str, Any]
) -> None:
    message_id = store.enqueue(**queue)
    store.fail(store.claim_one())

    assert cancel(store, message_id) == 1

    store.clock.advance(minutes=2)
    assert store.claim() == []
    states = store.states(message_id).split(", ")
    assert (states[:2], states[-2:]) == (["CREATED", "ACTIVE"], ["CANCEL_REQUESTED", "CANCELED"])


def test_a_message_of_a_paused_queue_is_called_off_at_once(store: Verbs) -> None:
    message_id = store.enqueue()
    store.pause("mail")

    assert cancel(store, message_id) == 1

    store.pause("mail", paused=False)
    assert (store.claim(), store.states(message_id)) == ([], CALLED_OFF)


def test_an_ordered_queue_goes_on_behind_a_message_that_waits_for_its_retry(store: Verbs) -> None:
    first = store.enqueue(b"first")
    store.enqueue(b"second")
    store.fail(store.claim_one())
    assert store.claim() == []

    cancel(store, first)

    assert bodies(store.claim()) == [b"second"]


def test_an_ordered_queue_leaves_out_what_was_called_off_in_its_middle(store: Verbs) -> None:
    ids = [store.enqueue(body) for body in (b"a", b"b", b"c")]

    cancel(store, ids[1])

    first = store.claim_one()
    store.deliver(first)
    assert [first.body, store.claim_one().body] == [b"a", b"c"]


def test_the_result_of_what_was_called_off_is_cancelled(store: Verbs) -> None:
    message_id = store.enqueue(task_id="tsk_1", result_ttl_ms=60_000)

    cancel(store, message_id)

    found = store.result("tsk_1")
    assert (found.state, found.value, found.attempts) == ("CANCELLED", None, 0)
    assert found.error is not None
    assert orjson.loads(found.error)["error"]["message"] == "cancelled"


def test_what_was_called_off_is_no_dead_letter(store: Verbs) -> None:
    cancel(store, store.enqueue())

    assert store.dead_letters() == []


# --- what is in flight ----------------------------------------------------------------------------


def test_a_message_in_flight_that_was_called_off_may_still_succeed(store: Verbs) -> None:
    message_id = store.enqueue(task_id="tsk_1", result_ttl_ms=60_000)
    claim = store.claim_one()

    assert cancel(store, message_id) == 1
    assert store.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED"

    assert store.deliver(claim)
    assert store.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, DELIVERED"
    assert store.result("tsk_1").state == "SUCCEEDED"


def test_a_message_in_flight_that_was_called_off_is_not_tried_again(store: Verbs) -> None:
    message_id = store.enqueue(task_id="tsk_1", result_ttl_ms=60_000)
    claim = store.claim_one()
    cancel(store, message_id)

    assert store.fail(claim)

    store.clock.advance(hours=1)
    assert (store.claim(), store.dead_letters()) == ([], [])
    assert store.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, ERROR, CANCELED"
    assert store.result("tsk_1").state == "CANCELLED"


def test_a_last_attempt_that_fails_after_it_was_called_off_leaves_no_dead_letter(store: Verbs) -> None:
    message_id = store.enqueue(max_retries=0, task_id="tsk_1", result_ttl_ms=60_000)
    claim = store.claim_one()
    cancel(store, message_id)

    assert store.settle(claim, Dead(), BROKEN)

    assert store.dead_letters() == []
    assert store.states(message_id) == "CREATED, ACTIVE, CANCEL_REQUESTED, ERROR, CANCELED"
    assert store.result("tsk_1").state == "CANCELLED"


def test_a_message_that_is_handed_back_after_it_was_called_off_is_not_tried_again(store: Verbs) -> None:
    message_id = store.enqueue()
    claim = store.claim_one()
    cancel(store, message_id)

    store.hand_back(claim)

    assert store.claim() == []
    assert store.states(message_id).endswith("CANCELED")


def test_a_message_in_flight_keeps_its_place_until_its_attempt_has_ended(store: Verbs) -> None:
    first = store.enqueue(b"first")
    store.enqueue(b"second")
    claim = store.claim_one()

    cancel(store, first)
    claimed_meanwhile = store.claim()
    store.fail(claim)

    assert (claimed_meanwhile, bodies(store.claim())) == ([], [b"second"])


def test_what_was_called_off_in_flight_is_not_run_again_after_a_crash(store: Verbs) -> None:
    message_id = store.enqueue(b"called off", task_id="tsk_1", result_ttl_ms=60_000)
    store.enqueue(b"next")
    store.claim_one()
    cancel(store, message_id)

    store.recover(NEXT_LIFE)

    assert bodies(store.claim(node=NEXT_LIFE)) == [b"next"]
    assert store.states(message_id).endswith("CANCELED")
    assert (store.result("tsk_1").state, store.dead_letters()) == ("CANCELLED", [])


def test_a_last_attempt_that_was_called_off_leaves_no_dead_letter_after_a_crash(store: Verbs) -> None:
    message_id = store.enqueue(max_retries=0)
    store.claim_one()
    cancel(store, message_id)

    store.recover(NEXT_LIFE)

    assert store.dead_letters() == []
    assert store.states(message_id).endswith("CANCELED")


def test_a_success_that_comes_after_the_message_was_dropped_changes_nothing(store: Verbs) -> None:
    message_id = store.enqueue(**WIDE, task_id="tsk_1", result_ttl_ms=60_000)
    stale = store.claim_one()
    store.recover(NEXT_LIFE)
    cancel(store, message_id)
    before = store.states(message_id)

    assert store.deliver(stale) is False

    assert (store.states(message_id), store.result("tsk_1").state) == (before, "CANCELLED")


# --- counting -------------------------------------------------------------------------------------


def test_nothing_is_called_off_twice(store: Verbs) -> None:
    waiting, in_flight = store.enqueue(**WIDE), store.enqueue(**WIDE)
    store.claim(1)

    counts = [cancel(store, waiting, in_flight, waiting), cancel(store, waiting, in_flight)]

    assert counts == [2, 0]
    for each in (waiting, in_flight):
        assert store.states(each).count("CANCEL_REQUESTED") == 1


def test_what_is_unknown_or_has_ended_does_not_count(store: Verbs) -> None:
    delivered, dead = store.enqueue(**WIDE), store.enqueue(**WIDE)
    first, second = store.claim()
    store.deliver(first)
    store.kill(second)
    before = [store.states(delivered), store.states(dead)]

    assert cancel(store, delivered, dead, "msg_nothing", "") == 0

    assert [store.states(delivered), store.states(dead)] == before
    assert len(store.dead_letters()) == 1


def test_nothing_is_called_off_when_nothing_is_named(store: Verbs) -> None:
    store.enqueue()

    assert (cancel(store), store.queue("mail").lag) == (0, 1)


def test_a_message_in_flight_that_was_called_off_frees_its_slot_at_its_end(store: Verbs) -> None:
    narrow: dict[str, Any] = {**WIDE, "parallelism": 1}
    first, second = store.enqueue(**narrow), store.enqueue(**narrow)
    claim = store.claim_one()
    cancel(store, first)
    assert store.claim() == []

    store.fail(claim)

    assert store.claim_one().id == second


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("step_ms", [0, 1])
def test_pages_of_any_size_show_all_steps_of_what_was_called_off(
    store: Verbs, count: int, step_ms: int
) -> None:
    for number in range(6):
        in_flight = store.enqueue(**WIDE)
        claim = store.claim_one()
        waiting = store.enqueue(**WIDE)
        store.clock.advance(step_ms)
        assert cancel(store, waiting, in_flight) == 2
        store.clock.advance(step_ms)
        if number % 3 == 0:
            store.fail(claim)
        elif number % 3 == 1:
            store.deliver(claim)  # the others stay in flight

    found = pages(store, count)

    assert len(found) == 6 * (3 + 3) + 2 * 2 + 2
    assert found == store.log()[::-1]


def pages(store: Verbs, count: int) -> list[LogEntry]:
    """Read the whole log by pages of that size, newest first."""
    found: list[LogEntry] = []
    place: logs.Place | None = None
    for _ in range(1000):
        page, cursor = store.database.look(partial(read_page, place, count))
        found += page
        if cursor is None:
            return found
        place = logs.parse_place(cursor)
        assert place is not None
    raise AssertionError("the pages never end")


def read_page(place: logs.Place | None, count: int, session: Session) -> tuple[list[LogEntry], str | None]:
    return logs.log_page(session, logs.LogFilter(), place, count)
