"""The way of claims into the app of the same process, and the choice between it and HTTP."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from queue import Queue

import pytest

from qtasks.broker.delivery import Answer, InProcessDeliverer, RoutedDeliverer
from qtasks.broker.store.records import Claim, Reply
from tests.support.broker import SOON_S, ScriptedDeliverer
from tests.support.store import new_claim

Tell = Callable[[Claim, Reply], None]
NOW = 1_700_000_000_000


@pytest.fixture
def app_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The app's own loop, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(SOON_S)
    loop.close()


def claims(count: int) -> list[Claim]:
    return [new_claim(now=NOW, seq=seq, app="shop") for seq in range(count)]


async def order(answers: AsyncIterator[Sequence[Answer]]) -> list[int]:
    """Give the sequence numbers of the claims in the order of their answers."""
    async with asyncio.timeout(SOON_S):
        return [claim.seq async for some in answers for claim, _ in some]


async def test_claims_are_run_on_the_app_s_own_loop(app_loop: asyncio.AbstractEventLoop) -> None:
    seen: list[asyncio.AbstractEventLoop] = []

    def run(given: Sequence[Claim], tell: Tell) -> None:
        seen.append(asyncio.get_running_loop())
        for each in given:
            tell(each, Reply(200))

    assert await order(InProcessDeliverer(run, app_loop).deliver(claims(2))) == [0, 1]
    assert seen == [app_loop]


async def test_answers_come_in_the_order_in_which_they_are_known(
    app_loop: asyncio.AbstractEventLoop,
) -> None:
    def run(given: Sequence[Claim], tell: Tell) -> None:
        for each in reversed(given):
            tell(each, Reply(200))

    assert await order(InProcessDeliverer(run, app_loop).deliver(claims(3))) == [2, 1, 0]


async def test_an_answer_does_not_wait_for_slower_ones(app_loop: asyncio.AbstractEventLoop) -> None:
    told: list[Tell] = []

    def run(given: Sequence[Claim], tell: Tell) -> None:
        told.append(tell)
        tell(given[0], Reply(200))

    both = claims(2)
    answers = InProcessDeliverer(run, app_loop).deliver(both)
    async with asyncio.timeout(SOON_S):
        [(first, _)] = await anext(answers)
        app_loop.call_soon_threadsafe(told[0], both[1], Reply(200))
        [(second, _)] = await anext(answers)

    assert (first.seq, second.seq) == (0, 1)


async def test_no_answer_is_lost_between_the_two_loops(app_loop: asyncio.AbstractEventLoop) -> None:
    count = 5000

    async def answer(each: Claim, tell: Tell) -> None:
        await asyncio.sleep(0)
        tell(each, Reply(200))

    running: set[asyncio.Task[None]] = set()

    def run(given: Sequence[Claim], tell: Tell) -> None:
        for each in given:
            task = asyncio.get_running_loop().create_task(answer(each, tell))
            running.add(task)
            task.add_done_callback(running.discard)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        found = await order(InProcessDeliverer(run, app_loop).deliver(claims(count)))
    finally:
        sys.setswitchinterval(interval)

    assert sorted(found) == list(range(count))


async def test_an_app_whose_loop_is_closed_spends_no_attempt() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    deliverer = InProcessDeliverer(lambda given, tell: None, loop)

    [[(claim, reply)]] = [each async for each in deliverer.deliver(claims(1))]

    assert (claim.seq, reply.status) == (0, 503)
    assert dict(reply.headers) == {"Qtasks-Uncounted": "draining"}


async def test_what_is_dropped_is_dropped_on_the_app_s_loop(app_loop: asyncio.AbstractEventLoop) -> None:
    dropped: Queue[tuple[int, asyncio.AbstractEventLoop]] = Queue()

    def drop(claim: Claim) -> None:
        dropped.put((claim.seq, asyncio.get_running_loop()))

    deliverer = RoutedDeliverer(InProcessDeliverer(lambda given, tell: None, app_loop, drop), None)
    deliverer.drop(new_claim(now=NOW, app="shop", seq=7))

    assert await asyncio.to_thread(dropped.get, timeout=10) == (7, app_loop)
    deliverer.drop(new_claim(now=NOW))  # nothing can be under way to a destination outside


async def test_nothing_is_dropped_in_an_app_whose_loop_is_closed() -> None:
    loop = asyncio.new_event_loop()
    loop.close()

    InProcessDeliverer(lambda given, tell: None, loop).drop(new_claim(now=NOW, app="shop"))


async def test_each_claim_goes_its_own_way() -> None:
    app, http = ScriptedDeliverer(), ScriptedDeliverer()
    deliverer = RoutedDeliverer(app, http)

    await order(deliverer.deliver([new_claim(now=NOW, app="shop", body=b"in process")]))
    await order(deliverer.deliver([new_claim(now=NOW, app=None, body=b"http")]))

    assert (app.bodies, http.bodies) == ([b"in process"], [b"http"])


async def test_without_http_a_claim_for_outside_is_answered_with_what_is_missing() -> None:
    deliverer = RoutedDeliverer(ScriptedDeliverer(), None)

    [[(_, reply)]] = [each async for each in deliverer.deliver([new_claim(now=NOW)])]

    assert (reply.status, reply.error) == (
        0,
        "this broker cannot deliver over HTTP: install qtasks with its extra [broker]",
    )


async def test_closing_closes_both_ways() -> None:
    app, http = ScriptedDeliverer(), ScriptedDeliverer()

    await RoutedDeliverer(app, http).close()

    assert (app.is_closed, http.is_closed) == (True, True)
