"""A broker whose store has failed for good: it answers 503, begins nothing, and ends soon (P04).

The failing write is refused by the kernel. Whole processes are in `tests/faults/test_process_io_errors.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from qtasks.broker.api import ROUTES, Api
from qtasks.errors import BrokerFailed
from tests.support.broker import SOON_S, WIDE, Held, Rig
from tests.support.disks import longest_file
from tests.support.homes import until

TOKEN = "a token"


def break_store(rig: Rig, folder: Path) -> None:
    """Have one write fail."""
    length = (folder / "q.db-wal").stat().st_size
    with longest_file(length), pytest.raises(BrokerFailed):
        rig.enqueue(bytes(100_000), spec=WIDE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/v2/queues"),
        ("GET", "/v2/logs"),
        ("GET", "/v2/dlq"),
        ("GET", "/v2/keys"),
        ("GET", "/v2/nowhere"),
        ("POST", "/v2/publish/https://app.example/hook"),
        ("POST", "/v2/queues"),
        ("DELETE", "/v2/messages/msg_1"),
    ],
)
async def test_whatever_is_asked_of_it_is_answered_with_503(
    rig: Rig, tmp_path: Path, method: str, path: str
) -> None:
    break_store(rig, tmp_path)
    transport = httpx.ASGITransport(Api(rig.broker, ROUTES, [TOKEN]))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://broker", headers=headers) as client:
        answer = await client.request(method, path)

    assert answer.status_code == 503
    assert answer.json() == {"error": "the store failed: disk I/O error; the broker has stopped"}


def test_it_is_not_ready_and_says_why(rig: Rig, tmp_path: Path) -> None:
    break_store(rig, tmp_path)

    assert rig.broker.problem() == "the store failed: disk I/O error; the broker has stopped"


async def test_it_begins_nothing_more(rig: Rig, tmp_path: Path) -> None:
    await rig.node.start()
    break_store(rig, tmp_path)
    rig.clock.advance(60_000)

    async with asyncio.timeout(SOON_S):
        assert await rig.node.stop() == 0

    assert rig.deliverer.attempts == []


async def test_a_stop_waits_for_deliveries_in_flight_though_their_ends_cannot_be_recorded(
    rig: Rig, tmp_path: Path
) -> None:
    held = Held()
    rig.deliverer.will(held)
    rig.enqueue(spec=WIDE)
    await rig.node.start()
    await rig.deliverer.reached(1)
    break_store(rig, tmp_path)
    stopping = asyncio.create_task(rig.node.stop())
    await asyncio.sleep(0)
    assert not stopping.done()

    held.release()

    async with asyncio.timeout(SOON_S):  # the clock stands still: the grace is not waited out
        assert await stopping == 0


async def test_a_stop_does_not_wait_for_deliveries_that_ended_since_it_failed(
    rig: Rig, tmp_path: Path
) -> None:
    first, second = Held(), Held()
    rig.deliverer.will(first, second)
    for _ in range(2):
        rig.enqueue(spec=WIDE)
    await rig.node.start()
    await rig.deliverer.reached(2)
    break_store(rig, tmp_path)

    first.release()
    await until(lambda: rig.node.dispatcher.in_flight == 1)
    second.release()
    await until(lambda: rig.node.dispatcher.in_flight == 0)

    async with asyncio.timeout(SOON_S):
        assert await rig.node.stop() == 0
