"""Schedules in the dialect of hosted QStash: what comes out the same, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from qtasks import Periodic, Queue, UnsupportedByBroker, cron, every
from qtasks.protocol.every import Every
from qtasks.protocol.headers import render_options
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.hosted_schedules import cron_of, in_schedule_dialect
from tests.support.tasks import NOW, Workshop

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000


def translated(schedule: Periodic, **options: Any) -> Outgoing:
    """Put the schedule of a task for hosted QStash."""
    workshop = Workshop()
    workshop.task(_task, "report", schedule=schedule, **options)
    task = workshop.registry.find("report")
    assert task is not None
    packer = workshop.packer(books=Queue(ordered=True))
    message = packer.scheduled(task, task.schedules[0], "qt.app.report.1")
    return in_schedule_dialect(message, task.name)


async def _task() -> None: ...


EVEN = [
    *(n * MINUTE for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *(n * HOUR for n in (1, 2, 3, 4, 6, 8, 12)),
    DAY,
    7 * DAY,
]


@pytest.mark.parametrize("interval_ms", EVEN)
def test_an_interval_that_cron_can_say_fires_at_the_same_instants(interval_ms: int) -> None:
    found = cron_of(Every(interval_ms), "report")
    fires = [NOW]
    while len(fires) < 200:
        fires.append(found.next_after(fires[-1]))

    assert fires[1] == Every(interval_ms).next_after(NOW)
    assert {after - before for before, after in pairwise(fires[1:])} == {interval_ms}


@pytest.mark.parametrize(
    "interval_ms", [SECOND, 30 * SECOND, 90 * SECOND, 7 * MINUTE, 90 * MINUTE, 5 * HOUR, 36 * HOUR, 2 * DAY]
)
def test_an_interval_that_cron_cannot_say_is_refused(interval_ms: int) -> None:
    with pytest.raises(UnsupportedByBroker) as caught:
        cron_of(Every(interval_ms), "schedule qt.app.report.1 of task report")

    assert str(caught.value) == (
        f"hosted QStash has cron expressions alone, and none fires every {interval_ms / 1000:g} s, as "
        "schedule qt.app.report.1 of task report asks; choose minutes that divide an hour, "
        "hours that divide a day, a day or a week"
    )
    assert caught.value.option == "schedule"


def test_every_interval_is_translated_exactly_or_refused() -> None:
    exact = set()
    for minutes in range(1, 8 * 24 * 60):
        try:
            cron_of(Every(minutes * MINUTE), "report")
        except UnsupportedByBroker:
            continue
        exact.add(minutes * MINUTE)

    assert exact == set(EVEN)


def test_none_of_our_own_headers_is_left() -> None:
    message = translated(every(minutes=5), queue="mail", label="night")

    names = [name for name, _ in render_options(message.options)]
    assert not [each for each in names if each.startswith("Qtasks-")]
    assert dict(render_options(message.options))["Upstash-Cron"] == "*/5 * * * *"
    assert {"Upstash-Schedule-Id", "Upstash-Label", "Upstash-Forward-Qtasks-Signature"} <= set(names)


def test_an_unordered_queue_is_a_key_and_an_ordered_one_a_queue() -> None:
    wide = translated(cron("@daily"), queue="mail").options
    ordered = translated(cron("@daily"), queue="books").options

    assert wide.flow is not None
    assert (wide.schedule_queue, wide.flow.key, wide.flow.parallelism) == (None, "mail", 16)
    assert (ordered.schedule_queue, ordered.flow) == ("books", None)


@pytest.mark.parametrize(
    ("schedule", "options", "text"),
    [
        (cron("@daily", overlap="skip"), {}, "cannot do overlap='skip', as schedule qt.app.report.1 of task"),
        (cron("@daily", catch_up="all"), {}, "cannot do catch_up='all'"),
        (cron("@daily", catch_up="none"), {}, "cannot do catch_up='none'"),
        (cron("@daily"), {"expires": 60}, r"cannot do expires=60\.0"),
        (cron("@daily"), {"unique": True}, "cannot do unique=True"),
        (every(seconds=30), {}, "none fires every 30 s"),
    ],
)
def test_what_hosted_qstash_cannot_do_is_refused(
    schedule: Periodic, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UnsupportedByBroker, match=text):
        translated(schedule, **options)
