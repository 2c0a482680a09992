"""What a test sees: the calls that were enqueued, what they returned, what died, and a snapshot."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import assert_type
from unittest.mock import ANY

import pytest

from qtasks import ArgumentsError, AsyncResult, QTasks
from qtasks.errors import KitError
from qtasks.testing import DeadCall, Drained, EnqueuedCall, Kit
from tests.support import shop


def types_of_what_a_kit_gives(kit: Kit) -> None:
    assert_type(kit.results(shop.send_email), list[str])
    assert_type(kit.results(shop.charge, shop.Order(1)), list[shop.Order])
    assert_type(kit.enqueued(shop.charge), list[EnqueuedCall])
    assert_type(kit.dead_letters, list[DeadCall])
    assert_type(kit.drain(), Drained)
    assert_type(kit.advance("1h", minutes=2), Drained)
    assert_type(shop.register("a"), AsyncResult[str])


def test_a_call_is_found_by_the_arguments_that_matter(kit: Kit) -> None:
    shop.register("a@example.com")

    assert kit.enqueued(shop.send_email, to="a@example.com")
    assert kit.enqueued(shop.send_email, "a@example.com", subject="Welcome")
    assert kit.enqueued(shop.send_email, to=ANY)
    assert kit.enqueued(shop.send_email)
    assert kit.enqueued("tests.support.shop.send_email", to="a@example.com")
    assert kit.enqueued()
    assert not kit.enqueued(shop.send_email, to="b@example.com")
    assert not kit.enqueued(shop.send_email, "a@example.com", subject="Hello")
    assert not kit.enqueued(shop.charge)


def test_a_parameter_that_the_task_does_not_have_is_an_error(kit: Kit) -> None:
    with pytest.raises(ArgumentsError, match=r"send_email\(\) got an unexpected keyword argument 'address'"):
        kit.enqueued(shop.send_email, address="a@example.com")
    with pytest.raises(ArgumentsError, match="too many positional arguments"):
        kit.enqueued(shop.send_email, 1, 2, 3)


def test_arguments_of_no_task_in_particular_are_refused(kit: Kit) -> None:
    with pytest.raises(KitError, match="name the task whose arguments these are"):
        kit.enqueued(to="a@example.com")


def test_arguments_are_what_the_function_gets(kit: Kit) -> None:
    shop.charge.delay(shop.Order(3, ("tea",)))

    [call] = kit.enqueued(shop.charge, shop.Order(3, ("tea",)))

    assert call.arguments == {"order": shop.Order(3, ("tea",)), "currency": "EUR"}


def test_arguments_without_number_are_compared_whole_and_keywords_without_number_in_part(kit: Kit) -> None:
    shop.count.delay(1, 2, left=3, right=4)

    assert kit.enqueued(shop.count, 1, 2)
    assert kit.enqueued(shop.count, left=3)
    assert not kit.enqueued(shop.count, 1)
    assert not kit.enqueued(shop.count, left=4)
    assert not kit.enqueued(shop.count, up=1)


def test_a_call_of_a_bound_function_has_no_context_among_its_arguments(kit: Kit) -> None:
    shop.attempt_of.delay("ann")

    [call] = kit.enqueued(shop.attempt_of, name="ann")

    assert call.arguments == {"name": "ann"}


def test_a_call_says_where_and_when_it_is_to_run() -> None:
    now = datetime(2024, 2, 29, 9, tzinfo=UTC)
    with Kit(now=now) as kit:
        result = shop.send_email.apply_async(["a@example.com"], countdown="90s", retries=7)
        [call] = kit.enqueued()

    assert call.task == "tests.support.shop.send_email"
    assert call.task_id == result.id
    assert (call.queue, call.labels, call.retries) == ("mail", ("welcome",), 7)
    assert now <= call.enqueued_at < now + timedelta(seconds=10)
    assert call.scheduled_at == call.enqueued_at + timedelta(seconds=90)
    assert call.countdown == 90
    assert (call.state, call.attempts) == ("SCHEDULED", 0)


def test_a_call_stays_listed_with_what_came_of_it(kit: Kit) -> None:
    shop.register("a@example.com")
    shop.charge.delay(shop.Order(-1))
    kit.drain()

    assert [(each.state, each.attempts) for each in kit.enqueued()] == [("SUCCEEDED", 1), ("RETRYING", 1)]
    assert kit.enqueued()[0].countdown is None


def test_many_calls_are_listed_once_each_and_in_order(kit: Kit) -> None:
    shop.count.delay_many(shop.count.call(n) for n in range(450))
    assert [each.arguments["numbers"] for each in kit.enqueued()] == [(n,) for n in range(450)]
    kit.drain()
    shop.register("a@example.com")

    assert len(kit.enqueued(shop.count)) == 450
    assert len(kit.enqueued()) == 451
    assert len(kit.enqueued()) == 451


def test_a_task_that_nobody_here_knows_is_listed_as_it_was_sent(kit: Kit) -> None:
    shop.tasks.send("billing.charge", 1, currency="EUR")

    [call] = kit.enqueued("billing.charge", 1, currency="EUR")

    assert call.arguments == {"args": (1,), "kwargs": {"currency": "EUR"}}
    assert not kit.enqueued("billing.charge", currency="USD")


def test_a_task_is_found_under_its_old_name_too(kit: Kit) -> None:
    shop.tasks.send("shop.bill", {"number": 1})

    [call] = kit.enqueued(shop.charge)

    assert call.task == "tests.support.shop.charge"
    assert kit.enqueued("shop.bill", shop.Order(1)) == [call]


def test_a_call_that_does_not_fit_its_task_is_listed_as_it_was_sent(kit: Kit) -> None:
    shop.tasks.send("shop.bill", "nonsense")

    [call] = kit.enqueued()

    assert call.arguments == {"args": ("nonsense",), "kwargs": {}}


def test_results_come_in_the_order_of_the_calls(kit: Kit) -> None:
    for number in (3, -1, 1):
        shop.charge.delay(shop.Order(number))
    kit.drain()

    assert kit.results(shop.charge) == [shop.Order(3), shop.Order(1)]
    assert kit.results(shop.charge, shop.Order(1)) == [shop.Order(1)]


def test_a_dead_letter_says_why(kit: Kit) -> None:
    shop.charge.delay(shop.Order(-5))
    shop.refuse.delay("no stock")
    kit.drain(wait=True)

    refused, charged = kit.dead_letters
    assert (refused.call.task, refused.type, refused.message) == (shop.refuse.name, "Reject", "no stock")
    assert (charged.type, charged.message) == ("LookupError", "order -5 is unknown")
    assert charged.traceback is not None
    assert "shop.py" in charged.traceback
    assert "qtasks" not in charged.traceback.replace("wt-kit/tests", "").split("shop.py")[0].split("File")[-1]
    assert charged.call.arguments["order"] == shop.Order(-5)
    assert (charged.call.state, charged.call.attempts) == ("FAILED", 3)


def test_messages_are_the_same_json_at_every_run() -> None:
    runs = []
    for _ in range(2):
        with Kit() as kit:
            shop.register("a@example.com")
            shop.remind_tomorrow("b@example.com")
            shop.charge.delay(shop.Order(-1))
            kit.drain()
            runs.append(json.dumps(kit.messages, sort_keys=True))

    assert runs[0] == runs[1]
    assert json.loads(runs[0])[1] == {
        "task": "tests.support.shop.send_email",
        "arguments": {"to": "b@example.com"},
        "queue": "mail",
        "labels": ["welcome"],
        "retries": 3,
        "timeout": 300,
        "delay": 86400,
        "state": "SCHEDULED",
        "attempts": 0,
    }


def test_a_cleared_kit_has_forgotten_all(kit: Kit) -> None:
    result = shop.register("a@example.com")
    kit.fail_next(shop.count)
    kit.drain()
    kit.clear()

    assert kit.enqueued() == []
    assert kit.messages == []
    assert result.state == "UNKNOWN"
    shop.count.delay(1)
    assert kit.drain().succeeded == 1


def test_what_is_collected_is_enqueued_at_the_end_of_its_block(kit: Kit) -> None:
    with shop.tasks.collect():
        shop.register("a@example.com")
        assert not kit.enqueued(shop.send_email)

    assert kit.enqueued(shop.send_email)


def test_an_app_s_own_options_hold(kit: Kit) -> None:
    app = QTasks(defaults={"retries": 1})

    @app.task
    def note() -> None: ...

    note.delay()

    assert kit.enqueued(note)[0].retries == 1
