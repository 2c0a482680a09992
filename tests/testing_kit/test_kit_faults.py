"""What a test has go wrong: failing attempts, lost replies, messages that come twice."""

from __future__ import annotations

import pytest

from qtasks import QTasks
from qtasks.errors import KitError
from qtasks.testing import Drained, Kit
from tests.support import shop


@pytest.mark.parametrize("task", [shop.send_email, shop.attempt_of], ids=["coroutine", "plain"])
def test_the_next_attempt_fails_instead_of_running(kit: Kit, task: object) -> None:
    kit.fail_next()
    shop.send_email.delay("a@example.com") if task is shop.send_email else shop.attempt_of.delay("ann")

    assert kit.drain() == Drained(delivered=1, retried=1)
    assert shop.done == []
    assert kit.drain(wait=True) == Drained(delivered=1, succeeded=1)


def test_attempts_of_one_task_alone_fail(kit: Kit) -> None:
    kit.fail_next(shop.charge)
    shop.register("a@example.com")
    shop.charge.delay(shop.Order(1))

    assert kit.drain() == Drained(delivered=2, succeeded=1, retried=1)


def test_a_task_s_name_does_as_well_also_an_old_one(kit: Kit) -> None:
    kit.fail_next("shop.bill")
    shop.charge.delay(shop.Order(1))

    assert kit.drain().retried == 1


def test_attempts_fail_as_often_as_is_said(kit: Kit) -> None:
    kit.fail_next(shop.charge, OSError("no route"), times=3)
    shop.charge.delay(shop.Order(1))

    assert kit.drain(wait=True) == Drained(delivered=3, retried=2, dead=1)
    [dead] = kit.dead_letters
    assert (dead.type, dead.message) == ("OSError", "no route")


def test_the_error_may_be_a_type_and_is_judged_as_the_task_says(kit: Kit) -> None:
    app = QTasks()

    @app.task(no_retry_on=LookupError)
    def note() -> None: ...

    kit.fail_next(note, KeyError)
    kit.fail_next(note, OSError)
    note.delay()
    note.delay()

    assert kit.drain() == Drained(delivered=2, retried=1, dead=1)


def test_a_planned_error_is_not_raised_by_the_drain(kit: Kit) -> None:
    kit.fail_next(times=1)
    shop.register("a@example.com")

    assert kit.drain(raise_errors=True).retried == 1


def test_a_plan_that_changes_nothing_is_refused(kit: Kit) -> None:
    with pytest.raises(KitError, match="times=0 would change nothing"):
        kit.fail_next(times=0)


def test_a_lost_reply_has_the_task_run_again(kit: Kit) -> None:
    kit.lose_next(shop.attempt_of)
    shop.attempt_of.delay("ann")

    assert kit.drain(wait=True) == Drained(delivered=2, succeeded=1, retried=1)
    assert shop.done == [("ann", 1), ("ann", 2)]


def test_replies_of_one_task_alone_are_lost(kit: Kit) -> None:
    kit.lose_next(shop.charge, times=3)
    shop.register("a@example.com")
    shop.charge.delay(shop.Order(1))
    kit.drain(wait=True)

    assert kit.dead_letters[0].message == "the reply was lost, as the test wished"
    assert len(shop.done) == 4


def test_messages_come_twice_in_a_block(kit: Kit) -> None:
    with kit.deliver_twice():
        shop.register("a@example.com")
        assert kit.drain() == Drained(delivered=1, succeeded=1)
    shop.register("b@example.com")
    kit.drain()

    assert [each[1] for each in shop.done if isinstance(each, tuple)] == [
        "a@example.com",
        "a@example.com",
        "b@example.com",
    ]


def test_without_a_block_messages_come_twice_from_then_on(kit: Kit) -> None:
    kit.deliver_twice()
    shop.register("a@example.com")
    kit.drain()

    assert len(shop.done) == 2


def test_a_failed_attempt_is_not_doubled(kit: Kit) -> None:
    kit.deliver_twice()
    shop.charge.delay(shop.Order(-1))
    kit.drain()

    assert shop.done == [("charge", -1)]
