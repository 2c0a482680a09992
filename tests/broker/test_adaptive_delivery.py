"""What a destination sees of a backlog: what it takes, a ramp after an outage, and no storm (promise P18).

The dispatcher itself in virtual time, with destinations of a known capacity.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from qtasks.broker.standings import place_of
from qtasks.broker.store.records import Reply
from tests.support import repeats
from tests.support.destinations import Destination, Site, play

HOOK = "http://app.example/work"
OTHER = "http://other.example/work"
BUSY = Reply(429)
ASK_1_S = Reply(429, (("Retry-After", "1"),))
OVERLOADED = Reply(503, (("Retry-After", "2"),))
LADDER_MS = 13_200
"""The first wait of a refused attempt whose destination does not say how long."""
TAKES_MS = 100
SLOTS = 64


def site(destination: Destination, seed: int = 1, other: Destination | None = None) -> Site:
    return Site({place_of(HOOK): destination, place_of(OTHER): other or Destination(1000)}, seed=seed)


def ideal_ms(capacity: int, count: int) -> float:
    return count * TAKES_MS / capacity


async def drained(site: Site, destination: Destination, count: int) -> None:
    await site.wait_until(lambda: len(destination.served) >= count, within_s=3600)


@pytest.mark.parametrize(("capacity", "count"), [(1, 400), (3, 1200), (10, 3000), (40, 8000)])
@pytest.mark.parametrize("refusal", [BUSY, ASK_1_S, OVERLOADED], ids=["429", "429-hint", "503-hint"])
@pytest.mark.parametrize("seed", range(repeats(10)))
def test_a_backlog_drains_after_an_outage(capacity: int, count: int, refusal: Reply, seed: int) -> None:
    destination = Destination(capacity, TAKES_MS, refusal, is_down=True)

    async def story(site: Site) -> None:
        site.send(HOOK, count, max_retries=20)
        await asyncio.sleep(60)
        back_at, before, tried = site.now_ms, len(destination.attempts), set(destination.seen)
        destination.is_down = False
        await drained(site, destination, count)

        assert len(destination.attempts) - before <= 1.2 * count
        assert destination.refused <= 0.05 * count
        # A message that was tried in vain has waits of its own, which its sender or its destination asks for.
        backlog = [
            at - back_at
            for at, message_id in destination.served
            if message_id not in tried and (refusal is not BUSY or destination.seen[message_id] == 1)
        ]
        assert len(backlog) >= 0.75 * count
        assert max(backlog) <= 1.3 * ideal_ms(capacity, count)
        assert destination.served[int(count * 0.98)][0] - back_at <= 1.3 * ideal_ms(capacity, count)

    play(story, lambda: site(destination, seed))


@pytest.mark.parametrize("refusal", [BUSY, ASK_1_S, OVERLOADED], ids=["429", "429-hint", "503-hint"])
@pytest.mark.parametrize(("capacity", "count"), [(1, 800), (10, 3000)])
def test_a_destination_that_refuses_what_is_too_much_is_kept_busy(
    capacity: int, count: int, refusal: Reply
) -> None:
    destination = Destination(capacity, TAKES_MS, refusal)

    async def story(site: Site) -> None:
        site.send(HOOK, count, max_retries=20)
        await drained(site, destination, count)

        assert len(destination.attempts) <= 1.2 * count
        assert destination.served[int(count * 0.9)][0] <= 1.1 * ideal_ms(capacity, count)
        assert destination.served[-1][0] <= 1.3 * ideal_ms(capacity, count) + (
            0 if refusal is not BUSY else 200_000
        )

    play(story, lambda: site(destination))


def test_what_is_down_gets_one_probe_now_and_then_and_what_waits_keeps_its_attempts() -> None:
    destination = Destination(1000, is_down=True)

    async def story(site: Site) -> None:
        site.send(HOOK, 1000)
        await asyncio.sleep(1)
        seen = len(destination.attempts)
        await asyncio.sleep(100)

        probes = destination.attempts[seen:]
        assert 100 / 5 <= len(probes) <= 100 / 2.5 + 2
        gaps = [later - earlier for earlier, later in pairwise(probes)]
        assert min(gaps) > 900
        assert site.ready(1) > 800
        assert len(destination.seen) < 120

    play(story, lambda: site(destination))


def test_the_ramp_begins_with_one_and_doubles_at_most() -> None:
    destination = Destination(1000, is_down=True)

    async def story(site: Site) -> None:
        site.send(HOOK, 2000, max_retries=20)
        await asyncio.sleep(30)
        destination.is_down = False
        await drained(site, destination, 1000)
        begun = [at for at in destination.attempts if at > 30_000]
        rounds = Counter(int((at - begun[0]) / TAKES_MS + 0.01) for at in begun)
        starts = [rounds[number] for number in range(10)]
        assert starts[0] == 1
        assert all(later <= 2 * earlier for earlier, later in pairwise(starts))
        assert starts[-1] == SLOTS

    play(story, lambda: site(destination))


def test_without_a_fault_all_slots_are_used_from_the_start() -> None:
    destination = Destination(1000)

    async def story(site: Site) -> None:
        site.send(HOOK, SLOTS * 20)
        await drained(site, destination, SLOTS * 20)
        assert site.now_ms <= 20 * TAKES_MS + 20
        assert destination.most_inside == SLOTS

    play(story, lambda: site(destination))


def test_queues_take_turns_at_a_destination_that_is_held_back() -> None:
    destination = Destination(4, TAKES_MS, ASK_1_S)

    async def story(site: Site) -> None:
        for name in "abcdefgh":
            site.send(HOOK, 200, queue=name, max_retries=20)
        await asyncio.sleep(20)
        left = [site.ready(number) for number in range(1, 9)]
        assert max(left) - min(left) <= 15
        assert len(destination.served) >= 0.9 * 20 * 10 * 4

    play(story, lambda: site(destination))


@pytest.mark.parametrize("is_down", [True, False])
def test_others_in_the_same_queue_get_past_what_is_held_back(is_down: bool) -> None:
    destination, other = Destination(0, refusal=OVERLOADED, is_down=is_down), Destination(1000, takes_ms=5)

    async def story(site: Site) -> None:
        site.send(HOOK, 3000, max_retries=20)
        await asyncio.sleep(2)
        site.send(OTHER, 100)
        await site.wait_until(lambda: len(other.served) == 100, within_s=3)

    play(story, lambda: site(destination, other=other))


def test_what_was_put_behind_goes_on_at_once_when_its_destination_is_back() -> None:
    destination = Destination(1000, is_down=True)

    async def story(site: Site) -> None:
        site.send(HOOK, 3000, max_retries=20)
        await asyncio.sleep(30)
        destination.is_down = False
        await drained(site, destination, 2800)
        assert site.now_ms <= 30_000 + 5000 + 1.3 * 3000 / SLOTS * TAKES_MS

    play(story, lambda: site(destination))


def test_an_ordered_queue_stays_in_order_while_its_destination_is_held_back() -> None:
    destination = Destination(1000, is_down=True)

    async def story(site: Site) -> None:
        site.send(HOOK, 1, queue="line", ordered=True, parallelism=1, id="msg_first", max_retries=20)
        site.send(HOOK, 1, queue="line", ordered=True, parallelism=1, id="msg_second", max_retries=20)
        site.send(HOOK, 500, max_retries=20)
        await asyncio.sleep(40)
        destination.is_down = False
        await drained(site, destination, 502)
        order = [
            message_id for _, message_id in destination.served if message_id in ("msg_first", "msg_second")
        ]
        assert order == ["msg_first", "msg_second"]

    play(story, lambda: site(destination))
