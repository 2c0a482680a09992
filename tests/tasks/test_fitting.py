"""What becomes of messages that another version of the app has enqueued: unknown tasks, old arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qtasks.clock import ManualClock
from qtasks.errors import TaskDefinitionError
from qtasks.tasks.answers import Answer
from qtasks.tasks.task import Task
from tests.support.tasks import NOW, Workshop, error_of

FOR_GOOD = (("Upstash-NonRetryable-Error", "true"),)
PUT_OFF = {"Qtasks-Uncounted": "unknown_task", "Retry-After": "10"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def shop(clock: ManualClock) -> Workshop:
    return Workshop(clock=clock)


def greet(recipient: str, subject: str = "hi") -> str:
    return f"{subject}, {recipient}"


def greeting(shop: Workshop, version: int = 1) -> Task[..., Any, Any]:
    """Make the task `greet`, at a version of its arguments."""
    return shop.task(greet, version=version)


async def greeted(shop: Workshop, *args: Any, version: int = 1, **kwargs: Any) -> Answer:
    """Deliver a call of `greet` that was enqueued at a version."""
    return await shop.run("greet", *args, version=version, kwargs=kwargs)


# --- tasks that are not here ----------------------------------------------------------------------


async def test_a_task_that_is_not_here_may_be_so_soon(shop: Workshop) -> None:
    answer = await shop.run("missing")

    assert (answer.status, dict(answer.headers)) == (503, PUT_OFF)
    assert error_of(answer) == {
        "type": "UnknownTask",
        "reason": "unknown_task",
        "message": (
            "no task is named 'missing' here (there are none at all); is the module that defines it "
            "imported? A task that was renamed keeps its old name with aliases=[...]"
        ),
        "traceback": None,
    }


async def test_a_task_that_is_not_here_after_the_window_is_dead(shop: Workshop, clock: ManualClock) -> None:
    message = shop.delivery(shop.envelope("missing"))

    statuses = []
    for _ in range(4):
        statuses.append((await shop.executor.execute(message)).status)
        clock.advance(minutes=4)
    answer = await shop.executor.execute(message)

    assert statuses == [503, 503, 503, 489]
    assert (answer.status, answer.headers) == (489, FOR_GOOD)
    assert error_of(answer)["reason"] == "unknown_task"


async def test_a_fresh_message_has_the_whole_window_whatever_others_have_waited(
    shop: Workshop, clock: ManualClock
) -> None:
    old = shop.delivery(shop.envelope("missing"))
    await shop.executor.execute(old)
    clock.advance(minutes=9)
    fresh = shop.delivery(shop.envelope("missing"))
    await shop.executor.execute(fresh)
    clock.advance(minutes=2)

    assert [(await shop.executor.execute(each)).status for each in (old, fresh)] == [489, 503]


async def test_what_comes_out_of_a_long_queue_has_the_whole_window(
    shop: Workshop, clock: ManualClock
) -> None:
    message = shop.delivery(shop.envelope("missing"))
    clock.advance(hours=5)

    assert (await shop.executor.execute(message)).status == 503


async def test_a_call_that_was_to_wait_has_the_whole_window_from_its_instant(
    shop: Workshop, clock: ManualClock
) -> None:
    await shop.run("missing")
    message = shop.delivery(shop.envelope("missing", start_at=NOW + 540_000))
    clock.advance(minutes=9)
    await shop.run("missing")
    clock.advance(minutes=2)

    assert (await shop.executor.execute(message)).status == 503


async def test_a_name_that_nobody_asks_for_any_more_starts_anew(shop: Workshop, clock: ManualClock) -> None:
    message = shop.delivery(shop.envelope("missing"))
    await shop.executor.execute(message)
    clock.advance(hours=2)

    assert (await shop.executor.execute(message)).status == 503


async def test_a_step_of_the_wall_clock_does_not_shorten_the_window(
    shop: Workshop, clock: ManualClock
) -> None:
    message = shop.delivery(shop.envelope("missing"))
    await shop.executor.execute(message)
    clock.step_wall(86_400_000)

    assert (await shop.executor.execute(message)).status == 503


async def test_many_unknown_names_are_forgotten_oldest_first(shop: Workshop, clock: ManualClock) -> None:
    await shop.run("first")
    for number in range(1000):
        await shop.run(f"missing {number}")
    clock.advance(minutes=10)

    forgotten = shop.delivery(shop.envelope("first", enqueued_at=NOW))
    known = shop.delivery(shop.envelope("missing 999", enqueued_at=NOW))

    assert [(await shop.executor.execute(each)).status for each in (known, forgotten)] == [489, 503]


async def test_near_names_are_named(shop: Workshop) -> None:
    for name in ("shop.mail.welcome", "shop.mail.goodbye", "unlike"):
        shop.task(greet, name)

    answer = await shop.run("shop.mial.welcome")

    assert "(near it: 'shop.mail.welcome')" in error_of(answer)["message"]


async def test_where_no_name_is_near_the_known_ones_are_named(shop: Workshop) -> None:
    for number in range(12):
        shop.task(greet, f"task{number:02}")

    answer = await shop.run("quite different")

    assert "known: 'task00', 'task01'" in error_of(answer)["message"]
    assert "'task09', …)" in error_of(answer)["message"]


async def test_a_task_is_found_by_its_alias(shop: Workshop) -> None:
    shop.task(greet, "new", aliases=["old"])

    assert (await shop.run("old", "Ann")).body == b'"hi, Ann"'


# --- arguments that no longer fit -----------------------------------------------------------------


async def test_a_new_optional_parameter_fits_old_calls(shop: Workshop) -> None:
    greeting(shop)

    assert (await greeted(shop, "Ann")).body == b'"hi, Ann"'


async def test_a_new_required_parameter_is_named(shop: Workshop) -> None:
    greeting(shop)

    answer = await greeted(shop, subject="hello")

    assert (answer.status, answer.headers) == (489, FOR_GOOD)
    assert error_of(answer)["message"] == (
        "task greet was enqueued with arguments that its present signature does not take: greet() missing 1 "
        "required argument: 'recipient'; give a new parameter a default, or raise the task's version and "
        "convert with @greet.upgrade(from_version=1)"
    )


# --- versions -------------------------------------------------------------------------------------


async def test_an_upgrade_converts_old_arguments_as_they_were_sent(shop: Workshop) -> None:
    task = greeting(shop, version=2)

    @task.upgrade(from_version=1)
    def _(to: str, polite: bool = False) -> Mapping[str, Any]:
        return {"recipient": to, "subject": "good day" if polite else "hi"}

    answers = [await greeted(shop, "Ann"), await greeted(shop, "Ann", polite=True)]
    answers.append(await greeted(shop, "Bob", "new", version=2))

    assert [each.body for each in answers] == [b'"hi, Ann"', b'"good day, Ann"', b'"new, Bob"']


async def test_upgrades_follow_one_another(shop: Workshop) -> None:
    task = greeting(shop, version=3)

    @task.upgrade(from_version=2)
    def _(name: str) -> Mapping[str, Any]:
        return {"recipient": name.upper()}

    @task.upgrade(from_version=1)
    def _(names: list[str]) -> Mapping[str, Any]:
        return {"name": names[0]}

    answers = [await greeted(shop, ["Ann"]), await greeted(shop, "Bob", version=2)]

    assert [each.body for each in answers] == [b'"hi, ANN"', b'"hi, BOB"']


async def test_a_missing_upgrade_is_named(shop: Workshop) -> None:
    task = greeting(shop, version=3)
    task.upgrade(from_version=1)(lambda **old: old)

    answer = await greeted(shop, "Ann", version=2)

    assert (answer.status, answer.headers) == (489, FOR_GOOD)
    assert error_of(answer)["message"] == (
        "task greet was enqueued with arguments of version 2, which is now 3; no function converts them from "
        "version 2: write one with @greet.upgrade(from_version=2)"
    )


async def test_a_newer_version_waits_as_an_unknown_task_does(shop: Workshop, clock: ManualClock) -> None:
    greeting(shop, version=2)
    message = shop.delivery(shop.envelope("greet", "Ann", version=3))

    early = await shop.executor.execute(message)
    clock.advance(minutes=10)
    late = await shop.executor.execute(message)

    assert (early.status, dict(early.headers)) == (503, PUT_OFF)
    assert (late.status, error_of(late)["reason"]) == (489, "unknown_task")
    assert error_of(late)["message"] == (
        "task greet was enqueued with arguments of version 3, but here it is at version 2; is a newer "
        "version of the app being rolled out, or was it rolled back?"
    )


async def test_an_upgrade_that_raises_is_dead_with_its_traceback() -> None:
    shop = Workshop(redact=["hunter2"])
    task = greeting(shop, version=2)

    @task.upgrade(from_version=1)
    def _(to: str) -> Mapping[str, Any]:
        raise LookupError("no hunter2")

    answer = await greeted(shop, "Ann")

    assert (answer.status, answer.headers) == (489, FOR_GOOD)
    error = error_of(answer)
    assert error["message"] == "the upgrade of task greet from version 1 raised LookupError: no ***"
    assert 'raise LookupError("no ***")' in error["traceback"]


async def test_an_upgrade_that_gives_no_dict_is_dead(shop: Workshop) -> None:
    task: Any = greeting(shop, version=2)
    task.upgrade(from_version=1)(lambda to: [to])

    assert error_of(await greeted(shop, "Ann"))["message"] == (
        "the upgrade of task greet from version 1 gave list; it is to give a dict of the new arguments by "
        "name"
    )


async def test_what_an_upgrade_gives_must_fit(shop: Workshop) -> None:
    greeting(shop, version=2).upgrade(from_version=1)(lambda to: {"recipient": 7})

    message = error_of(await greeted(shop, "Ann"))["message"]

    assert "task greet was enqueued and upgraded from version 1 with arguments" in message
    assert "recipient: expected str, got int" in message


def test_an_upgrade_is_shared_by_the_same_task_with_other_options(shop: Workshop) -> None:
    task = greeting(shop, version=2)
    told = task.with_options(retries=0)
    task.upgrade(from_version=1)(lambda to: {"recipient": to})

    assert told.upgrades == task.upgrades != {}


@pytest.mark.parametrize("version", [0, -1, "2", 1.0, True])
def test_a_version_is_a_number_from_1(shop: Workshop, version: Any) -> None:
    with pytest.raises(TaskDefinitionError, match=r"task greet: version=.* it is a number from 1"):
        greeting(shop, version=version)


@pytest.mark.parametrize("version", [0, 2, 3, "1"])
def test_an_upgrade_is_from_an_earlier_version(shop: Workshop, version: Any) -> None:
    task = greeting(shop, version=2)

    with pytest.raises(TaskDefinitionError, match="task greet is at version 2, so there is no upgrade from"):
        task.upgrade(from_version=version)


def test_a_version_has_one_upgrade(shop: Workshop) -> None:
    task = greeting(shop, version=2)
    task.upgrade(from_version=1)(lambda to: {})

    with pytest.raises(TaskDefinitionError, match="two upgrades from version 1; leave one"):
        task.upgrade(from_version=1)(lambda to: {})


def test_an_upgrade_is_a_plain_function(shop: Workshop) -> None:
    async def upgrade(to: str) -> Mapping[str, Any]:
        return {}

    task: Any = greeting(shop, version=2)

    for each in (upgrade, None, dict):
        with pytest.raises(TaskDefinitionError, match="must be a plain function"):
            task.upgrade(from_version=1)(each)
