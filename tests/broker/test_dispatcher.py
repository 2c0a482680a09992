"""The dispatcher with a hand-moved clock: `step`, `settle`, `idle`, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from qtasks.broker.delivery import Answer
from qtasks.broker.store.records import Claim, Reply
from qtasks.broker.store.sqlite import SqliteDatabase
from tests.broker.conftest import MakeRig
from tests.support.broker import SILENCE, SOON_S, WIDE, Held, Rig, ScriptedDeliverer
from tests.support.homes import until
from tests.support.store import DAY_MS

BROKEN = Reply(500, error="unexpected status 500")
DRAINING = Reply(503, (("Qtasks-Uncounted", "draining"),))
RUNNING = Reply(409, (("Qtasks-Uncounted", "running"), ("Retry-After", "5")))


def lag(rig: Rig, queue: str = "mail") -> int:
    return rig.broker.queue(queue).lag


async def until_answered(rig: Rig, count: int) -> None:
    """Let deliveries that can end do so, without settling them."""
    await rig.deliverer.reached(count)
    for _ in range(5):
        await asyncio.sleep(0)


# --- one message ----------------------------------------------------------------------------------


async def test_a_message_is_delivered(rig: Rig) -> None:
    message_id = rig.enqueue(b"hello")

    await rig.turn()

    assert rig.deliverer.bodies == [b"hello"]
    assert rig.states(message_id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_delivered_message_is_not_delivered_again(rig: Rig) -> None:
    rig.enqueue()

    assert [await rig.turn(), await rig.turn()] == [1, 0]


async def test_the_attempt_is_recorded_before_the_request_leaves(rig: Rig) -> None:
    message_id = rig.enqueue()
    seen: list[str] = []
    rig.deliverer.witness = lambda claim: seen.append(rig.states(claim.id))

    await rig.turn()

    assert seen == ["CREATED, ACTIVE"]
    assert rig.states(message_id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_failed_attempt_is_repeated_after_the_ladder_s_wait(rig: Rig) -> None:
    message_id = rig.enqueue()
    rig.deliverer.will(BROKEN)

    await rig.turn()
    rig.clock.advance(seconds=11.9)
    assert await rig.turn() == 0
    rig.clock.advance(seconds=1.5)
    assert await rig.turn() == 1

    assert [each.attempt for each in rig.deliverer.attempts] == [1, 2]
    assert rig.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, DELIVERED"


async def test_a_message_whose_retries_are_spent_is_dead(rig: Rig) -> None:
    message_id = rig.enqueue(retries=1)
    rig.deliverer.will(BROKEN, Reply(404, (("X-Id", "7"),), b"404 Not Found", "unexpected status 404"))

    await rig.turn()
    rig.clock.advance(hours=1)
    await rig.turn()
    rig.clock.advance(hours=100)
    await rig.turn()

    assert rig.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, ERROR, FAILED"
    [letter] = rig.store.dead_letters()
    assert (letter.response_status, letter.response_body) == (404, b"404 Not Found")


async def test_a_message_with_retries_is_tried_that_often_and_once(rig: Rig) -> None:
    rig.enqueue(retries=5)
    rig.deliverer.will(*[BROKEN] * 20)

    for _ in range(20):
        await rig.turn()
        rig.clock.advance(hours=30)

    assert [each.attempt for each in rig.deliverer.attempts] == [1, 2, 3, 4, 5, 6]


async def test_a_refusal_for_good_is_not_repeated(rig: Rig) -> None:
    message_id = rig.enqueue(retries=5)
    rig.deliverer.will(Reply(489, (("Upstash-NonRetryable-Error", "true"),), b"no"))

    await rig.turn()

    assert rig.states(message_id) == "CREATED, ACTIVE, ERROR, FAILED"


async def test_an_attempt_that_was_not_made_is_not_spent(rig: Rig) -> None:
    rig.call("tsk_1", retries=0)
    rig.deliverer.will(DRAINING, DRAINING, DRAINING)

    for _ in range(4):
        await rig.turn()
        rig.clock.advance(seconds=2)

    assert [each.attempt for each in rig.deliverer.attempts] == [1, 1, 1, 1]
    assert rig.broker.results.find("tsk_1").state == "SUCCEEDED"


async def test_what_runs_for_ever_in_the_app_is_dead_in_the_end(rig: Rig) -> None:
    rig.call("tsk_1", retries=1, timeout_ms=60_000)
    rig.deliverer.will(*[RUNNING] * 1000)

    for _ in range(100):
        await rig.turn()
        rig.clock.advance(minutes=1)

    assert rig.broker.results.find("tsk_1").state == "FAILED"


async def test_messages_of_an_ordered_queue_are_delivered_one_after_the_other(rig: Rig) -> None:
    for number in range(4):
        rig.enqueue(b"%d" % number)
    rig.deliverer.will(Reply(200), BROKEN)

    for _ in range(6):
        await rig.turn()
        rig.clock.advance(seconds=20)

    assert rig.deliverer.bodies == [b"0", b"1", b"1", b"2", b"3"]


# --- deliverers that misbehave --------------------------------------------------------------------


async def test_a_deliverer_that_raises_makes_a_failed_attempt(rig: Rig) -> None:
    message_id = rig.enqueue()
    rig.deliverer.will(RuntimeError("out of sockets"))

    await rig.turn()

    error = rig.log(message_id)[2]
    assert (error.error, error.response_status) == ("RuntimeError: out of sockets", 0)
    assert rig.states(message_id).endswith("ERROR, RETRY")


async def test_a_deliverer_that_raises_for_one_message_delivers_the_others(rig: Rig) -> None:
    rig.deliverer.will(RuntimeError("out of sockets"))
    for _ in range(3):
        rig.enqueue(queue="wide", spec=WIDE)

    await rig.turn()

    assert lag(rig, "wide") == 1


async def test_a_delivery_that_ends_without_a_reply_is_a_failed_attempt(rig: Rig) -> None:
    message_id = rig.enqueue()
    rig.deliverer.will(SILENCE)

    await rig.turn()

    assert rig.log(message_id)[2].error == "the delivery ended without a reply"


async def test_a_call_in_process_that_loses_its_reply_costs_its_neighbours_nothing(rig: Rig) -> None:
    rig.deliverer.will(Reply(200), SILENCE, Reply(200))
    for number in range(3):
        rig.call(f"tsk_{number}")

    await rig.turn()

    states = [rig.broker.results.find(f"tsk_{number}").state for number in range(3)]
    assert states == ["SUCCEEDED", "RETRYING", "SUCCEEDED"]


class Babbler(ScriptedDeliverer):
    """Answers more often than it was asked, and for what it was not asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.old: list[Claim] = []

    async def deliver(self, claims: Sequence[Claim]) -> AsyncIterator[Sequence[Answer]]:
        for claim in claims:
            for each in (*self.old, claim, claim):
                yield [(each, Reply(200))]
            self.old.append(claim)


async def test_answers_that_nobody_waits_for_are_dropped(rig: Rig) -> None:
    rig.deliverer = Babbler()
    rig.node = rig.new_node()
    ids = [rig.enqueue(), rig.enqueue()]

    await rig.turn()
    await rig.turn()

    assert [rig.states(each) for each in ids] == ["CREATED, ACTIVE, DELIVERED"] * 2


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, (("X-Name", "J\udcfcrgen"),)),
        Reply(500, error="it said \udcff"),
        Reply(500, body=b"\xff\xfe\x00"),
        Reply(500, (("X-Nul", "a\x00b"),), error="a\x00b"),
        Reply(99999),
    ],
    ids=["header", "error", "body", "nul", "status"],
)
async def test_whatever_a_destination_answers_can_be_recorded(rig: Rig, reply: Reply) -> None:
    message_id = rig.enqueue(retries=1)
    rig.deliverer.will(reply, reply)

    await rig.turn()
    rig.clock.advance(hours=1)
    await rig.turn()

    assert rig.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY, ACTIVE, ERROR, FAILED"
    assert len(rig.store.dead_letters()) == 1


async def test_a_success_with_an_odd_answer_is_a_success(rig: Rig) -> None:
    rig.call("tsk_1")
    rig.deliverer.will(Reply(200, (("X-Name", "J\udcfcrgen"),), b"\xff"))

    await rig.turn()

    assert rig.broker.results.find("tsk_1").state == "SUCCEEDED"


# --- slots ----------------------------------------------------------------------------------------


async def test_no_more_is_in_flight_than_the_concurrency(make_rig: MakeRig) -> None:
    rig = make_rig(concurrency=2)
    first, second = Held(), Held()
    rig.deliverer.will(first, second)
    for _ in range(4):
        rig.enqueue(queue="wide", spec=WIDE)
    dispatcher = rig.node.dispatcher

    assert len((await dispatcher.step()).claims) == 2
    assert len((await dispatcher.step()).claims) == 0
    first.release()
    await until_answered(rig, 2)
    await dispatcher.settle()

    assert len((await dispatcher.step()).claims) == 1
    second.release()
    await dispatcher.idle()


async def test_a_destination_that_never_answers_holds_its_own_slot_only(rig: Rig) -> None:
    stuck = Held()
    rig.deliverer.will(stuck)
    rig.enqueue(b"stuck", queue="slow")
    await rig.node.dispatcher.step()
    ids = [rig.enqueue(queue="fast") for _ in range(5)]

    for _ in range(5):
        await rig.node.dispatcher.step()
        await until_answered(rig, 1)
        await rig.node.dispatcher.settle()

    assert {rig.states(each) for each in ids} == {"CREATED, ACTIVE, DELIVERED"}
    assert rig.node.dispatcher.in_flight == 1
    stuck.release()
    await rig.node.dispatcher.idle()


async def test_replies_that_come_together_are_settled_together(rig: Rig) -> None:
    for _ in range(5):
        rig.enqueue(queue="wide", spec=WIDE)
    await rig.node.dispatcher.step()
    await until_answered(rig, 5)

    assert await rig.node.dispatcher.settle() == 5
    assert await rig.node.dispatcher.settle() == 0


async def make_suspects(rig: Rig, count: int) -> None:
    """Let messages be in flight at two crashes in a row."""
    for _ in range(count):
        rig.enqueue(queue="wide", spec=WIDE)
    for life in (1, 2):
        rig.deliverer.will(*[Held() for _ in range(count)])
        await rig.node.dispatcher.step()
        await rig.deliverer.reached(life * count)
        rig.node = rig.new_node()
        await rig.node.recover()


async def test_a_suspect_is_followed_by_the_next_once_it_has_answered(rig: Rig) -> None:
    await make_suspects(rig, 3)

    claimed = [await rig.turn() for _ in range(4)]

    assert claimed == [1, 1, 1, 0]
    assert lag(rig, "wide") == 0


async def test_the_end_of_a_suspect_begins_the_next(rig: Rig) -> None:
    await make_suspects(rig, 3)
    dispatcher = rig.node.dispatcher
    await dispatcher.step()
    before = len(rig.deliverer.attempts)

    for ended in (1, 2, 3):
        await until_answered(rig, before - 1 + ended)
        await dispatcher.settle_and_claim()

    assert lag(rig, "wide") == 0


async def test_a_suspect_that_takes_long_does_not_hold_up_the_next_for_ever(rig: Rig) -> None:
    await make_suspects(rig, 2)
    first = Held()
    rig.deliverer.will(first)
    dispatcher = rig.node.dispatcher

    assert len((await dispatcher.step()).claims) == 1
    assert len((await dispatcher.step()).claims) == 0
    rig.clock.advance(seconds=5)

    assert len((await dispatcher.step()).claims) == 1
    first.release()
    await dispatcher.idle()


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_ms", [-3 * DAY_MS, 3 * DAY_MS], ids=["back", "forward"])
async def test_a_retry_waits_as_long_as_it_would_when_the_clock_is_set(rig: Rig, step_ms: int) -> None:
    rig.enqueue()
    rig.deliverer.will(BROKEN)
    await rig.turn()

    rig.clock.step_wall(step_ms)
    rig.clock.advance(seconds=11)
    assert await rig.turn() == 0
    rig.clock.advance(seconds=3)

    assert await rig.turn() == 1


class Shared:
    """A store that others may work on as well."""

    is_shared = True

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


async def test_a_node_of_many_that_was_suspended_does_not_put_off_the_retries_of_all(rig: Rig) -> None:
    shared: Any = Shared(rig.database)
    rig.node.dispatcher._database = shared
    rig.enqueue()
    rig.deliverer.will(BROKEN)
    await rig.turn()

    rig.clock.step_wall(3_600_000)  # its monotonic clock stood still for that hour

    assert await rig.turn() == 1


@pytest.mark.parametrize("step_ms", [-3 * DAY_MS, 3 * DAY_MS], ids=["back", "forward"])
async def test_nothing_is_lost_or_repeated_when_the_clock_is_set_while_it_is_in_flight(
    rig: Rig, step_ms: int
) -> None:
    held = Held()
    rig.deliverer.will(held)
    message_id = rig.enqueue()
    await rig.node.dispatcher.step()

    rig.clock.step_wall(step_ms)
    await rig.node.dispatcher.step()
    held.release()
    await rig.node.dispatcher.idle()
    rig.clock.advance(hours=1)
    await rig.turn()

    assert len(rig.deliverer.attempts) == 1
    assert rig.states(message_id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_message_delayed_to_an_instant_waits_for_that_instant(rig: Rig) -> None:
    rig.enqueue(queue="wide", spec=WIDE, start_at=rig.clock.now() + 10_000)

    rig.clock.step_wall(-5000)
    rig.clock.advance(14_999)
    assert await rig.turn() == 0
    rig.clock.advance(1)

    assert await rig.turn() == 1


# --- a store that cannot be written ---------------------------------------------------------------


def fill(rig: Rig) -> None:
    """Leave no page free."""
    pages = rig.database._writer.execute("PRAGMA page_count").fetchone()[0]
    rig.database._writer.execute(f"PRAGMA max_page_count = {pages}")


def make_room(rig: Rig) -> None:
    rig.database._writer.execute("PRAGMA max_page_count = 1000000")


async def test_a_verdict_that_finds_no_room_is_recorded_once_there_is_some(rig: Rig) -> None:
    message_id = rig.enqueue()
    rig.deliverer.will(Reply(500, body=b"x" * 50_000))
    await rig.node.dispatcher.step()
    fill(rig)

    settling = asyncio.ensure_future(rig.node.dispatcher.idle())
    await rig.clock.somebody_sleeps()
    assert rig.states(message_id) == "CREATED, ACTIVE"
    make_room(rig)
    rig.clock.advance(seconds=1)
    async with asyncio.timeout(SOON_S):
        await settling

    assert rig.states(message_id) == "CREATED, ACTIVE, ERROR, RETRY"
    assert len(rig.deliverer.attempts) == 1


async def test_a_store_that_has_failed_for_good_stops_the_dispatcher(rig: Rig) -> None:
    rig.enqueue()
    await rig.node.start()
    await rig.deliverer.reached(1)
    held = Held()
    rig.deliverer.will(held)
    rig.enqueue(b"second")
    await rig.deliverer.reached(2)

    rig.database._fail("the disk is gone")
    held.release()
    async with asyncio.timeout(SOON_S):
        await rig.node.dispatcher._stopping.wait()

    assert len((await rig.node.dispatcher.step()).claims) == 0
    await asyncio.gather(rig.node.stop(0), return_exceptions=True)


async def test_a_node_whose_store_has_failed_still_lets_go_of_its_connections(rig: Rig) -> None:
    rig.deliverer.will(Held())
    rig.enqueue()
    await rig.node.start()
    await rig.deliverer.reached(1)
    rig.database._fail("the disk is gone")

    await asyncio.gather(rig.node.stop(0), return_exceptions=True)

    assert rig.deliverer.is_closed


# --- the end --------------------------------------------------------------------------------------


async def test_a_stopped_dispatcher_claims_nothing_more(rig: Rig) -> None:
    rig.enqueue()

    rig.node.dispatcher.stop_claiming()

    assert await rig.turn() == 0


async def test_a_drain_lets_what_is_in_flight_end(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    message_id = rig.enqueue()
    await rig.node.start()
    await rig.deliverer.reached(1)

    stopping = asyncio.ensure_future(rig.node.stop(25_000))
    await rig.clock.somebody_sleeps()
    held.release()
    async with asyncio.timeout(SOON_S):
        assert await stopping == 0

    assert rig.states(message_id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_drain_hands_back_what_does_not_end_in_time_and_spends_no_attempt(rig: Rig) -> None:
    rig.deliverer.will(Held())
    message_id = rig.enqueue()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    draining = asyncio.ensure_future(rig.node.dispatcher.drain(25_000))
    await rig.clock.somebody_sleeps()
    rig.clock.advance(seconds=25)
    async with asyncio.timeout(SOON_S):
        assert await draining == 1

    assert rig.node.dispatcher.in_flight == 0
    rig.node = rig.new_node()
    assert await rig.node.recover() == 0
    await rig.turn()
    assert rig.deliverer.attempts[-1].attempt == 1
    assert "ERROR" not in rig.states(message_id)


async def test_a_drain_waits_no_longer_than_its_grace(rig: Rig) -> None:
    rig.deliverer.will(Held())
    rig.enqueue()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    draining = asyncio.ensure_future(rig.node.dispatcher.drain(25_000))
    await rig.clock.somebody_sleeps()

    rig.clock.advance(24_999)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not draining.done()
    rig.clock.advance(1)

    async with asyncio.timeout(SOON_S):
        assert await draining == 1


async def test_a_drain_with_nothing_in_flight_ends_at_once(rig: Rig) -> None:
    async with asyncio.timeout(SOON_S):
        assert await rig.node.dispatcher.drain(25_000) == 0


async def test_a_drain_can_be_cut_short(rig: Rig) -> None:
    rig.deliverer.will(Held())
    rig.enqueue()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    draining = asyncio.ensure_future(rig.node.dispatcher.drain(25_000))
    await rig.clock.somebody_sleeps()

    rig.node.dispatcher.hurry()

    async with asyncio.timeout(SOON_S):
        assert await draining == 1


async def test_a_reply_that_came_before_the_end_of_the_grace_is_recorded_and_not_handed_back(
    rig: Rig,
) -> None:
    """Handing it back would deliver it again, though nothing went wrong (promise P11)."""
    message_id = rig.enqueue()
    await rig.node.dispatcher.step()
    await until_answered(rig, 1)

    assert await rig.node.dispatcher.drain(0) == 0

    assert rig.states(message_id) == "CREATED, ACTIVE, DELIVERED"


async def test_a_node_delivers_by_itself_until_it_is_stopped(rig: Rig) -> None:
    rig.enqueue(b"before")
    await rig.node.start()
    await rig.deliverer.reached(1)

    rig.enqueue(b"while it runs", queue="other")
    await rig.deliverer.reached(2)
    assert await rig.node.stop() == 0
    rig.enqueue(b"after")

    assert rig.deliverer.bodies == [b"before", b"while it runs"]
    assert rig.deliverer.is_closed


async def test_a_node_that_starts_takes_up_what_an_earlier_life_had_in_flight(rig: Rig) -> None:
    rig.deliverer.will(Held())
    rig.enqueue(b"hello")
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    second = rig.new_node()
    await second.start()
    await rig.deliverer.reached(2)
    await second.stop()

    assert [each.attempt for each in rig.deliverer.attempts] == [1, 2]
    assert lag(rig) == 0


async def test_whoever_waits_for_a_task_learns_of_its_end(rig: Rig) -> None:
    held = Held(Reply(200, body=b'"done"'))
    rig.deliverer.will(held)
    rig.call("tsk_1")
    await rig.node.start()
    await rig.deliverer.reached(1)

    waiting = asyncio.ensure_future(rig.broker.results.afind("tsk_1", 60_000))
    await asyncio.sleep(0)
    held.release()
    async with asyncio.timeout(SOON_S):
        found = await waiting

    assert (found.state, found.value) == ("SUCCEEDED", b'"done"')
    await rig.node.stop()


async def test_of_a_task_that_is_under_way_here_the_store_is_asked_only_at_its_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, asked = Held(Reply(200, body=b'"done"')), list[str]()
    rig.deliverer.will(held)
    rig.call("tsk_1")
    await rig.node.start()
    await rig.deliverer.reached(1)
    read = rig.database.read

    async def noted(work: Any, *, is_small: bool = False) -> Any:
        if is_small:  # the scheduler asks too, for more
            asked.append("released" if held.released.is_set() else "held")
        return await read(work, is_small=is_small)

    monkeypatch.setattr(rig.database, "read", noted)
    waiting = asyncio.ensure_future(rig.broker.results.afind("tsk_1", 60_000))
    await asyncio.sleep(0)
    held.release()
    async with asyncio.timeout(SOON_S):
        await waiting

    assert asked == ["released"]
    await rig.node.stop()


async def test_whoever_waits_between_two_attempts_learns_of_the_end_too(rig: Rig) -> None:
    rig.deliverer.will(BROKEN)
    rig.call("tsk_1")
    await rig.node.start()
    await rig.deliverer.reached(1)
    await until(lambda: rig.broker.results.find("tsk_1").state == "RETRYING")

    waiting = asyncio.ensure_future(rig.broker.results.afind("tsk_1", 3_600_000))
    await rig.clock.somebody_sleeps()
    rig.clock.advance(hours=1)
    async with asyncio.timeout(SOON_S):
        found = await waiting

    assert (found.state, found.attempts) == ("SUCCEEDED", 2)
    await rig.node.stop()


# --- what is logged -------------------------------------------------------------------------------


async def test_a_dead_message_is_logged_with_its_facts_and_without_its_content(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = rig.enqueue(b"the secret body", retries=0)
    rig.deliverer.will(Reply(500, body=b"the secret answer", error="unexpected status 500"))

    with caplog.at_level(logging.DEBUG, logger="qtasks"):
        await rig.turn()

    [record] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert (record.name, record.message) == ("qtasks.dispatcher", "message is dead")
    facts = record.__dict__
    assert (facts["message_id"], facts["queue"], facts["attempt"]) == (message_id, "mail", 1)
    assert "secret" not in str(facts)


async def test_nothing_is_logged_above_info_when_all_goes_well(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.enqueue()

    with caplog.at_level(logging.INFO, logger="qtasks"):
        await rig.turn()

    assert [each.message for each in caplog.records] == ["delivered"]


# --- large bodies ---------------------------------------------------------------------------------


async def test_large_bodies_wait_until_there_is_room_for_them(make_rig: MakeRig) -> None:
    rig = make_rig(in_flight_bytes=200_000)
    held = [Held() for _ in range(3)]
    rig.deliverer.will(*held)
    for number in range(4):
        rig.enqueue(bytes([number]) * 100_000, queue="large", spec=WIDE)

    await rig.node.dispatcher.step()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)
    assert rig.node.dispatcher.in_flight == 2

    held[0].release()
    await until_answered(rig, 2)
    await rig.node.dispatcher.settle_and_claim()
    await rig.deliverer.reached(3)

    assert [each[0] for each in rig.deliverer.bodies] == [0, 1, 2]
    for each in held:
        each.release()
    await rig.node.dispatcher.idle()
    assert await rig.turn() == 1


async def test_one_body_larger_than_all_the_room_is_delivered_all_the_same(make_rig: MakeRig) -> None:
    rig = make_rig(in_flight_bytes=1)
    rig.enqueue(b"x" * 100_000, queue="large", spec=WIDE)
    rig.enqueue(b"y" * 100_000, queue="large", spec=WIDE)

    assert [await rig.turn(), await rig.turn(), await rig.turn()] == [1, 1, 0]


async def test_small_messages_pass_large_ones_that_wait(make_rig: MakeRig) -> None:
    rig = make_rig(in_flight_bytes=1)
    held = Held()
    rig.deliverer.will(held)
    for _ in range(2):
        rig.enqueue(b"x" * 100_000, queue="large", spec=WIDE)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    rig.enqueue(b"small", queue="mail", spec=WIDE)
    claimed = await rig.node.dispatcher.step()

    assert [each.body for each in claimed.claims] == [b"small"]
    held.release()
    await rig.node.dispatcher.idle()


# --- walls ----------------------------------------------------------------------------------------


async def test_a_reply_that_cannot_be_judged_stops_no_other(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is stored that would do this; a broken row of the database could."""
    odd = rig.enqueue(b"odd", queue="a", retry_delay="1000")
    sound = rig.enqueue(b"sound", queue="b")
    rig.database._writer.execute("UPDATE messages SET retry_delay = '((' WHERE id = ?", (odd,))
    rig.deliverer.will(BROKEN)

    await rig.turn()

    assert rig.states(odd) == "CREATED, ACTIVE, ERROR, RETRY"
    assert rig.log(odd)[2].error == "the reply could not be judged: InvalidValue"
    assert rig.states(sound) == "CREATED, ACTIVE, DELIVERED"
    assert "cannot judge a reply" in caplog.text
