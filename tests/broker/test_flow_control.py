"""Flow control: limits are used up and never passed, whatever happens to the broker (promise P10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from qtasks.broker.store import flow
from qtasks.broker.store.queues import QueueRow
from qtasks.broker.store.records import Claim, Reply
from qtasks.errors import NotFound
from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Outgoing
from tests.broker.conftest import MakeRig
from tests.support.broker import HOOK, Held, Rig

SECOND_MS = 1000


def publish(rig: Rig, key: str = "tenant", body: bytes = b"", **limits: int) -> str:
    """Publish with a flow-control key; `limits` are those of a `FlowSpec`."""
    [answer] = rig.broker.accept([Outgoing(HOOK, body, Options(flow=FlowSpec(key, **limits)))])
    return answer.message_id


def starts_by_window(attempts: Sequence[Claim], period_ms: int = SECOND_MS) -> Counter[int]:
    """Count the starts in each window that begins at a multiple of the period."""
    return Counter(each.started_at // period_ms for each in attempts)


# --- parallelism ----------------------------------------------------------------------------------


async def test_no_more_than_its_parallelism_of_a_key_is_in_flight(rig: Rig) -> None:
    held = [Held() for _ in range(2)]
    rig.deliverer.will(*held)
    for _ in range(5):
        publish(rig, parallelism=2)

    await rig.node.dispatcher.step()
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)

    view = rig.broker.flow_keys.one("tenant")
    assert (view.parallelism_max, view.parallelism_count, view.wait_list_size) == (2, 2, 3)
    for each in held:
        each.release()
    await rig.node.dispatcher.idle()
    while await rig.turn():
        pass
    assert len(rig.deliverer.attempts) == 5


async def test_a_message_that_waits_for_its_retry_holds_no_slot(rig: Rig) -> None:
    rig.deliverer.will(Reply(500))
    first, second = publish(rig, parallelism=1), publish(rig, parallelism=1)

    await rig.turn()
    await rig.turn()

    assert rig.states(first) == "CREATED, ACTIVE, ERROR, RETRY"
    assert rig.states(second) == "CREATED, ACTIVE, DELIVERED"


async def test_keys_do_not_wait_for_each_other(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    publish(rig, "slow", parallelism=1)
    publish(rig, "slow", parallelism=1)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    publish(rig, "quick", parallelism=1)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(2)

    assert [each.extras.flow and each.extras.flow.key for each in rig.deliverer.attempts] == ["slow", "quick"]
    held.release()
    await rig.node.dispatcher.idle()


# --- rate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "period_ms"), [(1, 1000), (3, 1000), (10, 60_000), (7, 3000)])
async def test_a_rate_is_used_whole_and_never_passed(rig: Rig, rate: int, period_ms: int) -> None:
    for _ in range(5 * rate):
        publish(rig, rate=rate, period_ms=period_ms)
    began_at = rig.clock.now()

    while len(rig.deliverer.attempts) < 5 * rate:
        await rig.turn()
        rig.clock.advance(ms=period_ms // 20)

    windows = Counter((each.started_at - began_at) // period_ms for each in rig.deliverer.attempts)
    assert max(windows.values()) == rate
    # All windows but the last are full: the limit is used to the whole.
    assert rig.deliverer.attempts[-1].started_at - began_at <= 5 * period_ms


async def test_the_window_begins_at_the_whole_second_that_is_shown(rig: Rig) -> None:
    rig.clock.advance(ms=900)
    for _ in range(4):
        publish(rig, rate=2)

    await rig.turn()
    view = rig.broker.flow_keys.one("tenant")
    rig.clock.advance(ms=100)
    await rig.turn()

    assert view.rate_period_start_s * SECOND_MS <= rig.deliverer.attempts[0].started_at
    assert starts_by_window(rig.deliverer.attempts) == {
        view.rate_period_start_s: 2,
        view.rate_period_start_s + 1: 2,
    }


async def test_the_dispatcher_sleeps_until_the_next_window(rig: Rig) -> None:
    for _ in range(2):
        publish(rig, rate=1, period_ms=60_000)

    claimed = await rig.node.dispatcher.step()
    await rig.node.dispatcher.idle()
    after = await rig.node.dispatcher.step()

    assert len(claimed.claims) == 1
    assert after.next_due_at == rig.clock.now() // SECOND_MS * SECOND_MS + 60_000


async def test_a_rate_holds_over_a_restart_in_the_middle_of_its_window(rig: Rig) -> None:
    for _ in range(6):
        publish(rig, rate=3, period_ms=10_000)
    await rig.turn()

    node = rig.new_node()
    await node.recover()
    rig.clock.advance(ms=500)
    claimed = await node.dispatcher.step()

    assert claimed.claims == []


async def test_an_attempt_at_a_crash_stays_counted_in_its_window(rig: Rig) -> None:
    publish(rig, rate=1, period_ms=10_000)
    rig.deliverer.will(Held())
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)

    node = rig.new_node()
    await node.recover()

    assert (await node.dispatcher.step()).claims == []
    rig.clock.advance(seconds=10)
    assert len((await node.dispatcher.step()).claims) == 1


async def test_a_retry_spends_the_rate_again(rig: Rig) -> None:
    rig.deliverer.will(Reply(500, (("Retry-After", "0"),)))
    publish(rig, rate=1, period_ms=10_000)

    await rig.turn()
    assert await rig.turn() == 0
    rig.clock.advance(seconds=10)

    assert await rig.turn() == 1


async def test_both_limits_must_pass(rig: Rig) -> None:
    held = Held()
    rig.deliverer.will(held)
    for _ in range(3):
        publish(rig, rate=2, period_ms=10_000, parallelism=1)
    await rig.node.dispatcher.step()
    await rig.deliverer.reached(1)
    assert (await rig.node.dispatcher.step()).claims == []

    held.release()
    await rig.node.dispatcher.idle()

    assert [await rig.turn(), await rig.turn()] == [1, 0]


@pytest.mark.parametrize("by_ms", [-3 * 86_400_000, 3 * 86_400_000])
async def test_a_wall_clock_that_is_set_does_not_stop_a_key(rig: Rig, by_ms: int) -> None:
    for _ in range(2):
        publish(rig, rate=1)
    await rig.turn()

    rig.clock.step_wall(by_ms)
    rig.clock.advance(seconds=1)

    assert await rig.turn() == 1


@pytest.mark.parametrize("back_ms", [1, 500, 999, 3000])
def test_a_clock_set_back_a_little_or_behind_another_node_s_stays_in_the_window(back_ms: int) -> None:
    queue = QueueRow(1, "flow:k", 1, False, rate=5, period_ms=1000, window_at=10_000, window_count=5)

    assert flow.window_of(queue, 10_000 - back_ms) == flow.Window(10_000, 11_000, 5)
    assert flow.left_in_window(queue, 10_000 - back_ms) == 0


# --- steering -------------------------------------------------------------------------------------


async def test_the_newest_message_decides_the_limits_of_all_that_wait(rig: Rig) -> None:
    for _ in range(4):
        publish(rig, parallelism=1)
    publish(rig, parallelism=3)
    rig.deliverer.will(*(Held() for _ in range(3)))

    assert len((await rig.node.dispatcher.step()).claims) == 3
    await rig.node.dispatcher.drain(0)


async def test_a_pinned_limit_stays_whatever_messages_say(rig: Rig) -> None:
    rig.broker.flow_keys.pin("tenant", parallelism=2, rate=4, period_ms=60_000)

    publish(rig, parallelism=9, rate=9)

    view = rig.broker.flow_keys.one("tenant")
    assert (view.parallelism_max, view.rate_max, view.rate_period_s) == (2, 4, 60)
    assert (view.is_pinned_parallelism, view.is_pinned_rate) == (True, True)


async def test_an_unpinned_limit_stays_until_the_next_message(rig: Rig) -> None:
    rig.broker.flow_keys.pin("tenant", parallelism=2, rate=None, period_ms=1000)

    rig.broker.flow_keys.unpin("tenant", parallelism=True, rate=True)
    before = rig.broker.flow_keys.one("tenant")
    publish(rig, parallelism=5)

    assert (before.parallelism_max, before.is_pinned_parallelism) == (2, False)
    assert rig.broker.flow_keys.one("tenant").parallelism_max == 5


async def test_a_paused_key_starts_nothing_and_loses_nothing(rig: Rig) -> None:
    rig.broker.flow_keys.set_paused("tenant", True)
    publish(rig, parallelism=2)

    assert await rig.turn() == 0
    assert rig.broker.flow_keys.one("tenant").is_paused
    rig.broker.flow_keys.set_paused("tenant", False)

    assert await rig.turn() == 1


async def test_a_reset_begins_a_new_window(rig: Rig) -> None:
    for _ in range(2):
        publish(rig, rate=1, period_ms=60_000)
    await rig.turn()
    rig.clock.advance(seconds=5)

    rig.broker.flow_keys.reset_rate("tenant")

    assert rig.broker.flow_keys.one("tenant").rate_count == 0
    assert await rig.turn() == 1


async def test_a_key_that_was_never_used_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound, match="flow control key nobody not found"):
        rig.broker.flow_keys.one("nobody")


async def test_keys_are_no_queues_and_are_found_by_a_part_of_them(rig: Rig) -> None:
    publish(rig, "tenant-1", rate=1)
    publish(rig, "tenant-2", rate=1)
    publish(rig, "flow:odd/key", rate=1)

    assert rig.broker.queues() == []
    assert [each.key for each in rig.broker.flow_keys.all("tenant")] == ["tenant-1", "tenant-2"]
    assert [each.key for each in rig.broker.flow_keys.all("flow")] == ["flow:odd/key"]


async def test_a_key_that_nobody_uses_is_forgotten_in_the_end(make_rig: MakeRig) -> None:
    rig = make_rig(retention_ms=86_400_000)
    publish(rig, "idle", parallelism=1)
    rig.broker.flow_keys.pin("pinned", parallelism=1, rate=None, period_ms=1000)
    await rig.turn()

    rig.clock.advance(hours=48)
    publish(rig, "busy", parallelism=1)
    while await rig.node.janitor.step():
        pass

    assert [each.key for each in rig.broker.flow_keys.all()] == ["busy", "pinned"]


async def test_waiting_messages_start_in_the_order_in_which_they_came(rig: Rig) -> None:
    for number in range(20):
        publish(rig, body=str(number).encode(), rate=3)

    while len(rig.deliverer.attempts) < 20:
        await rig.turn()
        rig.clock.advance(ms=250)

    assert rig.deliverer.bodies == [str(number).encode() for number in range(20)]


async def test_a_thousand_keys_each_keep_their_own_limit(rig: Rig) -> None:
    for number in range(1000):
        publish(rig, f"tenant-{number}", rate=1)
        publish(rig, f"tenant-{number}", rate=1)

    began_at = rig.clock.now()
    while await rig.turn():
        pass
    first = Counter(each.extras.flow.key for each in rig.deliverer.attempts if each.extras.flow)
    rig.clock.advance(ms=SECOND_MS - began_at % SECOND_MS)
    while await rig.turn():
        pass

    assert set(first.values()) == {1}
    assert len(first) == 1000
    assert len(rig.deliverer.attempts) == 2000
