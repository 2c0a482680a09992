"""What enqueuing owes on every database: order of answers, deduplication, queues made on first use."""

from __future__ import annotations

import threading

import pytest

from qtasks.errors import BadRequest
from tests.support.store import DAY_MS, DEDUP_WINDOW_MS, HOOK, Verbs, bodies


def lag(store: Verbs, queue: str = "mail") -> int:
    return store.queue(queue).lag


def test_messages_are_answered_in_their_order(store: Verbs) -> None:
    wanted = [store.message(queue=name) for name in ("b", "a", "b")]

    answers = store.store(*wanted)

    assert [each.message_id for each in answers] == [each.id for each in wanted]
    assert not any(each.deduplicated for each in answers)


def test_a_stored_message_keeps_all_its_content(store: Verbs) -> None:
    store.enqueue(
        b"\x00\xff",
        url=f"{HOOK}?a=%2F&a=b",
        method="PUT",
        headers=(("Content-Type", "text/plain"), ("X-Tenant", "42, 43")),
        max_retries=7,
        timeout_ms=1234,
        retry_delay="1000 * (1 + retried)",
        task_id="tsk_1",
        result_ttl_ms=5000,
        caller_ip="203.0.113.7",
    )

    claim = store.claim_one()

    assert (claim.url, claim.method, claim.body) == (f"{HOOK}?a=%2F&a=b", "PUT", b"\x00\xff")
    assert claim.headers == (("Content-Type", "text/plain"), ("X-Tenant", "42, 43"))
    assert (claim.max_retries, claim.timeout_ms, claim.retry_delay) == (7, 1234, "1000 * (1 + retried)")
    assert (claim.task_id, claim.result_ttl_ms, claim.caller_ip) == ("tsk_1", 5000, "203.0.113.7")


def test_enqueuing_nothing_answers_nothing(store: Verbs) -> None:
    assert store.store() == []


def test_no_messages_at_all_are_stored_as_none(store: Verbs) -> None:
    store.enqueue(b"1")
    store.enqueue(b"2")

    assert store.store() == []
    assert lag(store) == 2


def test_a_repeated_id_gives_the_first_message_and_stores_nothing(store: Verbs) -> None:
    [first] = store.store(store.message(b"1", dedup_key="id:a"))

    [repeat] = store.store(store.message(b"2", dedup_key="id:a"))

    assert (repeat.message_id, repeat.deduplicated) == (first.message_id, True)
    assert bodies(store.claim()) == [b"1"]
    assert len(store.log()) == 2  # CREATED and ACTIVE of the first


def test_an_id_repeats_until_the_end_of_its_window(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.clock.advance(DEDUP_WINDOW_MS - 1)

    assert store.enqueue(dedup_key="id:a") == first


def test_an_id_is_free_again_at_the_end_of_its_window(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.clock.advance(DEDUP_WINDOW_MS)
    [second] = store.store(store.message(dedup_key="id:a"))

    assert (second.message_id != first, second.deduplicated) == (True, False)
    assert lag(store) == 2


def test_a_repeat_does_not_lengthen_the_window(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.clock.advance(DEDUP_WINDOW_MS - 1)
    store.enqueue(dedup_key="id:a")
    store.clock.advance(1)

    assert store.enqueue(dedup_key="id:a") != first


def test_an_id_used_again_after_its_window_has_a_window_of_its_own(store: Verbs) -> None:
    store.enqueue(dedup_key="id:a")
    store.clock.advance(DEDUP_WINDOW_MS)
    second = store.enqueue(dedup_key="id:a")

    store.clock.advance(DEDUP_WINDOW_MS - 1)

    assert store.enqueue(dedup_key="id:a") == second


def test_an_id_is_deduplicated_within_one_batch(store: Verbs) -> None:
    wanted = [store.message(b"%d" % n, dedup_key=key) for n, key in enumerate(("id:a", "id:b", "id:a"))]

    answers = store.store(*wanted)

    assert [each.message_id for each in answers] == [wanted[0].id, wanted[1].id, wanted[0].id]
    assert [each.deduplicated for each in answers] == [False, False, True]
    assert lag(store) == 2


def test_a_batch_finds_those_of_its_ids_that_are_stored(store: Verbs) -> None:
    by_id = store.enqueue(dedup_key="id:a")
    by_task = store.enqueue(dedup_key="id:tsk_b", task_id="tsk_b")
    by_content = store.enqueue(dedup_key="content:c")
    keys = ("id:new", "content:c", "id:tsk_b", "id:a", None, "id:b")
    wanted = [store.message(dedup_key=key) for key in keys]

    answers = store.store(*wanted)

    assert [each.message_id for each in answers] == [
        wanted[0].id,
        by_content,
        by_task,
        by_id,
        wanted[4].id,
        wanted[5].id,
    ]
    assert [each.deduplicated for each in answers] == [False, True, True, True, False, False]


def test_an_id_counts_over_all_queues_and_destinations(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    assert store.enqueue(dedup_key="id:a", queue="other", url=f"{HOOK}/other") == first


def test_a_repeat_makes_no_queue(store: Verbs) -> None:
    store.enqueue(dedup_key="id:a")

    store.enqueue(dedup_key="id:a", queue="other")

    with pytest.raises(ValueError, match="expected 1, got 0"):
        store.queue("other")


def test_a_delivery_does_not_free_the_id(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.deliver(store.claim_one())

    assert store.enqueue(dedup_key="id:a") == first


def test_a_failure_does_not_free_the_id(store: Verbs) -> None:
    first = store.enqueue(dedup_key="id:a")

    store.kill(store.claim_one())

    assert store.enqueue(dedup_key="id:a") == first


def test_a_refused_batch_stores_nothing_and_spends_no_id(store: Verbs) -> None:
    delayed = store.message(start_at=store.clock.now() + 1000)

    with pytest.raises(BadRequest, match="queue mail is ordered"):
        store.store(store.message(dedup_key="id:a"), delayed)

    [again] = store.store(store.message(dedup_key="id:a"))
    assert (again.deduplicated, lag(store)) == (False, 1)


def test_one_id_from_many_threads_at_once_makes_one_message(store: Verbs) -> None:
    barrier = threading.Barrier(8)
    answered: list[str] = []

    def enqueue() -> None:
        barrier.wait(10)
        answered.append(store.enqueue(dedup_key="id:a"))

    threads = [threading.Thread(target=enqueue) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)

    assert (len(answered), len(set(answered)), lag(store)) == (8, 1, 1)


def test_a_missing_queue_is_made_as_declared(store: Verbs) -> None:
    store.enqueue(queue="wide", parallelism=16, ordered=False)

    queue = store.queue("wide")
    assert (queue.parallelism, queue.ordered, queue.paused) == (16, False, False)


def test_an_existing_queue_is_not_changed_by_an_enqueue(store: Verbs) -> None:
    store.set_queue("mail", 3, paused=True)

    store.enqueue(parallelism=16, ordered=False)

    queue = store.queue("mail")
    assert (queue.parallelism, queue.ordered, queue.paused) == (3, True, True)


def test_a_delayed_message_is_refused_by_an_ordered_queue(store: Verbs) -> None:
    with pytest.raises(BadRequest, match="queue mail is ordered"):
        store.enqueue(start_at=store.clock.now() + 1)

    assert store.log() == []


def test_a_delay_that_has_passed_is_no_delay(store: Verbs) -> None:
    store.enqueue(queue="wide", ordered=False, start_at=store.clock.now() - DAY_MS)

    assert len(store.claim()) == 1


def test_lag_counts_what_is_not_finished(store: Verbs) -> None:
    for _ in range(3):
        store.enqueue(parallelism=3)
    first, second, third = store.claim()

    store.deliver(first)
    store.fail(second)
    store.kill(third)

    assert lag(store) == 1
