"""Schedules with an interval, those that let no two fires overlap, and what a message knows of its fire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from qtasks.broker.store.records import Reply
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.every import Every
from qtasks.protocol.headers import Options
from qtasks.protocol.resources import Endpoint, RunState
from qtasks.protocol.shapes import Outgoing, State
from tests.broker.conftest import MakeRig
from tests.support.broker import HOOK, Rig

HOUR_MS = 3_600_000
SKIPPED = "skipped: the messages of the fire before have not finished"
BEGIN = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp()) * 1000


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """Begin on the hour."""
    rig.clock.advance(ms=BEGIN - rig.clock.now())
    return rig


def schedule(rig: Rig, interval_ms: int = 1000, destination: str = HOOK, **options: Any) -> str:
    asked = Options(every=Every(interval_ms), **options)
    return rig.broker.schedules.create(Outgoing(destination, b"tick", asked))


async def fired(rig: Rig, seconds: int) -> list[float]:
    """Let seconds pass in quarters, as the loop would look; say after how many seconds something was made."""
    made: list[float] = []
    for _ in range(4 * seconds):
        rig.clock.advance(ms=250)
        made += [(rig.clock.now() - BEGIN) / 1000] * await rig.node.scheduler.step()
    return made


async def test_a_schedule_may_fire_every_second(rig: Rig) -> None:
    schedule(rig, 1000)

    assert await fired(rig, 10) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


async def test_intervals_need_not_fit_into_minutes_and_count_from_1970(rig: Rig) -> None:
    rig.clock.advance(ms=300)
    schedule(rig, 7000)

    made = await fired(rig, 30)

    first = 7 - BEGIN // 1000 % 7
    assert [round(each) for each in made] == [first, first + 7, first + 14, first + 21][: len(made)]
    assert len(made) == 4


async def test_each_tick_is_made_once_by_any_number_of_nodes_and_lives(rig: Rig) -> None:
    schedule(rig, 1000)
    nodes = [rig.node, rig.new_node(), rig.new_node()]
    made = 0
    for turn in range(12):
        rig.clock.advance(ms=500)
        made += await nodes[turn % 3].scheduler.step() + await nodes[turn % 2].scheduler.step()

    assert made == 6


async def test_an_interval_is_shown_where_others_show_their_cron_and_wins_over_it(rig: Rig) -> None:
    id_ = schedule(rig, 90_000, cron=parse_cron("@daily"))

    view = rig.broker.schedules.one(id_)

    assert (view.cron, view.next_schedule_time) == ("@every 90s", BEGIN + 90_000)


@pytest.mark.parametrize(("policy", "made"), [(None, 1), ("latest", 1), ("all", 100), ("none", 1)])
async def test_a_downtime_of_many_seconds_is_made_up_for_as_the_policy_says(
    rig: Rig, policy: str | None, made: int
) -> None:
    """With `none` the fire of this very second is none that was missed."""
    schedule(rig, 1000, catch_up=policy)
    rig.clock.advance(ms=HOUR_MS)

    assert await rig.new_node().scheduler.step() == made


async def test_none_of_a_long_interval_is_made_up_for_where_none_are_wanted(rig: Rig) -> None:
    schedule(rig, 600_000, catch_up="none")
    rig.clock.advance(ms=HOUR_MS + 120_000)

    assert await rig.node.scheduler.step() == 0


async def test_a_pause_is_not_made_up_for_by_an_interval_either(rig: Rig) -> None:
    id_ = schedule(rig, 1000, catch_up="all")
    rig.broker.schedules.set_paused(id_, True)
    assert await fired(rig, 5) == []

    rig.broker.schedules.set_paused(id_, False)

    assert await fired(rig, 2) == [6, 7]


# --- overlap --------------------------------------------------------------------------------------


async def test_fires_overlap_unless_that_is_not_wanted(rig: Rig) -> None:
    schedule(rig, 1000, overlap="allow")

    assert len(await fired(rig, 3)) == 3


async def test_a_fire_is_skipped_while_the_message_of_the_one_before_waits_or_is_retried(rig: Rig) -> None:
    id_ = schedule(rig, 1000, overlap="skip", retries=1)
    waiting = await fired(rig, 3)
    rig.deliverer.will(Reply(500))
    await rig.turn()
    retried = await fired(rig, 3)
    shown = rig.broker.schedules.one(id_)
    rig.clock.advance(ms=60_000)
    await rig.node.scheduler.step()
    await rig.turn()

    after = await rig.node.scheduler.step() + len(await fired(rig, 1))

    assert (waiting, retried, after) == ([1], [], 1)
    assert (shown.error, list(shown.last_schedule_states.values())) == (SKIPPED, [RunState.IN_PROGRESS])
    assert shown.last_schedule_time == BEGIN + 1000
    assert rig.broker.schedules.one(id_).error is None


async def test_a_dead_message_holds_up_no_fire(rig: Rig) -> None:
    schedule(rig, 1000, overlap="skip", retries=0)
    await fired(rig, 1)
    rig.deliverer.will(Reply(500))
    await rig.turn()

    assert await fired(rig, 1) == [2]


async def test_of_fires_that_were_missed_one_is_made_where_none_may_overlap(rig: Rig) -> None:
    id_ = schedule(rig, 1000, overlap="skip", catch_up="all")
    rig.clock.advance(ms=HOUR_MS)

    made = [await rig.node.scheduler.step() for _ in range(40)]

    assert sum(made) == 1
    assert rig.broker.schedules.one(id_).error == SKIPPED


async def test_a_schedule_waits_for_the_messages_to_all_endpoints(rig: Rig) -> None:
    rig.broker.url_groups.add("orders", [Endpoint("https://a.example"), Endpoint("https://b.example")])
    schedule(rig, 1000, "orders", overlap="skip", retries=5)
    assert len(await fired(rig, 1)) == 2
    rig.deliverer.will(Reply(200), Reply(500))
    await rig.turn()

    assert await fired(rig, 1) == []


async def test_one_schedule_does_not_wait_for_another(rig: Rig) -> None:
    schedule(rig, 1000, overlap="skip", schedule_id="one")
    schedule(rig, 1000, overlap="skip", schedule_id="two")

    assert await fired(rig, 2) == [1, 1]


# --- what is known of a fire ----------------------------------------------------------------------


async def test_a_message_knows_which_fire_it_is_for_also_when_that_was_missed(rig: Rig) -> None:
    schedule(rig, 60_000, catch_up="all")
    rig.clock.advance(ms=150_000)
    await rig.node.scheduler.step()

    await rig.turn()

    assert [each.extras.fired_at for each in rig.deliverer.attempts] == [BEGIN + 60_000, BEGIN + 120_000]


async def test_a_result_is_kept_of_each_fire_where_one_is_wanted(rig: Rig) -> None:
    schedule(rig, 1000, schedule_id="beat", result_ttl_ms=HOUR_MS)
    rig.deliverer.will(Reply(200, body=b"1"), Reply(200, body=b"2"))
    await fired(rig, 2)
    await rig.turn()

    found = [rig.broker.results.find(f"beat.{BEGIN + ms}") for ms in (1000, 2000, 3000)]

    assert [(each.state, each.value) for each in found] == [
        ("SUCCEEDED", b"1"),
        ("SUCCEEDED", b"2"),
        ("UNKNOWN", None),
    ]


async def test_a_replayed_fire_is_still_that_fire(rig: Rig) -> None:
    schedule(rig, 1000, schedule_id="beat", result_ttl_ms=HOUR_MS, retries=0)
    await fired(rig, 1)
    rig.deliverer.will(Reply(500), Reply(200, body=b"1"))
    await rig.turn()
    [letter] = rig.broker.dead_letters(None, 10)[0]
    assert letter.dlq_id is not None

    rig.broker.replay(letter.dlq_id, Options())
    await rig.turn()

    assert rig.deliverer.attempts[-1].extras.fired_at == BEGIN + 1000
    assert rig.broker.results.find(f"beat.{BEGIN + 1000}").state == "SUCCEEDED"


async def test_messages_to_several_endpoints_have_no_result(rig: Rig) -> None:
    rig.broker.url_groups.add("orders", [Endpoint("https://a.example"), Endpoint("https://b.example")])
    schedule(rig, 1000, "orders", result_ttl_ms=HOUR_MS)
    await fired(rig, 1)

    await rig.turn()

    assert {each.task_id for each in rig.deliverer.attempts} == {None}


# --- expiry and uniqueness ------------------------------------------------------------------------


async def test_a_message_expires_so_long_after_its_fire(rig: Rig) -> None:
    id_ = schedule(rig, 60_000, expires_after_ms=10_000)
    rig.clock.advance(ms=60_000)
    await rig.node.scheduler.step()
    [message_id] = rig.broker.schedules.one(id_).last_schedule_states
    rig.clock.advance(ms=10_001)

    await rig.turn()

    assert rig.deliverer.attempts == []
    last = rig.log(message_id)[-1]
    assert (last.state, last.error) == (State.CANCELED, "expired")


async def test_a_fire_that_is_made_up_for_too_late_makes_nothing_and_says_why(rig: Rig) -> None:
    id_ = schedule(rig, 60_000, expires_after_ms=10_000)
    rig.clock.advance(ms=75_000)

    made = await rig.node.scheduler.step()

    assert (made, rig.broker.schedules.one(id_).error) == (0, "expired: no broker was there in time")
    assert await fired(rig, 46) == [120]


@pytest.mark.parametrize("unique", ["started", "finished"])
async def test_a_fire_makes_nothing_while_another_message_has_its_key(rig: Rig, unique: str) -> None:
    id_ = schedule(rig, 1000, unique=unique, dedup_id="sweep")
    first = await fired(rig, 3)
    await rig.turn()
    second = await fired(rig, 1)

    assert (first, second) == ([1], [4])
    assert list(rig.broker.schedules.one(id_).last_schedule_states.values()) == [RunState.IN_PROGRESS]


async def test_a_key_of_a_fire_may_hold_for_a_window(rig: Rig) -> None:
    schedule(rig, 1000, dedup_window_ms=5000, dedup_id="sweep")

    assert await fired(rig, 10) == [1, 6]


async def test_a_strict_broker_tells_nothing_of_the_fire(make_rig: MakeRig) -> None:
    rig = make_rig(strict=True)
    rig.clock.advance(ms=BEGIN - rig.clock.now())
    rig.broker.schedules.create(Outgoing(HOOK, b"", Options(cron=parse_cron("* * * * *"))))
    rig.clock.advance(minutes=1)
    await rig.node.scheduler.step()

    await rig.turn()

    [claim] = rig.deliverer.attempts
    assert (claim.extras.fired_at, claim.task_id) == (None, None)
