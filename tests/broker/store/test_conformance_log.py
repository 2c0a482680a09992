"""What the log shows on every database: the sequences of contract 1.1, fields, filters and pages."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from qtasks.broker.store import logs
from qtasks.broker.store.database import Session
from qtasks.broker.store.logs import LogFilter, Place, log_page
from qtasks.broker.store.records import Again, Reply
from qtasks.protocol.shapes import LogEntry, State
from tests.support.store import BROKEN, Verbs

WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}


def read_page(
    wanted: LogFilter, before: Place | None, size: int, session: Session
) -> tuple[list[LogEntry], str | None]:
    return log_page(session, wanted, before, size)


def pages(store: Verbs, size: int, wanted: LogFilter | None = None) -> list[LogEntry]:
    """Read the whole log page by page, newest first."""
    found: list[LogEntry] = []
    place: Place | None = None
    for _ in range(1000):
        page, cursor = store.database.look(partial(read_page, wanted or LogFilter(), place, size))
        found += page
        if cursor is None:
            return found
        place = logs.parse_place(cursor)
        assert place is not None
    raise AssertionError("the pages never end")


def test_a_message_that_waits_was_created(store: Verbs) -> None:
    assert store.states(store.enqueue()) == "CREATED"


def test_a_message_in_flight_is_active(store: Verbs) -> None:
    message_id = store.enqueue()

    store.claim_one()

    assert store.states(message_id) == "CREATED, ACTIVE"


def test_a_success(store: Verbs) -> None:
    message_id = store.enqueue()

    store.deliver(store.claim_one())

    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


def test_a_failure_without_retries(store: Verbs) -> None:
    message_id = store.enqueue(max_retries=0)

    store.kill(store.claim_one())

    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, FAILED"


def test_a_failure_that_waits_for_its_retry(store: Verbs) -> None:
    message_id = store.enqueue()

    store.fail(store.claim_one())

    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY"


@pytest.mark.parametrize("pause_ms", [0, 1, 12_000])
def test_one_failure_then_success(store: Verbs, pause_ms: int) -> None:
    message_id = store.enqueue()

    store.fail(store.claim_one(), after_ms=pause_ms)
    store.clock.advance(pause_ms)
    store.deliver(store.claim_one())

    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, DELIVERED"


def test_one_retry_and_both_attempts_fail(store: Verbs) -> None:
    message_id = store.enqueue(max_retries=1)

    store.fail(store.claim_one(), after_ms=0)
    store.kill(store.claim_one())

    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, ERROR, FAILED"


def test_an_attempt_handed_back_is_no_error(store: Verbs) -> None:
    message_id = store.enqueue()

    store.hand_back(store.claim_one())
    store.deliver(store.claim_one())

    assert "ERROR" not in store.states(message_id)
    assert store.states(message_id).endswith("ACTIVE, DELIVERED")


def test_a_crash_is_an_error_of_the_attempt(store: Verbs) -> None:
    message_id = store.enqueue()
    store.claim_one()

    store.recover("node-2")

    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY"


def test_entries_bear_the_instants_at_which_things_happened(store: Verbs) -> None:
    began_at = store.clock.now()
    message_id = store.enqueue()
    store.clock.advance(10)
    claim = store.claim_one()
    store.clock.advance(20)
    store.fail(claim, after_ms=5000)

    entries = store.log(message_id=message_id)

    assert [each.time - began_at for each in entries] == [0, 10, 30, 30]
    assert entries[-1].next_delivery_time == began_at + 30 + 5000


def test_the_error_entry_has_the_answer(store: Verbs) -> None:
    message_id = store.enqueue()
    reply = Reply(500, (("Content-Type", "text/plain"),), b"oops", "unexpected status 500")

    store.settle(store.claim_one(), Again(store.clock.now()), reply)

    error = store.log(message_id=message_id)[2]
    assert (error.state, error.error) == (State.ERROR, "unexpected status 500")
    assert (error.response_status, error.response_body) == (500, b"oops")
    assert error.response_header == {"Content-Type": ("text/plain",)}


def test_every_entry_has_the_content_of_its_message(store: Verbs) -> None:
    message_id = store.enqueue(
        b"hello", labels=("a", "b"), retry_delay="1000", headers=(("X-Tenant", "42"),), max_retries=0
    )
    store.settle(store.claim_one(), Again(store.clock.now()), BROKEN)
    store.kill(store.claim_one())

    entries = store.log(message_id=message_id)

    assert len(entries) == 7
    for each in entries:
        assert (each.labels, each.retry_delay_expression) == (("a", "b"), "1000")
        assert (each.body, each.header, each.queue_name) == (b"hello", {"X-Tenant": ("42",)}, "mail")


def test_the_creation_of_a_delayed_message_says_when_it_is_due(store: Verbs) -> None:
    due_at = store.clock.now() + 5000
    message_id = store.enqueue(**WIDE, start_at=due_at)

    [created] = store.log(message_id=message_id)

    assert created.next_delivery_time == due_at


def test_the_log_of_an_unknown_message_is_empty(store: Verbs) -> None:
    store.enqueue()

    assert store.log(message_id="msg_unknown") == []


def test_the_log_is_filtered_by_state_and_queue(store: Verbs) -> None:
    store.enqueue(queue="a")
    wanted = store.enqueue(queue="b")
    for claim in store.claim():
        store.deliver(claim)

    entries = store.log(states=frozenset({State.DELIVERED}), queue="b")

    assert [(each.message_id, each.state) for each in entries] == [(wanted, State.DELIVERED)]


def busy_log(store: Verbs, tick_ms: int) -> None:
    """Make a log in which several messages succeed, fail, wait and are in flight."""
    for number in range(12):
        store.enqueue(b"%d" % number, **WIDE, max_retries=2)
        store.clock.advance(tick_ms)
        if number % 3 == 0:
            for claim in store.claim(2):
                if int(claim.body) % 4 == 0 and claim.attempt < 3:
                    store.fail(claim, after_ms=0)
                elif int(claim.body) % 5 == 0:
                    store.kill(claim)
                else:
                    store.deliver(claim)
                store.clock.advance(tick_ms)
    store.claim(2)


@pytest.mark.parametrize("tick_ms", [0, 1, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pages_of_any_size_show_every_entry_once_and_in_the_same_order(
    store: Verbs, size: int, tick_ms: int
) -> None:
    busy_log(store, tick_ms)
    whole = store.log()[::-1]

    assert pages(store, size) == whole
    assert len(whole) > 30


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pages_of_a_message_that_was_tried_again_and_again_at_once_are_complete(
    store: Verbs, size: int
) -> None:
    store.enqueue(max_retries=9)
    for _ in range(9):
        store.fail(store.claim_one(), after_ms=0)

    assert len(pages(store, size)) == 1 + 3 * 9


@pytest.mark.parametrize("size", [1, 3])
def test_filtered_pages_show_every_match_once(store: Verbs, size: int) -> None:
    busy_log(store, tick_ms=1)
    wanted = LogFilter(states=frozenset({State.DELIVERED}))

    found = pages(store, size, wanted)

    assert found == [each for each in store.log()[::-1] if each.state is State.DELIVERED]


def test_the_newest_entry_comes_first(store: Verbs) -> None:
    busy_log(store, tick_ms=1)

    times = [each.time for each in pages(store, 5)]

    assert times == sorted(times, reverse=True)


def test_what_happens_while_somebody_pages_does_not_shift_the_pages(store: Verbs) -> None:
    busy_log(store, tick_ms=1)
    first, cursor = store.database.look(lambda session: log_page(session, LogFilter(), None, 5))
    before = store.log()[::-1]

    store.clock.advance(1)
    store.enqueue(**WIDE)
    second, _ = store.database.look(
        lambda session: log_page(session, LogFilter(), logs.parse_place(cursor or ""), 5)
    )

    assert first + second == before[:10]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1700000000000-5-8", Place(1_700_000_000_000, 5, 8)),
        ("1700000000000-5", Place(1_700_000_000_000, 5, 0)),
        ("1700000000000", Place(1_700_000_000_000, 0, 0)),
        ("", None),
        ("x", None),
        ("-1", None),
        ("1-2-3-4", None),
        ("1.5", None),
        ("1-2-x", None),
    ],
)
def test_a_cursor_is_read_or_refused(text: str, place: Place | None) -> None:
    assert logs.parse_place(text) == place
