"""The limits of hosted QStash's plans: what an app asks for too much is named, all at once."""

from __future__ import annotations

import pytest

from qtasks import ConfigurationError
from qtasks.broker.config import BrokerConfig, strict_config
from qtasks.home.plans import PLANS, check_plan, find_plan
from qtasks.protocol.headers import QueueSpec
from qtasks.tasks.options import TaskOptions

HOUR_MS = 3_600_000


@pytest.mark.parametrize("name", ["free", "pay-as-you-go", "fixed-1m", "fixed-10m", "FREE"])
def test_a_plan_is_found_by_its_name_and_allows_what_nothing_is_said_of(name: str) -> None:
    check_plan(find_plan(name), {"note": TaskOptions()}, {"mail": QueueSpec(1000, ordered=False)})


def test_an_unknown_plan_is_refused_with_those_there_are() -> None:
    text = "QTASKS_QSTASH_PLAN is 'gold'; it must be one of free, pay-as-you-go, fixed-1m, fixed-10m"
    with pytest.raises(ConfigurationError, match=text):
        find_plan("gold")


@pytest.mark.parametrize(
    ("plan", "options", "text"),
    [
        (
            "free",
            TaskOptions(retries=6),
            r"allow: task note: retries=6, at most 5\. Ask",
        ),
        ("free", TaskOptions(timeout_ms=900_001), r"task note: timeout=900\.001s, at most 900s"),
        ("pay-as-you-go", TaskOptions(retries=21), "task note: retries=21, at most 20"),
        ("pay-as-you-go", TaskOptions(timeout_ms=3 * HOUR_MS), "task note: timeout=10800s, at most 7200s"),
    ],
)
def test_a_task_beyond_its_plan_is_named(plan: str, options: TaskOptions, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        check_plan(PLANS[plan], {"note": options}, {})


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        ("free", TaskOptions(retries=5, timeout_ms=900_000)),
        ("pay-as-you-go", TaskOptions(retries=20, timeout_ms=2 * HOUR_MS)),
        ("fixed-1m", TaskOptions(retries=1000, timeout_ms=9 * HOUR_MS)),
    ],
)
def test_what_a_plan_just_allows_is_fine(plan: str, options: TaskOptions) -> None:
    check_plan(PLANS[plan], {"note": options}, {"mail": QueueSpec(PLANS[plan].max_parallelism)})


def test_too_many_and_too_wide_queues_are_named_together() -> None:
    queues = {f"q{n}": QueueSpec(1 + n // 10) for n in range(11)} | {"q10": QueueSpec(3)}

    with pytest.raises(ConfigurationError) as caught:
        check_plan(PLANS["free"], {}, queues)

    assert "11 ordered queues, at most 10; queue 'q10': parallelism=3, at most 2. Ask" in str(caught.value)


def test_a_strict_broker_has_the_limits_of_the_plan_that_is_taken_for_granted() -> None:
    plan, strict = PLANS["pay-as-you-go"], strict_config(BrokerConfig())

    assert (plan.max_retries, plan.max_queues) == (strict.max_retries, strict.max_queues)
    assert (plan.max_message_bytes, plan.max_parallelism) == (
        strict.max_message_bytes,
        strict.max_parallelism,
    )
    assert plan.dead_letter_retention_ms == strict.dead_letter_retention_ms
    assert (plan.max_schedules, plan.max_url_groups) == (strict.max_schedules, strict.max_url_groups)
