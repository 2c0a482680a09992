"""Listings are read page by page, by both clients, with no page asked for before it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qtasks.client import AsyncClient, Client, calls
from qtasks.client.calls import Filter
from qtasks.errors import TooManyRequests
from tests.support.wire import WireServer, response

ENTRY = '{"time": 1, "messageId": "msg_%d", "state": "CREATED", "url": "https://a.example"}'


def page_of(*numbers: int, cursor: str | None = None) -> bytes:
    """Make the answer of a page."""
    events = ", ".join(ENTRY % each for each in numbers)
    more = f', "cursor": "{cursor}"' if cursor else ""
    return response(200, f'{{"events": [{events}]{more}}}'.encode())


@pytest.fixture
async def broker() -> AsyncIterator[WireServer]:
    """Something that answers as it is told."""
    async with WireServer() as server:
        yield server


async def test_items_come_from_all_pages(broker: WireServer) -> None:
    broker.answers.extend([page_of(1, 2, cursor="a&b"), page_of(3, cursor="c"), page_of()])

    async with AsyncClient(broker.url, "t") as client:
        found = [each.message_id async for each in client.each(calls.log(Filter(labels=("x",)), count=2))]

    assert found == ["msg_1", "msg_2", "msg_3"]
    assert [each.target for each in broker.requests] == [
        "/v2/events?label=x&count=2",
        "/v2/events?label=x&count=2&cursor=a%26b",
        "/v2/events?label=x&count=2&cursor=c",
    ]


async def test_a_page_is_asked_for_when_it_is_needed(broker: WireServer) -> None:
    broker.answers.append(page_of(1, 2, cursor="next"))

    async with AsyncClient(broker.url, "t") as client:
        async for entry in client.each(calls.log()):
            if entry.message_id == "msg_2":
                break

    assert len(broker.requests) == 1


async def test_the_plain_client_reads_pages_too(broker: WireServer) -> None:
    broker.answers.extend([page_of(1, cursor="n"), page_of(2)])

    def read() -> list[str]:
        with Client(broker.url, "t") as client:
            return [each.message_id for each in client.each(calls.log())]

    assert await asyncio.to_thread(read) == ["msg_1", "msg_2"]


async def test_too_many_requests_say_when_there_is_room_again(broker: WireServer) -> None:
    broker.answers.append(
        response(
            429, b'{"error": "slow down"}', "Burst-RateLimit-Limit: 5", "Burst-RateLimit-Reset: 1700000000"
        )
    )

    async with AsyncClient(broker.url, "t") as client:
        with pytest.raises(TooManyRequests, match="slow down") as caught:
            await client.send(calls.queues())

    assert (caught.value.limit, caught.value.reset_at) == (5, 1_700_000_000)
