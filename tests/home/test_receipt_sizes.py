"""How large a request's header may be, and how many connections a listener serves at once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from qtasks.home.listener import Parser
from qtasks.home.receipt import HeaderGuard, ReceiptLimits
from qtasks.home.receiving import LINGERING, Admission
from tests.support.listening import GET, Answer, Listening, RecordingApp, listening, post

SMALL = ReceiptLimits(head_bytes=4096, head_fields=20, target_bytes=1024)

both = pytest.mark.parametrize("parser", ["h11", "httptools"])

TOO_MANY = "the request has more than 20 header fields; send fewer"
TOO_LARGE = "the request's header is longer than 4096 bytes; send less in it"
TOO_LONG = "path and query are longer than 1024 bytes; put less into the query"


async def refused(listener: Listening, content: bytes) -> Answer:
    """Send something, read the answer, and see that the connection ends with it."""
    client = await listener.connect(buffer=4096)
    client.send(content)
    answer = await client.answer()
    assert await client.rest() == b""
    assert not client.was_reset
    assert listener.app.begun == []
    return answer


@both
@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (post(b"abc", *[b"A: b"] * 20), 431, TOO_MANY),
        (post(b"abc", b"A: " + b"b" * 4096), 431, TOO_LARGE),
        (post(b"abc", *[b"A: " + b"b" * 400] * 11), 431, TOO_LARGE),
        (post(b"abc", path=b"/" + b"a" * 1024), 414, TOO_LONG),
        (post(b"abc", path=b"/a?b=" + b"c" * 1024), 414, TOO_LONG),
    ],
)
async def test_a_whole_header_that_is_too_much_reaches_no_app(
    content: bytes, status: int, text: str, parser: Parser
) -> None:
    async with listening(SMALL, parser) as listener:
        answer = await refused(listener, content)

    assert (answer.status, answer.error) == (status, text)


@both
@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"GET /a HTTP/1.1\r\nA: " + b"b" * 5000, 431, TOO_LARGE),
        (b"GET /a HTTP/1.1\r\n" + b"A: bbbbbbb\r\n" * 500, 431, None),
        (b"GET /" + b"a" * 1500, 414, TOO_LONG),
        (b"GET /" + b"a" * 5000, 414, TOO_LONG),
    ],
)
async def test_a_header_without_end_is_refused_as_soon_as_it_is_too_much(
    content: bytes, status: int, text: str | None, parser: Parser
) -> None:
    async with listening(SMALL, parser) as listener:
        answer = await refused(listener, content)

    # h11 does not say how many fields have come, so there the bytes of many are what is too much.
    assert (answer.status, answer.error) == (status, text or (TOO_LARGE if parser == "h11" else TOO_MANY))


@both
async def test_what_is_just_within_the_limits_is_taken(parser: Parser) -> None:
    large = post(b"abc", b"A: " + b"b" * 3900)
    many = post(b"abc", *[b"A: b"] * 18)
    long = post(b"abc", path=b"/" + b"a" * 1023)
    async with listening(SMALL, parser) as listener:
        client = await listener.connect()
        for content in (large, many, long, post(b"y" * 100_000), large):
            client.send(content)
            assert (await client.answer()).status == 200


@both
async def test_the_default_limits_take_64_kib_of_forwarded_headers(parser: Parser) -> None:
    forwarded = [b"Upstash-Forward-%d: " % index + b"b" * 1000 for index in range(64)]
    async with listening(ReceiptLimits(), parser) as listener:
        client = await listener.connect()
        content = post(b"abc", *forwarded)
        client.send(content[:40_000])
        await asyncio.sleep(0.05)
        client.send(content[40_000:])

        assert (await client.answer()).status == 200


@both
async def test_a_header_is_measured_whether_it_comes_at_once_or_in_pieces(parser: Parser) -> None:
    content = post(b"abc", b"A: " + b"b" * 4050)
    async with listening(SMALL, parser) as listener:
        client = await listener.connect()
        for start in range(0, len(content), 1000):
            client.send(content[start : start + 1000])
            await asyncio.sleep(0.01)

        assert (await client.answer()).error == TOO_LARGE
        assert listener.app.begun == []


@both
async def test_a_refusal_is_read_even_if_a_body_follows(parser: Parser) -> None:
    async with listening(SMALL, parser) as listener:
        answer = await refused(listener, post(b"y" * 500_000, *[b"A: b"] * 20))

    assert answer.error == TOO_MANY


@both
async def test_a_refused_header_behind_other_requests_leaves_their_answers(parser: Parser) -> None:
    async with listening(SMALL, parser) as listener:
        client = await listener.connect()
        client.send(post(b"a") + post(b"ab") + post(b"abc", *[b"A: b"] * 20))

        assert [(await client.answer()).body for _ in range(2)] == [b"1", b"2"]
        assert (await client.answer()).error == TOO_MANY
        assert await client.rest() == b""
    assert listener.app.bodies == [b"a", b"ab"]


@pytest.mark.parametrize(
    "junk",
    [
        b"0\r\nA: " + b"b" * 400_000,
        b"0\r\n" + b"A: b\r\n" * 100_000,
        b"1;" + b"e" * 400_000,
        b"5\r\nhello\r\n" + b"1;" + b"e" * 400_000,
    ],
)
@both
async def test_chunk_marks_and_trailers_are_limited_too(junk: bytes, parser: Parser) -> None:
    async with listening(SMALL, parser) as listener:
        client = await listener.connect()
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + junk)

        answer = (await client.rest())[:12]

    # h11 has a limit itself, on which uvicorn answers 400, which may be lost on the way.
    assert answer in ((b"HTTP/1.1 431",) if parser == "httptools" else (b"HTTP/1.1 400", b""))
    assert listener.app.bodies == []
    assert listener.app.disconnects == len(listener.app.begun)


@both
async def test_many_small_chunks_and_a_few_trailers_are_taken(parser: Parser) -> None:
    chunks = b"1\r\ny\r\n" * 20_000 + b"0\r\nA: b\r\n\r\n"
    async with listening(SMALL, parser) as listener:
        client = await listener.connect()
        client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)

        assert (await client.answer()).body == b"20000"


@both
async def test_an_offer_of_another_protocol_is_passed_over(parser: Parser) -> None:
    async with listening(SMALL, parser) as listener:
        client = await listener.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")

        assert (await client.answer()).status == 200


@both
async def test_connections_beyond_the_limit_are_told_to_come_back(
    parser: Parser, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(ReceiptLimits(connections=2), parser) as listener:
        first, second = await listener.connect(), await listener.connect()
        for client in (first, second):
            client.send(GET)
            await client.answer()
        refusals = set()
        for _ in range(100):
            late = await listener.connect()
            late.send(GET)
            answer = await late.answer()
            refusals.add((answer.status, answer.headers["retry-after"], answer.error))
        first.send(GET)
        assert (await first.answer()).status == 200
        await second.close()

        await listener.admits()

    text = "all 2 connections that the broker serves at once are taken; try again soon"
    assert refusals == {(503, "1", text)}
    assert len(listener.app.begun) == 4  # not one of those that were refused
    assert [each.message for each in caplog.records if each.levelno == logging.WARNING] == [
        "too many connections, new ones are refused"
    ]


def test_refused_clients_are_waited_for_as_long_as_they_are_few() -> None:
    limits = ReceiptLimits()
    admission = Admission(limits, HeaderGuard(RecordingApp(), limits))
    wires = [asyncio.Transport() for _ in range(LINGERING + 1)]

    assert [admission.may_linger(wire) for wire in wires] == [True] * LINGERING + [False]
    admission.forget(wires[0])
    assert admission.may_linger(wires[-1])
