"""How the listener serves well-behaved clients, and ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from qtasks.home.listener import Listener, Parser
from qtasks.home.receipt import ReceiptLimits
from tests.support.listening import SOON_S, listening, post


@pytest.mark.parametrize("parser", ["h11", "httptools"])
async def test_an_answer_does_not_wait_for_the_client_to_confirm_its_beginning(parser: Parser) -> None:
    async with listening(ReceiptLimits(), parser) as listener:
        client = await listener.connect()
        begun_at = time.monotonic()
        for _ in range(100):
            client.send(post(b"abc"))
            await client.answer()
        took_s = time.monotonic() - begun_at

    assert took_s < 2  # and 4 s, 40 ms for each, if it did


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Is asked by nobody."""


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("is_accepted", [True, False])
def test_who_connects_in_the_last_moment_is_cut_off(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], is_accepted: bool
) -> None:
    path = str(tmp_path / "s")

    async def connect_while_it_stops(client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listener = Listener(nothing, listening)
            await listener.start()
            stops: list[asyncio.Task[None]] = []

            def stop() -> None:
                if not is_accepted:  # until it stops
                    client.connect(path)
                stops.append(asyncio.create_task(listener.stop()))

            if is_accepted:  # after `stop`, in the same turn of the loop: both go on in the next
                client.connect(path)
            asyncio.get_running_loop().call_soon(stop)
            await asyncio.sleep(0)
            await stops[0]

    with socket.socket(socket.AF_UNIX) as client, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        client.settimeout(SOON_S)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(connect_while_it_stops(client))
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
        gc.collect()
        assert [str(each.message) for each in warned] == []
