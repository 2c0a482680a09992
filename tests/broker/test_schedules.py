"""Schedules: what a fire makes, when, how often (promise P15), and what is made up for after a pause."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qtasks.broker.catch_up import fires_due
from qtasks.broker.store import schedules
from qtasks.broker.store.records import Reply
from qtasks.errors import BadRequest, NotFound, QuotaExceeded
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Callback, Options
from qtasks.protocol.redact import Redaction
from qtasks.protocol.resources import Endpoint, RunState
from qtasks.protocol.shapes import Outgoing
from tests.broker.conftest import MakeRig
from tests.support.broker import HOOK, Rig

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


def at(text: str) -> int:
    """Read an instant in UTC as Unix ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def start_at(rig: Rig, text: str) -> None:
    rig.clock.advance(ms=at(text) - rig.clock.now())


def schedule(rig: Rig, cron: str = "* * * * *", destination: str = HOOK, **options: Any) -> str:
    """Make a schedule whose messages have the body `tick`."""
    asked = Options(cron=parse_cron(cron), **options)
    return rig.broker.schedules.create(Outgoing(destination, b"tick", asked, caller_ip="203.0.113.7"))


async def fires(rig: Rig, minutes: int, step_ms: int = MINUTE_MS) -> list[int]:
    """Let minutes pass, one step of the scheduler after the other; give the instants of what was made."""
    made: list[int] = []
    for _ in range(minutes * MINUTE_MS // step_ms):
        rig.clock.advance(ms=step_ms)
        made += [rig.clock.now()] * await rig.node.scheduler.step()
    return made


# --- a fire ---------------------------------------------------------------------------------------


async def test_a_fire_makes_a_message_that_is_delivered(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:30")
    id_ = schedule(rig, "*/2 * * * *", content_type="text/plain", labels=("nightly",), method="PUT")

    made = await fires(rig, 4)
    await rig.turn()

    assert [each % HOUR_MS // MINUTE_MS for each in made] == [2, 4]
    [first, _] = rig.deliverer.attempts
    assert (first.body, first.method, first.extras.schedule_id) == (b"tick", "PUT", id_)
    assert (first.headers, first.caller_ip) == ((("Content-Type", "text/plain"),), "203.0.113.7")
    assert {each.schedule_id for each in rig.log(first.id)} == {id_}
    assert rig.broker.message(first.id).labels == ("nightly",)


async def test_a_fire_comes_once_however_often_the_scheduler_looks(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    schedule(rig)

    made = await fires(rig, 5, step_ms=1000)

    assert len(made) == 5


async def test_two_nodes_fire_once_together(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    schedule(rig)
    other = rig.new_node()
    rig.clock.advance(minutes=1)

    made = [await each.scheduler.step() for each in (rig.node, other, rig.node)]

    assert made == [1, 0, 0]


async def test_a_fire_belongs_to_whoever_moves_the_schedule_on(rig: Rig) -> None:
    """Two nodes may read the same due schedule; the second to write finds that it has moved."""
    start_at(rig, "2030-01-01T00:00:00")
    schedule(rig)
    rig.clock.advance(minutes=1)
    now = rig.clock.now()
    due = rig.database.look(lambda session: schedules.find_due(session, now, 10))

    made = [rig.database.run(lambda session: rig.broker.schedules.fire(session, due, now)) for _ in range(2)]

    assert made == [1, 0]


async def test_fires_and_the_move_to_the_next_are_one(make_rig: MakeRig, tmp_path: Path) -> None:
    """A fire that cannot be stored leaves its schedule where it was, to be tried again."""
    rig = make_rig()
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(rig)
    rig.clock.advance(minutes=1)
    rig.database._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(Exception, match=r"readonly|written|failed"):
        await rig.node.scheduler.step()

    rig.database._writer.execute("PRAGMA query_only = OFF")
    rig.database._failure = None

    assert await rig.node.scheduler.step() == 1
    assert rig.broker.schedules.one(id_).last_schedule_time == at("2030-01-01T00:01:00")


async def test_a_group_is_found_anew_at_each_fire(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    rig.broker.url_groups.add("orders", [Endpoint("https://a.example"), Endpoint("https://b.example", "b")])
    id_ = schedule(rig, destination="orders")

    first = await fires(rig, 1)
    rig.broker.url_groups.remove("orders", [("https://a.example", None)])
    rig.broker.url_groups.set_headers("orders", [("Upstash-Retries", "7")])
    second = await fires(rig, 1)
    await rig.turn()
    rig.broker.url_groups.delete("orders")
    third = await fires(rig, 1)

    assert (len(first), len(second), len(third)) == (2, 1, 0)
    assert [(each.url, each.max_retries) for each in rig.deliverer.attempts] == [
        ("https://a.example", 3),
        ("https://b.example", 3),
        ("https://b.example", 7),
    ]
    view = rig.broker.schedules.one(id_)
    assert (view.error, view.last_schedule_states) == ("topic orders not found", {})
    assert view.next_schedule_time == at("2030-01-01T00:04:00")


async def test_messages_go_into_the_queue_of_their_schedule(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    rig.broker.set_queue("mail", 3, paused=True)
    schedule(rig, schedule_queue="mail")

    await fires(rig, 2)

    view = rig.broker.queue("mail")
    assert (view.lag, view.parallelism, view.paused) == (2, 3, True)


async def test_a_delay_counts_from_each_fire(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    schedule(rig, "0 * * * *", delay_ms=90_000)
    await fires(rig, 60)

    assert await rig.turn() == 0
    rig.clock.advance(ms=90_000)

    assert await rig.turn() == 1


async def test_a_deduplication_id_would_stop_all_but_the_first_and_is_left_out(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    schedule(rig, dedup_id="once", content_dedup=True)

    assert len(await fires(rig, 3)) == 3


# --- what is shown --------------------------------------------------------------------------------


async def test_a_schedule_is_shown_with_all_that_it_was_made_of(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(
        rig,
        "CRON_TZ=Europe/Berlin 0 4 * * *",
        schedule_id="nightly",
        retries=5,
        timeout_ms=90_000,
        delay_ms=10_000,
        retry_delay="1000",
        labels=("import", "night"),
        content_type="application/json",
        callback=Callback("https://app.example/told", Options(forward=(("X-Key", "k"),))),
        flow=FlowSpec("tenant", rate=10, parallelism=2, period_ms=60_000),
    )

    view = rig.broker.schedules.one(id_)

    assert (id_, view.schedule_id, view.cron) == ("nightly", "nightly", "CRON_TZ=Europe/Berlin 0 4 * * *")
    assert (view.retries, view.timeout_s, view.delay_s, view.retry_delay_expression) == (5, 90, 10, "1000")
    assert (view.labels, view.header, view.body) == (
        ("import", "night"),
        {"Content-Type": ("application/json",)},
        b"tick",
    )
    assert (view.callback, view.callback_header) == ("https://app.example/told", {"X-Key": ("k",)})
    assert (view.flow_control_key, view.rate, view.parallelism, view.period_s) == ("tenant", 10, 2, 60)
    assert (view.last_schedule_time, view.next_schedule_time) == (None, at("2030-01-01T03:00:00"))
    assert [each.schedule_id for each in rig.broker.schedules.all()] == ["nightly"]


async def test_the_last_run_is_shown_with_what_became_of_it(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(rig, retries=0)
    await fires(rig, 1)
    waiting = rig.broker.schedules.one(id_).last_schedule_states
    await rig.turn()
    done = rig.broker.schedules.one(id_).last_schedule_states
    await fires(rig, 1)
    rig.deliverer.will(Reply(500))
    await rig.turn()
    failed = rig.broker.schedules.one(id_).last_schedule_states

    assert list(waiting.values()) == [RunState.IN_PROGRESS]
    assert list(done.values()) == [RunState.SUCCESS]
    assert list(failed.values()) == [RunState.FAIL]
    assert waiting.keys() == done.keys() != failed.keys()


async def test_what_is_to_be_hidden_is_hidden_in_a_schedule_and_in_what_it_makes(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(rig, redact=Redaction(body=True), content_type="text/plain")
    await fires(rig, 1)
    await rig.turn()

    assert rig.broker.schedules.one(id_).body.startswith(b"REDACTED:")
    [claim] = rig.deliverer.attempts
    assert (claim.body, rig.broker.message(claim.id).body[:9]) == (b"tick", b"REDACTED:")


# --- steering -------------------------------------------------------------------------------------


async def test_a_schedule_made_again_is_replaced_whole_but_for_its_creation(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    created_at = rig.clock.now()
    schedule(rig, "0 1 * * *", schedule_id="nightly", retries=1, labels=("old",))
    rig.broker.schedules.set_paused("nightly", True)
    rig.clock.advance(minutes=5)

    schedule(rig, "0 2 * * *", schedule_id="nightly")

    view = rig.broker.schedules.one("nightly")
    assert (view.created_at, view.cron, view.retries, view.labels) == (created_at, "0 2 * * *", 3, ())
    assert (view.is_paused, view.next_schedule_time) == (False, at("2030-01-01T02:00:00"))


async def test_a_paused_schedule_makes_nothing_and_makes_up_for_nothing(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(rig, catch_up="all")
    rig.broker.schedules.set_paused(id_, True)
    paused = rig.broker.schedules.one(id_)
    made = await fires(rig, 5)

    rig.broker.schedules.set_paused(id_, False)

    assert (made, paused.is_paused, paused.next_schedule_time) == ([], True, None)
    assert len(await fires(rig, 2)) == 2


async def test_pausing_and_resuming_twice_changes_nothing(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(rig)
    for paused in (True, True, False):
        rig.broker.schedules.set_paused(id_, paused)
    before = rig.broker.schedules.one(id_).next_schedule_time
    rig.clock.advance(minutes=1)

    rig.broker.schedules.set_paused(id_, False)

    assert rig.broker.schedules.one(id_).next_schedule_time == before  # still due, not passed over


async def test_a_deleted_schedule_fires_no_more_and_its_messages_go_on(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    id_ = schedule(rig)
    await fires(rig, 1)

    rig.broker.schedules.delete(id_)
    rig.broker.schedules.delete(id_)

    assert await fires(rig, 2) == []
    assert await rig.turn() == 1
    with pytest.raises(NotFound, match=f"schedule {id_} not found"):
        rig.broker.schedules.one(id_)


@pytest.mark.parametrize("act", ["pause", "resume"])
async def test_a_schedule_that_is_not_there_cannot_be_steered(rig: Rig, act: str) -> None:
    with pytest.raises(NotFound, match="schedule nobody not found"):
        rig.broker.schedules.set_paused("nobody", act == "pause")


@pytest.mark.parametrize(
    ("destination", "options", "text"),
    [
        (HOOK, {"not_before": 1}, "Upstash-Not-Before: a schedule cannot have one"),
        (HOOK, {"task_id": "tsk_1"}, "Qtasks-Task-Id: it names one call, and a schedule makes many"),
        (HOOK, {"schedule_queue": "mail", "delay_ms": 1000}, "Upstash-Delay: a message in a queue"),
        (HOOK, {"schedule_queue": "mail", "flow": FlowSpec("k", rate=1)}, "Upstash-Flow-Control-Key"),
        ("app.example/hook", {}, "endpoint has invalid scheme"),
        ("https://127.0.0.1.example\\@x/", {}, "backslash"),
        ("api/llm", {}, "api/llm is not configured"),
    ],
)
async def test_what_no_fire_could_make_is_refused_at_once(
    rig: Rig, destination: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        schedule(rig, destination=destination, **options)

    assert text in str(caught.value)
    assert rig.broker.schedules.all() == []


async def test_a_schedule_for_a_group_that_is_not_there_is_refused(rig: Rig) -> None:
    with pytest.raises(NotFound, match="topic orders not found"):
        schedule(rig, destination="orders")


async def test_a_schedule_without_cron_is_refused(rig: Rig) -> None:
    with pytest.raises(BadRequest, match="Upstash-Cron: a schedule needs a cron expression"):
        rig.broker.schedules.create(Outgoing(HOOK, b"", Options()))


async def test_there_are_no_more_schedules_than_the_quota(make_rig: MakeRig) -> None:
    rig = make_rig(max_schedules=1)
    schedule(rig, schedule_id="one")
    schedule(rig, schedule_id="one")

    with pytest.raises(QuotaExceeded, match="quota maxSchedules exceeded, current limit: 1"):
        schedule(rig, schedule_id="two")


# --- missed fires ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "made"), [(None, 1), ("latest", 1), ("all", 10), ("none", 1)])
async def test_after_a_downtime_the_policy_says_what_is_made_up_for(
    rig: Rig, policy: str | None, made: int
) -> None:
    """Ten fires were missed; the last of them is hardly late, so that even `none` makes it."""
    start_at(rig, "2030-01-01T00:00:30")
    schedule(rig, catch_up=policy)
    rig.clock.advance(minutes=10)

    assert await rig.new_node().scheduler.step() == made
    assert len(await fires(rig, 3)) == 3


@pytest.mark.parametrize(("policy", "made"), [("latest", 1), ("all", 3), ("none", 0)])
async def test_fires_that_are_long_past_are_made_up_for_unless_none_are_wanted(
    rig: Rig, policy: str, made: int
) -> None:
    start_at(rig, "2030-01-01T00:30:00")
    schedule(rig, "0 * * * *", catch_up=policy)
    rig.clock.advance(hours=3)

    assert await rig.node.scheduler.step() == made


async def test_all_of_very_many_missed_fires_are_made_step_by_step(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:30")
    schedule(rig, catch_up="all")
    rig.clock.advance(minutes=250)

    made = [await rig.node.scheduler.step() for _ in range(4)]

    assert made == [100, 100, 50, 0]


async def test_a_strict_broker_makes_up_for_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(strict=True)
    start_at(rig, "2030-01-01T00:30:00")
    schedule(rig, "0 * * * *", catch_up="all")
    rig.clock.advance(hours=3)

    assert await rig.node.scheduler.step() == 0


@pytest.mark.parametrize("policy", ["latest", "all", "none"])
def test_every_fire_is_made_once_or_passed_over_for_good(policy: str) -> None:
    cron = parse_cron("CRON_TZ=Europe/Berlin */7 * * * *")
    now = at("2030-03-30T22:00:00")
    next_at = cron.next_after(now)
    made: list[int] = []
    for wait_ms in (500, 61_000, 7 * MINUTE_MS, 3 * HOUR_MS, 30 * HOUR_MS, 1, 1, 13 * MINUTE_MS) * 3:
        now += wait_ms
        while next_at <= now:
            due = fires_due(cron, next_at, now, policy)
            made += due.fires
            next_at = due.next_at

    assert made == sorted(set(made))
    assert next_at == cron.next_after(now)


async def test_a_wall_clock_set_back_makes_no_fire_again(rig: Rig) -> None:
    start_at(rig, "2030-01-01T12:00:30")
    schedule(rig)
    before = await fires(rig, 3)

    rig.clock.step_wall(-3 * 24 * HOUR_MS)
    during = await fires(rig, 10)
    rig.clock.step_wall(3 * 24 * HOUR_MS)
    after = await fires(rig, 3)

    assert (len(before), during) == (3, [])
    assert 3 <= len(after) <= 4


# --- daylight saving ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "begin", "minutes", "fired"),
    [
        # 2030-03-31, 01:00 UTC: 02:00 to 03:00 is skipped in Berlin.
        ("30 2 * * *", "2030-03-31T00:00:00", 180, ["01:00"]),
        ("0 3 * * *", "2030-03-31T00:00:00", 180, ["01:00"]),
        ("*/30 * * * *", "2030-03-31T00:10:00", 90, ["00:30", "01:00", "01:30"]),
        # 2030-10-27, 01:00 UTC: 02:00 to 03:00 comes twice.
        ("30 2 * * *", "2030-10-26T23:50:00", 180, ["00:30"]),
        ("30 * * * *", "2030-10-26T23:50:00", 180, ["00:30", "01:30", "02:30"]),
    ],
)
async def test_daylight_saving_goes_by_debian_s_rule(
    rig: Rig, cron: str, begin: str, minutes: int, fired: list[str]
) -> None:
    start_at(rig, begin)
    schedule(rig, f"CRON_TZ=Europe/Berlin {cron}")

    made = await fires(rig, minutes)

    assert [datetime.fromtimestamp(each / 1000, UTC).strftime("%H:%M") for each in made] == fired


# --- the loop -------------------------------------------------------------------------------------


async def test_the_loop_sleeps_until_the_next_fire_and_no_longer_than_a_second(rig: Rig) -> None:
    start_at(rig, "2030-01-01T00:00:58")
    rig.clock.advance(ms=600)
    schedule(rig)
    running = asyncio.create_task(rig.node.scheduler.run())
    await rig.clock.somebody_sleeps()

    rig.clock.advance(ms=1000)
    await rig.clock.somebody_sleeps()
    rig.clock.advance(ms=400)
    await rig.clock.somebody_sleeps()

    assert await rig.turn() == 1
    running.cancel()


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("options", '[["Upstash-Retries","x"]]', "Upstash-Retries: must be an integer"),
        ("options", '[["Upstash-Retries",1]]', "this schedule cannot be fired; the broker's log says why"),
        ("cron", "CRON_TZ=Mars/Olympus * * * * *", "unknown time zone"),
    ],
)
async def test_a_schedule_that_cannot_be_read_any_more_stops_no_other(
    rig: Rig, column: str, value: str, text: str
) -> None:
    start_at(rig, "2030-01-01T00:00:00")
    schedule(rig, schedule_id="odd")
    schedule(rig, schedule_id="sound")
    rig.database._writer.execute(f"UPDATE schedules SET {column} = ? WHERE id = 'odd'", (value,))

    made = await fires(rig, 2)

    assert len(made) == 2
    [(error,)] = rig.database._writer.execute("SELECT error FROM schedules WHERE id = 'odd'")
    assert text in error
