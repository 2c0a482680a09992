"""A message that a call makes has the digits of its task's id, on every database: one index finds it by both.

What else a task has (what it goes on with, replays, calls after a window) is found beside it.
"""

from __future__ import annotations

from typing import Any

import pytest

from qtasks.broker.store import results
from qtasks.broker.store.records import NewMessage
from qtasks.ids import message_of
from tests.support.store import DEDUP_WINDOW_MS, Verbs, bodies

DIGITS = f"{1:032x}"
TASK, MESSAGE = f"tsk_{DIGITS}", f"msg_{DIGITS}"
WIDE: dict[str, Any] = {"queue": "wide", "parallelism": 100, "ordered": False}


def call(store: Verbs, body: bytes = b"", task_id: str = TASK, **changes: Any) -> NewMessage:
    """Make the message of a call, which may be the repeat of another."""
    known = {"task_id": task_id, "dedup_key": f"id:{task_id}", **WIDE}
    own = message_of(task_id)
    return store.message(body, **known | ({} if own is None else {"id": own}) | changes)


def messages_of(store: Verbs, task_id: str = TASK) -> list[str]:
    """Give the messages of a task that have not finished, newest first."""
    return store.database.look(lambda session: results.pending_messages(session, task_id))


def in_company(store: Verbs, message: NewMessage) -> list[NewMessage]:
    """Give a message, with others around it that are stored in one go."""
    return [store.message(b"before", **WIDE), message, store.message(b"after", **WIDE)]


def test_a_call_is_found_by_its_task_and_by_its_own_id(store: Verbs) -> None:
    assert store.enqueue(id=MESSAGE, task_id=TASK) == MESSAGE

    assert messages_of(store) == [MESSAGE]
    assert store.result(TASK).state == "QUEUED"
    assert store.settled(TASK) == []
    assert store.is_stored(MESSAGE)


def test_who_has_an_id_of_the_callers_own_is_found_by_it(store: Verbs) -> None:
    message_id = store.enqueue(task_id="order-17", dedup_key="id:order-17")

    assert messages_of(store, "order-17") == [message_id]
    assert store.result("order-17").state == "QUEUED"
    assert store.settled("order-17", "order-18") == ["order-18"]


def test_the_same_digits_behind_another_name_are_another_task(store: Verbs) -> None:
    store.enqueue(id=MESSAGE, task_id=TASK)

    assert messages_of(store, f"job_{DIGITS}") == []
    assert store.settled(f"job_{DIGITS}") == [f"job_{DIGITS}"]
    [answer] = store.store(call(store, task_id=f"job_{DIGITS}"))
    assert not answer.deduplicated
    assert messages_of(store, f"job_{DIGITS}") == [answer.message_id]
    assert messages_of(store) == [MESSAGE]


@pytest.mark.parametrize("count", [1, 3])
def test_a_repeat_in_its_window_is_the_first(store: Verbs, count: int) -> None:
    store.store(call(store, b"1"))
    repeat = call(store, b"2")

    answers = store.store(*(in_company(store, repeat) if count > 1 else [repeat]))

    assert [each.deduplicated for each in answers] == [each.message_id == MESSAGE for each in answers]
    assert answers[count // 2].message_id == MESSAGE
    assert b"2" not in bodies(store.claim(10))


@pytest.mark.parametrize("count", [1, 3])
def test_a_call_after_the_window_of_the_first_has_an_id_of_its_own(store: Verbs, count: int) -> None:
    store.store(call(store, b"1"))
    store.clock.advance(DEDUP_WINDOW_MS)
    late = call(store, b"2")

    answers = store.store(*(in_company(store, late) if count > 1 else [late]))

    late_id = answers[count // 2].message_id
    assert late_id != MESSAGE
    assert late_id.startswith("msg_")
    assert not any(each.deduplicated for each in answers)
    assert messages_of(store) == [late_id, MESSAGE]
    [repeat] = store.store(call(store, b"3"))
    assert (repeat.message_id, repeat.deduplicated) == (late_id, True)
    assert sorted(bodies(store.claim(10)))[:2] == [b"1", b"2"]


def test_each_call_after_a_window_has_another_id(store: Verbs) -> None:
    ids = []
    for _ in range(4):
        ids += [each.message_id for each in store.store(call(store))]
        store.clock.advance(DEDUP_WINDOW_MS)

    assert len(set(ids)) == 4
    assert messages_of(store) == ids[::-1]


@pytest.mark.parametrize("count", [1, 3])
def test_an_id_that_another_message_has_is_not_taken_from_it(store: Verbs, count: int) -> None:
    store.enqueue(b"other", id=MESSAGE, **WIDE)
    wanted = call(store, b"call")

    answers = store.store(*(in_company(store, wanted) if count > 1 else [wanted]))

    answer = answers[count // 2]
    assert answer.message_id != MESSAGE
    assert not answer.deduplicated
    assert messages_of(store) == [answer.message_id]
    assert {each.id: each.body for each in store.claim(10)}.items() >= {
        (MESSAGE, b"other"),
        (answer.message_id, b"call"),
    }


def test_of_two_that_are_stored_in_one_go_the_second_is_a_repeat(store: Verbs) -> None:
    first, second = store.store(call(store, b"1"), call(store, b"2"))

    assert (first.message_id, first.deduplicated) == (MESSAGE, False)
    assert (second.message_id, second.deduplicated) == (MESSAGE, True)
    assert bodies(store.claim(10)) == [b"1"]


def test_what_a_task_goes_on_with_is_found_beside_its_first(store: Verbs) -> None:
    store.store(call(store))
    following = store.enqueue(task_id=TASK, dedup_key=f"id:{TASK}.1", **WIDE)

    assert messages_of(store) == [following, MESSAGE]
    for claim in store.claim(2):
        store.deliver(claim)
    assert store.settled(TASK) == [TASK]
