"""The limits of hosted QStash's plans, as published, and what of an app's tasks is beyond them.

The figures are those of Upstash's pricing and documentation pages as read on 2026-08-21. None stands
for a figure that those pages do not give. A limit that only a call can meet is left to the broker,
which answers 412.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qtasks.errors import ConfigurationError
from qtasks.protocol.durations import format_duration
from qtasks.protocol.headers import QueueSpec
from qtasks.tasks.options import TaskOptions

AS_OF = "2026-08-21"
MIB = 1024 * 1024
MINUTE_MS = 60_000
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one plan allows; `max_response_ms` is how long a delivery may take."""

    name: str
    max_message_bytes: int
    max_parallelism: int
    dead_letter_retention_ms: int
    max_retries: int | None = None
    max_delay_ms: int | None = None
    max_response_ms: int | None = None
    max_queues: int | None = None
    max_schedules: int | None = None
    max_url_groups: int | None = None


PLANS = {
    each.name: each
    for each in (
        Plan(
            "free",
            max_message_bytes=MIB,
            max_parallelism=2,
            dead_letter_retention_ms=3 * DAY_MS,
            max_retries=5,
            max_delay_ms=7 * DAY_MS,
            max_response_ms=15 * MINUTE_MS,
            max_queues=10,
            max_schedules=10,
            max_url_groups=1,
        ),
        Plan(
            "pay-as-you-go",
            max_message_bytes=10 * MIB,
            max_parallelism=100,
            dead_letter_retention_ms=7 * DAY_MS,
            max_retries=20,
            max_delay_ms=365 * DAY_MS,
            max_response_ms=120 * MINUTE_MS,
            max_queues=100,
            max_schedules=1000,
            max_url_groups=100,
        ),
        Plan(
            "fixed-1m", max_message_bytes=50 * MIB, max_parallelism=200, dead_letter_retention_ms=30 * DAY_MS
        ),
        Plan(
            "fixed-10m",
            max_message_bytes=50 * MIB,
            max_parallelism=1000,
            dead_letter_retention_ms=90 * DAY_MS,
        ),
    )
}


def find_plan(name: str) -> Plan:
    """Give the plan of that name; raises `ConfigurationError`."""
    plan = PLANS.get(name.lower())
    if plan is None:
        raise ConfigurationError(f"QTASKS_QSTASH_PLAN is {name!r}; it must be one of {', '.join(PLANS)}")
    return plan


def check_plan(plan: Plan, tasks: Mapping[str, TaskOptions], queues: Mapping[str, QueueSpec]) -> None:
    """Raise `ConfigurationError` naming everything in an app that its plan does not allow."""
    found = [*_too_much_of_queues(plan, queues), *_too_much_of_tasks(plan, tasks)]
    if found:
        raise ConfigurationError(
            f"hosted QStash's plan {plan.name!r} (limits as of {AS_OF}) does not allow: {'; '.join(found)}. "
            "Ask for less, or name your plan in QTASKS_QSTASH_PLAN"
        )


def _too_much_of_queues(plan: Plan, queues: Mapping[str, QueueSpec]) -> Iterator[str]:
    """Unordered queues are flow-control keys, of which there may be any number."""
    ordered = {name: spec for name, spec in queues.items() if spec.ordered}
    if plan.max_queues is not None and len(ordered) > plan.max_queues:
        yield f"{len(ordered)} ordered queues, at most {plan.max_queues}"
    for name, spec in ordered.items():
        if spec.parallelism > plan.max_parallelism:
            yield f"queue {name!r}: parallelism={spec.parallelism}, at most {plan.max_parallelism}"


def _too_much_of_tasks(plan: Plan, tasks: Mapping[str, TaskOptions]) -> Iterator[str]:
    for name, options in tasks.items():
        if plan.max_retries is not None and options.retries > plan.max_retries:
            yield f"task {name}: retries={options.retries}, at most {plan.max_retries}"
        if plan.max_response_ms is not None and options.timeout_ms > plan.max_response_ms:
            longest = format_duration(plan.max_response_ms)
            yield f"task {name}: timeout={format_duration(options.timeout_ms)}, at most {longest}"
