"""Time in a kit: moved by hand, from one due instant to the next."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qtasks import Context, QTasks, Task, cron, every
from qtasks.clock import ManualClock
from qtasks.errors import InvalidValue, KitError
from qtasks.tasks.periodic import Periodic
from qtasks.testing import Drained, Kit
from qtasks.testing.clocks import FollowingCaller, KitClock
from tests.support import shop

START = datetime(2024, 3, 1, 8, 59, 30, tzinfo=UTC)


def test_a_delayed_call_runs_at_its_instant_and_not_before(kit: Kit) -> None:
    shop.send_email.apply_async(["a@example.com"], countdown="1h")

    assert kit.drain() == Drained()
    assert kit.advance(minutes=59, seconds=59) == Drained()
    assert kit.advance(seconds=1) == Drained(delivered=1, succeeded=1)


def test_an_instant_of_the_machine_s_clock_is_reached_by_the_span_that_it_is_away(kit: Kit) -> None:
    shop.remind_tomorrow("a@example.com")

    assert kit.advance(hours=23) == Drained()
    assert kit.advance(hours=1) == Drained(delivered=1, succeeded=1)


def test_retries_run_at_their_own_instants_whatever_jitter_the_app_has(kit: Kit) -> None:
    seen: list[datetime] = []
    app = QTasks(defaults={"retry_jitter": 1.0})

    @app.task(retries=3)
    def note() -> None:
        seen.append(kit.now)
        raise OSError("not today")

    note.delay()
    began_at = kit.now
    assert kit.advance(days=2) == Drained(delivered=4, retried=3, dead=1)

    waits = [round((each - began_at).total_seconds(), 1) for each in seen]
    assert waits == [0, 12, 160, 1968]
    assert kit.now == began_at + timedelta(days=2)


def test_what_falls_due_runs_in_the_order_of_its_instants(kit: Kit) -> None:
    for minutes in (30, 10, 20):
        shop.attempt_of.apply_async([str(minutes)], countdown=f"{minutes}m")

    kit.advance("1h")

    assert [each[0] for each in shop.done if isinstance(each, tuple)] == ["10", "20", "30"]


def test_a_task_sees_the_kit_s_time(kit: Kit) -> None:
    app, seen = QTasks(), list[tuple[datetime, datetime | None]]()

    @app.task(bind=True, timeout="1m")
    async def note(context: Context) -> None:
        seen.append((kit.now, context.deadline))

    note.apply_async(countdown="1h")
    kit.advance(hours=2)

    [(ran_at, deadline)] = seen
    assert deadline == ran_at + timedelta(minutes=1)
    assert kit.enqueued(note)[0].scheduled_at == ran_at


def test_waiting_runs_retries_and_delays_as_well(kit: Kit) -> None:
    shop.charge.delay(shop.Order(-1))
    shop.send_email.apply_async(["a@example.com"], countdown="10d")
    began_at = kit.now

    assert kit.drain(wait=True) == Drained(delivered=4, succeeded=1, retried=2, dead=1)
    assert timedelta(days=10) <= kit.now - began_at < timedelta(days=10, seconds=10)
    assert kit.drain(wait=True) == Drained()


async def test_an_async_test_moves_time_on_its_own_loop(kit: Kit) -> None:
    shop.send_email.apply_async(["a@example.com"], countdown="1h")

    assert await kit.aadvance(timedelta(minutes=30), minutes=30) == Drained(delivered=1, succeeded=1)


def test_time_goes_forward_only(kit: Kit) -> None:
    with pytest.raises(InvalidValue, match="at least 0"):
        kit.advance(-1)
    with pytest.raises(InvalidValue, match="at least 0"):
        kit.advance(hours=-1)


def test_a_start_needs_a_time_zone() -> None:
    with pytest.raises(KitError, match="has no time zone"):
        Kit(now=START.replace(tzinfo=None))


def test_a_schedule_fires_at_each_of_its_instants() -> None:
    with Kit(now=START) as kit:
        report = periodic(cron("0 * * * *"))

        assert kit.drain() == Drained()
        assert kit.advance(seconds=20) == Drained()
        assert kit.advance(seconds=10).succeeded == 1
        assert kit.advance(hours=5).succeeded == 5

        instants = [START.replace(hour=hour, minute=0, second=0) for hour in range(9, 15)]
        calls = kit.enqueued(report)
        assert [each.scheduled_at for each in calls] == instants
        assert kit.results(report) == [f"report of {each:%H:%M}" for each in instants]
        assert {(each.schedule, each.state) for each in calls} == {("1", "SUCCEEDED")}
        assert calls[0].task_id.endswith(f"{instants[0].timestamp():.0f}000")


def test_calls_of_a_schedule_are_retried_and_die_as_any_other() -> None:
    with Kit(now=START) as kit:
        report = periodic(cron("0 9 * * *"))
        kit.fail_next(report, OSError("no paper"), times=4)
        kit.advance(hours=10)

        [dead] = kit.dead_letters
        assert dead.message == "no paper"
        assert (dead.call.schedule, dead.call.state) == ("1", "FAILED")


def test_schedules_are_no_reason_to_wait() -> None:
    with Kit(now=START) as kit:
        periodic(cron("* * * * *"))
        shop.send_email.apply_async(["a@example.com"], countdown="140s")

        assert kit.drain(wait=True) == Drained(delivered=3, succeeded=3)


def test_apps_of_one_name_have_schedules_of_their_own() -> None:
    with Kit(now=START) as kit:
        for _ in range(2):
            periodic(every(hours=1))

        assert kit.advance(hours=1).succeeded == 2


def test_a_task_that_is_declared_in_a_kit_is_not_late(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    periodic(every(hours=1))

    assert not [each for each in caplog.records if each.name == "qtasks.schedules"]


def test_a_paused_queue_does_not_hold_up_the_clock(kit: Kit) -> None:
    shop.register("a@example.com")
    kit._rounds.broker.set_paused("mail", True)
    shop.send_email.apply_async(["b@example.com"], countdown="1m")

    assert kit.drain(wait=True) == Drained()
    assert kit.advance(hours=1) == Drained()
    kit._rounds.broker.set_paused("mail", False)
    assert kit.drain().succeeded == 2


def test_the_clock_follows_the_machine_s_by_no_more_than_it_has_moved() -> None:
    machine = ManualClock(1_000)
    clock = KitClock(5_000, machine)
    clock.move(60_000)
    machine.advance(seconds=3)
    assert clock.now() == 65_000

    clock.follow()
    assert clock.now() == 68_001
    machine.step_wall(-10_000)
    clock.follow()
    assert clock.now() == 68_001


def test_the_clock_follows_with_each_call_but_not_while_tasks_run() -> None:
    machine = ManualClock(1_000)
    clock = KitClock(None, machine)
    held = [True]
    caller = FollowingCaller(shop.tasks._caller, clock, lambda: held[0])
    machine.advance(seconds=3)

    assert caller.send == shop.tasks._caller.send
    assert clock.now() == 1_000
    held.clear()
    held.append(False)
    assert caller.send == shop.tasks._caller.send
    assert clock.now() == 4_001


def periodic(schedule: Periodic) -> Task[[], str, Coroutine[Any, Any, str]]:
    """Make an app with a task that the clock calls."""
    app = QTasks(name="clockwork")

    @app.task(name="report", schedule=schedule, bind=True)
    async def report(context: Context) -> str:
        return f"report of {context.scheduled_at:%H:%M}"

    return report
