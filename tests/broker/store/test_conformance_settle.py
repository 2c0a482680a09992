"""What settling and recovering owe on every database: the fence, results, dead letters, suspects."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from qtasks.broker.store.records import Again, Claim, Dead, Delivered, Reply, Settlement
from qtasks.protocol.shapes import State
from tests.support.store import BROKEN, OK, Verbs, bodies

WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}
NEXT_LIFE = "node-2"


def lose(store: Verbs, claim: Claim) -> Claim:
    """Let another life of the broker take the message over; gives its claim."""
    store.recover(NEXT_LIFE)
    return store.claim_one(node=NEXT_LIFE)


def test_a_delivered_message_is_finished(store: Verbs) -> None:
    message_id = store.enqueue()

    assert store.deliver(store.claim_one())

    assert (store.queue("mail").lag, store.claim()) == (0, [])
    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


def test_a_batch_of_any_size_goes_through_whole_and_in_order(store: Verbs) -> None:
    count = 64 + 16 + 4 + 3  # whatever a database does with many rows at once, some are left
    many = [store.message(b"%d" % n, task_id=f"tsk_{n}", result_ttl_ms=60_000, **WIDE) for n in range(count)]
    store.store(*many)

    claims = store.claim(count)
    store.settle_all(
        *(Settlement(each, Reply(200, body=each.body), Delivered(), each.started_at) for each in claims)
    )

    assert bodies(claims) == [b"%d" % n for n in range(count)]
    assert {each.attempt for each in claims} == {1}
    assert [store.result(f"tsk_{n}").value for n in range(count)] == [b"%d" % n for n in range(count)]
    assert (store.queue("wide").lag, store.claim()) == (0, [])
    assert len(store.log(states=frozenset({State.DELIVERED}))) == count


def test_many_verdicts_are_recorded_together(store: Verbs) -> None:
    ids = [store.enqueue(**WIDE) for _ in range(3)]
    first, second, third = store.claim()
    now = store.clock.now()
    wanted = [
        Settlement(first, OK, Delivered(), now),
        Settlement(second, BROKEN, Again(now + 1), now),
        Settlement(third, BROKEN, Dead(), now),
    ]

    assert store.settle_all(*wanted) == wanted
    assert [store.states(each).rpartition(", ")[2] for each in ids] == ["DELIVERED", "RETRY", "FAILED"]


def test_settling_nothing_changes_nothing(store: Verbs) -> None:
    assert store.settle_all() == []


def test_a_success_is_recorded_once_however_often_it_is_told(store: Verbs) -> None:
    message_id = store.enqueue()
    claim = store.claim_one()

    assert (store.deliver(claim), store.deliver(claim)) == (True, False)

    assert store.states(message_id) == "CREATED, ACTIVE, DELIVERED"


def test_a_stale_failure_does_not_reschedule_what_another_node_runs(store: Verbs) -> None:
    store.enqueue()
    stale = store.claim_one()
    current = lose(store, stale)

    assert store.fail(stale, after_ms=0) is False

    assert store.claim(node=NEXT_LIFE) == []
    assert store.deliver(current) is True


def test_a_stale_failure_does_not_delay_what_is_to_run_again(store: Verbs) -> None:
    store.enqueue()
    stale = store.claim_one()
    store.recover(NEXT_LIFE)

    assert store.fail(stale, after_ms=60_000) is False

    assert store.claim_one(node=NEXT_LIFE).attempt == 2


def test_a_stale_verdict_does_not_dead_letter_what_another_node_runs(store: Verbs) -> None:
    store.enqueue()
    stale = store.claim_one()
    lose(store, stale)

    assert store.kill(stale) is False

    assert (store.dead_letters(), store.queue("mail").lag) == ([], 1)


def test_a_stale_hand_back_does_not_free_what_another_node_runs(store: Verbs) -> None:
    store.enqueue()
    stale = store.claim_one()
    lose(store, stale)

    assert store.hand_back(stale) is False

    assert store.claim(node=NEXT_LIFE) == []


def test_a_late_success_completes_a_message_that_nobody_runs(store: Verbs) -> None:
    message_id = store.enqueue()
    stale = store.claim_one()
    store.recover(NEXT_LIFE)

    assert store.deliver(stale) is True

    assert store.claim(node=NEXT_LIFE) == []
    assert store.states(message_id).count("DELIVERED") == 1


def test_a_late_success_completes_a_message_that_waits_for_its_retry(store: Verbs) -> None:
    store.enqueue()
    stale = store.claim_one()
    store.fail(lose(store, stale), after_ms=60_000)

    assert store.deliver(stale) is True

    assert store.queue("mail").lag == 0


def test_a_late_success_leaves_a_newer_attempt_to_end_by_itself(store: Verbs) -> None:
    message_id = store.enqueue()
    stale = store.claim_one()
    current = lose(store, stale)

    assert store.deliver(stale) is False
    assert store.deliver(current) is True

    assert store.states(message_id).count("DELIVERED") == 1


def test_a_late_success_does_not_bring_back_a_dead_message(store: Verbs) -> None:
    store.enqueue()
    stale = store.claim_one()
    store.kill(lose(store, stale))

    assert store.deliver(stale) is False

    assert len(store.dead_letters()) == 1


def test_a_stale_verdict_does_not_stand_in_the_way_of_the_others(store: Verbs) -> None:
    stale_id, fresh_id = store.enqueue(**WIDE), store.enqueue(**WIDE)
    stale, fresh = store.claim()
    store.kill(stale)
    now = store.clock.now()
    wanted = [Settlement(stale, OK, Delivered(), now), Settlement(fresh, OK, Delivered(), now)]

    recorded = store.settle_all(*wanted)

    assert [each.claim.id for each in recorded] == [fresh_id]
    assert store.states(stale_id).endswith("FAILED")


def test_a_late_success_lets_the_next_of_an_ordered_queue_start(store: Verbs) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")
    stale = store.claim_one()
    store.recover(NEXT_LIFE)

    store.deliver(stale)

    assert bodies(store.claim(node=NEXT_LIFE)) == [b"second"]


def test_a_success_keeps_the_result_of_its_task(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)
    claim = store.claim_one()
    store.clock.advance(10)

    store.settle(claim, Delivered(), Reply(200, body=b'{"n":1}'))

    result = store.result("tsk_1")
    assert (result.state, result.value, result.attempts) == ("SUCCEEDED", b'{"n":1}', 1)
    assert result.finished_at == store.clock.now()


def test_a_result_is_kept_for_its_time_and_no_longer(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)
    store.settle(store.claim_one(), Delivered(), Reply(200, body=b"1"))

    store.clock.advance(4999)
    assert store.result("tsk_1").value == b"1"
    store.clock.advance(1)

    assert (store.result("tsk_1").value, store.result("tsk_1").state) == (None, "SUCCEEDED")


def test_a_truncated_answer_is_no_result(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)

    store.settle(store.claim_one(), Delivered(), Reply(200, body=b'{"n":', truncated=True))

    assert (store.result("tsk_1").state, store.result("tsk_1").value) == ("SUCCEEDED", None)


def test_a_final_failure_keeps_the_error_document_of_the_app(store: Verbs) -> None:
    document = b'{"error":{"type":"ValueError","message":"no","traceback":null}}'
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)

    store.settle(store.claim_one(), Dead(), Reply(500, body=document))

    assert (store.result("tsk_1").state, store.result("tsk_1").error) == ("FAILED", document)


def test_a_final_failure_without_a_document_says_what_was_answered(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)

    store.settle(store.claim_one(), Dead(), Reply(502, body=b"<html>Bad Gateway</html>"))

    document = orjson.loads(store.result("tsk_1").error or b"")
    assert document == {
        "error": {
            "type": "DeliveryFailed",
            "message": "the destination answered 502",
            "traceback": None,
        }
    }


def test_a_failure_that_is_retried_is_no_result(store: Verbs) -> None:
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)

    store.fail(store.claim_one())

    assert store.result("tsk_1").state == "RETRYING"


def test_a_task_is_known_from_its_acceptance_to_its_end(store: Verbs) -> None:
    seen = [store.result("tsk_1").state]
    store.enqueue(task_id="tsk_1", result_ttl_ms=5000)
    seen.append(store.result("tsk_1").state)
    claim = store.claim_one()
    seen.append(store.result("tsk_1").state)
    store.fail(claim, after_ms=0)
    seen.append(store.result("tsk_1").state)
    store.deliver(store.claim_one())
    seen.append(store.result("tsk_1").state)

    assert seen == ["UNKNOWN", "QUEUED", "RUNNING", "RETRYING", "SUCCEEDED"]


def test_a_delayed_task_is_scheduled(store: Verbs) -> None:
    store.enqueue(**WIDE, task_id="tsk_1", start_at=store.clock.now() + 1000)

    assert store.result("tsk_1").state == "SCHEDULED"


def test_a_dead_letter_has_the_message_and_the_last_answer(store: Verbs) -> None:
    message_id = store.enqueue(b"hello", headers=(("X-Tenant", "42"),), labels=("night",))
    reply = Reply(404, (("Content-Type", "text/plain"),), b"404 Not Found", "unexpected status 404")

    store.settle(store.claim_one(), Dead(), reply)

    [letter] = store.dead_letters()
    assert (letter.message.message_id, letter.message.body) == (message_id, b"hello")
    assert letter.message.labels == ("night",)
    assert (letter.response_status, letter.response_body) == (404, b"404 Not Found")
    assert letter.response_header == {"Content-Type": ("text/plain",)}


def test_recovery_puts_back_in_play_at_once_what_was_in_flight(store: Verbs) -> None:
    for _ in range(3):
        store.enqueue(**WIDE)
    store.claim(2)

    assert store.recover(NEXT_LIFE) == 2

    assert [each.attempt for each in store.claim(node=NEXT_LIFE)] == [2, 2, 1]


def test_recovery_finds_nothing_to_do_after_a_clean_end(store: Verbs) -> None:
    store.enqueue()

    assert store.recover(NEXT_LIFE) == 0


def test_recovery_leaves_the_node_s_own_leases(store: Verbs) -> None:
    store.enqueue()
    claim = store.claim_one(node=NEXT_LIFE)

    assert store.recover(NEXT_LIFE) == 0

    assert store.deliver(claim) is True


def test_recovery_keeps_the_attempt_counted(store: Verbs) -> None:
    store.enqueue()

    assert lose(store, store.claim_one()).attempt == 2


def test_recovery_says_until_when_the_earlier_attempt_may_still_run(store: Verbs) -> None:
    store.enqueue()
    first = store.claim_one()

    assert lose(store, first).guard_until == first.lease_until


def test_a_task_that_kills_its_process_is_dead_after_its_retries_and_one_start(store: Verbs) -> None:
    message_id = store.enqueue(max_retries=2)
    starts = 0

    for life in range(10):
        starts += len(store.claim(node=f"life-{life}"))
        store.recover(f"life-{life + 1}")

    assert starts == 3
    [letter] = store.dead_letters()
    assert (letter.message.message_id, letter.response_status) == (message_id, 0)
    assert "interrupted" in (letter.error or "")


def test_a_message_without_retries_is_dead_after_a_crash(store: Verbs) -> None:
    message_id = store.enqueue(max_retries=0)
    store.claim_one()

    store.recover(NEXT_LIFE)

    assert (store.claim(node=NEXT_LIFE), store.queue("mail").lag) == ([], 0)
    assert store.states(message_id) == "CREATED, ACTIVE, ERROR, FAILED"


def crash_twice(store: Verbs) -> None:
    """Let what is ready be in flight at two crashes in a row, which makes it suspect; ends in `NEXT_LIFE`."""
    for life in ("life-1", "life-2"):
        assert store.claim(node=life)
        store.recover(f"after {life}")
    store.recover(NEXT_LIFE)


def test_what_was_in_flight_at_one_crash_starts_together_again(store: Verbs) -> None:
    for _ in range(3):
        store.enqueue(**WIDE)
    store.claim()

    store.recover(NEXT_LIFE)

    assert len(store.claim(node=NEXT_LIFE)) == 3


def test_suspects_run_one_at_a_time(store: Verbs) -> None:
    for queue in ("a", "a", "b"):
        store.enqueue(queue=queue, parallelism=10, ordered=False)
    crash_twice(store)

    first = store.claim(node=NEXT_LIFE)
    second = store.claim(node=NEXT_LIFE, alone_is_free=False)

    assert ([each.is_suspect for each in first], second) == ([True], [])


def test_all_suspects_have_their_turn(store: Verbs) -> None:
    ids = {store.enqueue(queue=queue, parallelism=10, ordered=queue == "o") for queue in ("a", "a", "b", "o")}
    crash_twice(store)

    delivered = set()
    for _ in range(10):
        for claim in store.claim(node=NEXT_LIFE):
            store.deliver(claim)
            delivered.add(claim.id)

    assert delivered == ids


def test_messages_that_were_not_in_flight_do_not_wait_for_the_suspects(store: Verbs) -> None:
    store.enqueue(b"suspect", **WIDE)
    store.enqueue(b"suspect", **WIDE)
    crash_twice(store)
    for _ in range(3):
        store.enqueue(b"innocent", **WIDE)
    store.enqueue(b"innocent", queue="other")

    claimed = Counter(
        bodies(store.claim(node=NEXT_LIFE)) + bodies(store.claim(node=NEXT_LIFE, alone_is_free=False))
    )

    assert claimed == {b"suspect": 1, b"innocent": 4}


def test_nothing_overtakes_a_suspect_in_an_ordered_queue(store: Verbs) -> None:
    store.enqueue(b"first")
    store.enqueue(b"second")
    crash_twice(store)

    assert store.claim(node=NEXT_LIFE, alone_is_free=False) == []
    assert bodies(store.claim(node=NEXT_LIFE)) == [b"first"]


def test_a_counted_reply_clears_a_suspect(store: Verbs) -> None:
    store.enqueue(**WIDE)
    crash_twice(store)

    store.fail(store.claim_one(node=NEXT_LIFE), after_ms=0)

    assert store.claim_one(node=NEXT_LIFE).is_suspect is False


def test_an_uncounted_reply_does_not_clear_a_suspect(store: Verbs) -> None:
    store.enqueue(**WIDE)
    crash_twice(store)

    store.hand_back(store.claim_one(node=NEXT_LIFE))

    assert store.claim_one(node=NEXT_LIFE).is_suspect is True
