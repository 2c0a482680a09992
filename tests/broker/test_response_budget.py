"""How much of their answers all destinations together can make a broker hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from qtasks.broker.http_delivery import HttpDeliverer
from qtasks.broker.response_budget import FREE_BYTES, ResponseBudget
from qtasks.broker.store.records import Reply
from qtasks.clock import SystemClock
from tests.support.deliveries import claim, deliver, new_deliverer
from tests.support.wire import Script, WireServer, response

FREE = FREE_BYTES
BUDGET = 256 * 1024
LARGEST = 10 * 1024 * 1024
TURNS = 100_000  # of the event loop, which carries both ends
ENDLESS = Script(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", more=b"4000\r\n" + b"x" * 16384 + b"\r\n"
)


@pytest.fixture
async def deliverer() -> AsyncIterator[HttpDeliverer]:
    deliverer = new_deliverer(
        max_response_bytes=LARGEST, response_budget_bytes=BUDGET, response_patience_ms=0, connections=64
    )
    yield deliverer
    await deliverer.close()


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


def stalled(size: int) -> Script:
    """An answer of which `size` bytes come, and then nothing."""
    return Script(f"HTTP/1.1 200 OK\r\nContent-Length: {size + 1}\r\n\r\n".encode() + b"x" * size)


async def stall(deliverer: HttpDeliverer, server: WireServer, budget: int) -> asyncio.Task[Reply]:
    """Begin a delivery whose answer takes `budget` bytes and then stalls."""
    server.answers.append(stalled(FREE + budget))
    waiting = asyncio.ensure_future(deliver(deliverer, claim(server.url)))
    for _ in range(TURNS):
        if deliverer.response_budget_left == BUDGET - budget:
            return waiting
        await asyncio.sleep(0)
    raise AssertionError(f"the answer has not taken {budget} bytes of the budget")


async def stop(waiting: asyncio.Task[Reply]) -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_answer_that_never_ends_is_cut_where_the_budget_ends(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(ENDLESS)

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, len(reply.body), reply.truncated) == (200, FREE + BUDGET, True)


async def test_an_answer_within_the_budget_is_whole(deliverer: HttpDeliverer, server: WireServer) -> None:
    body = bytes(range(256)) * ((FREE + BUDGET) // 256)
    server.answers.append(response(200, body))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.body, reply.truncated) == (body, False)


async def test_the_budget_is_whole_again_after_each_attempt(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    answers: list[bytes | Script] = [
        ENDLESS,
        response(200, b"x" * (FREE + 1)),
        stalled(FREE + 10),
        response(500, b"x" * 10),
    ]
    server.answers.extend(answers)

    for _ in answers:
        await deliver(deliverer, claim(server.url, timeout_ms=150))

        assert deliverer.response_budget_left == BUDGET


async def test_a_delivery_that_is_given_up_gives_its_share_back(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    waiting = await stall(deliverer, server, BUDGET)

    await stop(waiting)

    assert deliverer.response_budget_left == BUDGET


async def test_one_that_drips_starves_no_other(deliverer: HttpDeliverer, server: WireServer) -> None:
    waiting = await stall(deliverer, server, BUDGET)
    server.answers.extend([response(200, b"y" * FREE), response(200, b"z" * (FREE + 1))])

    short = await deliver(deliverer, claim(server.url))
    long = await deliver(deliverer, claim(server.url))

    assert (short.body, short.truncated) == (b"y" * FREE, False)
    assert (long.status, long.body, long.truncated) == (200, b"z" * FREE, True)
    assert not waiting.done()
    await stop(waiting)


async def test_what_is_left_of_the_budget_is_given(deliverer: HttpDeliverer, server: WireServer) -> None:
    waiting = await stall(deliverer, server, BUDGET - 1000)
    server.answers.append(response(200, b"z" * (FREE + 5000)))

    reply = await deliver(deliverer, claim(server.url))

    assert (len(reply.body), reply.truncated) == (FREE + 1000, True)
    await stop(waiting)


async def test_many_endless_answers_at_once_hold_no_more_than_the_budget(deliverer: HttpDeliverer) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(WireServer()) for _ in range(16)]
        for each in servers:
            each.answers.append(ENDLESS)

        replies = await asyncio.gather(*(deliver(deliverer, claim(each.url)) for each in servers))

    assert {reply.truncated for reply in replies} == {True}
    assert min(len(reply.body) for reply in replies) >= FREE
    assert deliverer.response_budget_left == 0  # as long as anybody has them, stored or not
    del replies
    assert deliverer.response_budget_left == BUDGET


async def test_headers_that_never_end_fail_the_attempt(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(Script(b"HTTP/1.1 200 OK\r\n", more=b"X-More: " + b"x" * 4000 + b"\r\n"))

    reply = await deliver(deliverer, claim(server.url, timeout_ms=5000))

    assert reply.status == 0
    assert "no complete answer" not in (reply.error or "")


def test_the_first_bytes_are_free_and_the_rest_is_taken_once() -> None:
    budget = ResponseBudget(100, free=10)

    assert budget.grant(0, 8) == 8
    assert budget.grant(8, 7) == 7
    assert budget.left == 95
    assert budget.grant(15, 200) == 95
    assert (budget.grant(110, 1), budget.grant(0, 20)) == (0, 10)

    budget.give_back(110)
    assert budget.left == 100
    budget.give_back(10)
    assert budget.left == 100


async def test_an_answer_waits_a_little_for_the_room_of_those_that_are_being_stored(
    server: WireServer,
) -> None:
    deliverer = new_deliverer(
        clock=SystemClock(),
        max_response_bytes=LARGEST,
        response_budget_bytes=BUDGET,
        response_patience_ms=5000,
    )
    server.answers.extend(response(200, b"x" * (FREE + BUDGET)) for _ in range(2))
    first = await deliver(deliverer, claim(server.url))
    second = asyncio.ensure_future(deliver(deliverer, claim(server.url)))
    await server.reached(2)

    del first

    assert (await second).truncated is False
    await deliverer.close()
