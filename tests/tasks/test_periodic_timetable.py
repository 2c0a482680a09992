"""What the code's schedules and a broker's differ in: made, changed, removed, and left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from qtasks import ConfigurationError, Periodic, cron, every
from qtasks.protocol.header_values import read_schedule_id
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.schedules import MARK, Timetable, make_timetable, schedule_id
from tests.support.tasks import NOW, OTHER_SECRET, SECRET, URL, Workshop

OLD_URL = "https://old.example/qtasks/run"


def timetable(
    schedules: Mapping[str, Periodic | list[Periodic]],
    *,
    app: str = "app",
    secrets: tuple[str, ...] = (SECRET,),
    url: str = URL,
    **options: Any,
) -> Timetable:
    """Give the timetable of an app whose tasks have these schedules."""
    workshop = Workshop(secrets=secrets)
    for name, each in schedules.items():
        workshop.task(_task, name, schedule=each, **options)
    return make_timetable(app, url, workshop.signer, workshop.registry, workshop.packer(url).scheduled)


async def _task(region: str = "eu") -> None: ...


def shown(message: Outgoing, *, is_paused: bool = False) -> ScheduleView:
    """Show a schedule as a broker does that was told of this message."""
    options = message.options
    timing = options.every or options.cron
    assert timing is not None
    assert options.schedule_id is not None
    return ScheduleView(
        schedule_id=options.schedule_id,
        cron=timing.text,
        destination=message.destination,
        created_at=NOW,
        header={name: (value,) for name, value in options.forward},
        body=message.body,
        retries=3,
        is_paused=is_paused,
    )


def on_broker(told: Timetable, *paused: str) -> list[ScheduleView]:
    """Show what a broker has that was told of a timetable."""
    return [shown(each, is_paused=id_ in paused) for id_, each in told.wanted.items()]


DAILY = {"report": cron("@daily")}
ID = "qt.app.report.1"


def test_a_broker_that_knows_nothing_is_told_all() -> None:
    wanted = timetable({"report": [cron("@daily"), every(hours=1, name="hourly", paused=True)], "sweep": []})

    changes = wanted.changes([])

    assert [each.options.schedule_id for each in changes.saved] == [ID, "qt.app.report.hourly"]
    assert (set(changes.paused), changes.gone) == ({"qt.app.report.hourly"}, [])


def test_what_is_as_the_code_has_it_is_left_alone() -> None:
    changes = timetable(DAILY).changes(on_broker(timetable(DAILY)))

    assert (changes.saved, changes.paused, changes.gone) == ([], frozenset(), [])


@pytest.mark.parametrize(
    "before",
    [
        timetable({"report": cron("@weekly")}),
        timetable({"report": cron("@daily", args=("us",))}),
        timetable({"report": cron("@daily", overlap="skip")}),
        timetable({"report": cron("@daily", catch_up="all")}),
        timetable(DAILY, retries=7),
        timetable(DAILY, queue="mail"),
        timetable(DAILY, expires=60),
        timetable(DAILY, url=OLD_URL),
        timetable(DAILY, secrets=(OTHER_SECRET,)),
    ],
    ids=["when", "arguments", "overlap", "catch-up", "retries", "queue", "expiry", "address", "secret"],
)
def test_what_the_code_says_otherwise_is_saved_anew(before: Timetable) -> None:
    changes = timetable(DAILY, secrets=(SECRET, OTHER_SECRET)).changes(on_broker(before))

    assert [each.options.schedule_id for each in changes.saved] == [ID]
    assert changes.gone == []


def test_what_is_gone_from_the_code_is_removed() -> None:
    before = timetable({"report": [cron("@daily"), every(hours=1)], "sweep": every(minutes=5)})

    changes = timetable(DAILY).changes(on_broker(before))

    assert (changes.saved, changes.gone) == ([], ["qt.app.report.2", "qt.app.sweep.1"])


def test_schedules_of_others_are_left_alone() -> None:
    """Another app's, one made by hand under a name like ours, and one of an app of our name elsewhere."""
    mine = timetable({"sweep": every(minutes=5)})
    [sweep] = on_broker(mine)
    others = [
        *on_broker(timetable(DAILY, app="app2")),
        *on_broker(timetable(DAILY, url=OLD_URL, secrets=(OTHER_SECRET,))),
        replace(sweep, schedule_id="qt.app.by-hand", header={}),
        replace(sweep, schedule_id="nightly"),
    ]

    changes = timetable({}).changes([*others, sweep])

    assert changes.gone == ["qt.app.sweep.1"]


def test_what_this_app_made_before_it_moved_is_removed_too() -> None:
    before = timetable({"sweep": every(minutes=5)}, url=OLD_URL)

    assert timetable({}).changes(on_broker(before)).gone == ["qt.app.sweep.1"]


def test_another_app_s_schedule_is_never_overwritten() -> None:
    other = timetable(DAILY, url=OLD_URL, secrets=(OTHER_SECRET,))

    with pytest.raises(ConfigurationError) as caught:
        timetable(DAILY).changes(on_broker(other))

    assert str(caught.value) == (
        "the broker has a schedule qt.app.report.1 already, which is not this app's; "
        "give this app a name of its own: QTasks(name=...) instead of 'app'"
    )


# --- pause ----------------------------------------------------------------------------------------

PAUSED = {"report": cron("@daily", paused=True)}
CHANGED = {"report": cron("@daily", args=("us",))}
CHANGED_PAUSED = {"report": cron("@daily", args=("us",), paused=True)}


@pytest.mark.parametrize(
    ("before", "was_paused", "after", "is_saved", "is_paused"),
    [
        (DAILY, True, DAILY, False, True),
        (PAUSED, False, PAUSED, False, False),
        (DAILY, True, CHANGED, True, True),
        (PAUSED, False, CHANGED_PAUSED, True, False),
        (DAILY, False, PAUSED, True, True),
        (PAUSED, True, DAILY, True, False),
        (PAUSED, True, CHANGED, True, False),
    ],
)
def test_a_pause_by_the_api_stays_until_the_code_says_otherwise(
    before: dict[str, Any], was_paused: bool, after: dict[str, Any], is_saved: bool, is_paused: bool
) -> None:
    found = on_broker(timetable(before), *([ID] if was_paused else []))

    changes = timetable(after).changes(found)

    assert bool(changes.saved) == is_saved
    assert (ID in changes.paused if is_saved else was_paused) == is_paused


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name", "id_"),
    [
        ("shop.mail.report", "1", "qt.app.shop.mail.report.1"),
        ("büro:report", "1", "qt.app.b_ro_report.1-"),
        ("b.ro:report", "1", "qt.app.b.ro_report.1-"),
        ("x" * 200, "nightly", f"qt.app.{'x' * 76}-"),
    ],
)
def test_an_id_shows_app_task_and_name_and_fits_into_a_path(task: str, name: str, id_: str) -> None:
    made = schedule_id("app", task, name)

    assert made.startswith(id_)
    assert len(made) <= 100
    assert read_schedule_id(made) == made


def test_names_that_look_alike_once_they_are_written_plainly_have_ids_of_their_own() -> None:
    assert len({schedule_id("app", name, "1") for name in ("a:b", "a b", "a/b", "a_b")}) == 4


def test_two_schedules_of_one_id_are_refused_when_the_app_starts() -> None:
    with pytest.raises(ConfigurationError) as caught:
        timetable({"report": every(hours=1, name="eu.1"), "report.eu": every(hours=1)})

    assert str(caught.value) == (
        "tasks report and report.eu both have a schedule qt.app.report.eu.1; "
        "give one of the schedules another name"
    )


def test_the_mark_is_one_more_header_of_the_message() -> None:
    [message] = timetable(DAILY).wanted.values()

    assert [name for name, _ in message.options.forward] == ["Qtasks-Signature", MARK]
