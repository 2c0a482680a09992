"""Which bytes of an answer leave together, and that all of them do, in their order."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.types import Receive, Scope, Send

from qtasks.home.joined import COPIED, Joined
from qtasks.home.listener import Listener, Parser
from tests.support.listening import SOON_S

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"


class Wire(asyncio.Transport):
    """Notes what is written, piece by piece."""

    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def joined(wire: Wire) -> Joined:
    return Joined(wire, asyncio.get_running_loop())


async def test_a_header_leaves_with_the_body_that_follows(wire: Wire, joined: Joined) -> None:
    for _ in range(2):
        joined.write(HEAD)
        joined.write(b"abc")
    await asyncio.sleep(0)

    assert wire.written == [HEAD + b"abc"] * 2


async def test_a_header_alone_leaves_in_the_same_turn_of_the_loop(wire: Wire, joined: Joined) -> None:
    joined.write(HEAD)
    assert wire.written == []
    await asyncio.sleep(0)

    assert wire.written == [HEAD]
    joined.write(b"abc")
    assert wire.written == [HEAD, b"abc"]


async def test_a_large_body_is_not_copied_to_leave_with_its_header(wire: Wire, joined: Joined) -> None:
    joined.write(HEAD)
    joined.write(b"x" * (COPIED + 1))

    assert list(map(len, wire.written)) == [len(HEAD), COPIED + 1]


@pytest.mark.parametrize("data", [b"HTTP/1.1 100 Continue\r\n\r\n", b"abc", b""])
async def test_what_is_no_header_of_an_answer_leaves_at_once(wire: Wire, joined: Joined, data: bytes) -> None:
    joined.write(data)

    assert wire.written == [data]


async def test_closing_sends_a_header_before(wire: Wire, joined: Joined) -> None:
    joined.write(HEAD)
    joined.close()
    await asyncio.sleep(0)

    assert (wire.written, wire.is_closed) == ([HEAD], True)


async def test_nothing_is_written_to_what_was_closed_meanwhile(wire: Wire, joined: Joined) -> None:
    joined.write(HEAD)
    wire.close()
    await asyncio.sleep(0)

    assert wire.written == []


async def test_all_else_is_the_wire_s(joined: Joined) -> None:
    assert joined.get_extra_info("peername") == "somebody"


@pytest.mark.parametrize("parser", ["h11", "httptools"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_answer_whose_body_is_late_or_missing_is_sent(parser: Parser, method: bytes) -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if method == b"GET":
            await begun.wait()
        await send({"type": "http.response.body", "body": b"abc"})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(app, listening, parser=parser)
        await listener.start()
        reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
        try:
            async with asyncio.timeout(SOON_S):
                writer.write(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                begun.set()
                body = await reader.readexactly(3 if method == b"GET" else 0)
        finally:
            writer.close()
            await listener.stop()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == (b"abc" if method == b"GET" else b"")
