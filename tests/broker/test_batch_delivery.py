"""Several messages in one request over a real socket: what is sent, and what is made of any answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import takewhile

import orjson
import pytest

from qtasks.broker.batch_delivery import LOST
from qtasks.broker.http_delivery import AHEAD, QUICK_NS, HttpDeliverer
from qtasks.broker.pace import MEMORY
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.records import Claim, Reply, Trouble
from qtasks.protocol.batches import AnswerLine, read_deliveries, write_answers
from qtasks.protocol.signature import verify
from tests.support.deliveries import KEY, LIMIT, NOW, claim, new_deliverer
from tests.support.wire import DROP, HANG, OK, Script, WireServer, response

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT_MS = 150


def chunk(body: bytes) -> bytes:
    """Write one chunk of an answer."""
    return b"%x\r\n%s\r\n" % (len(body), body)


def line(seq: int, status: int = 200, body: bytes = b"1") -> bytes:
    """Write the answer to one message."""
    return write_answers([AnswerLine(f"msg_{seq}", status, (("X-Of", str(seq)),), body)])


def stream(*lines: bytes) -> bytes:
    """Write a whole answer, a chunk for each line."""
    return HEAD + b"".join(map(chunk, lines)) + b"0\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def deliverer() -> AsyncIterator[HttpDeliverer]:
    made = new_deliverer()
    yield made
    await made.close()


def claims(server: WireServer, *seqs: int, kind: str | None = None, **changes: object) -> list[Claim]:
    """Make claims of messages to the server."""
    extras = Extras(batch=10, kind=kind)
    return [
        claim(
            f"{server.url}/app/run",
            seq=seq,
            id=f"msg_{seq}",
            body=b'{"n":%d}' % seq,
            extras=extras,
            **changes,
        )
        for seq in seqs
    ]


async def deliver(deliverer: HttpDeliverer, wanted: list[Claim]) -> list[tuple[int, Reply]]:
    """Deliver together; give the replies in the order of their coming."""
    async with asyncio.timeout(10):
        answers = [answer async for some in deliverer.deliver(wanted) for answer in some]
    return [(each.seq, reply) for each, reply in answers]


async def test_one_request_has_a_line_for_each_and_one_signature(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(stream(line(1) + line(2)))
    first, second = claims(server, 1, 2, headers=(("Qtasks-Signature", "s"),), attempt=3)

    await deliver(deliverer, [first, second])

    [request] = server.requests
    assert (request.method, request.target) == ("POST", "/app/batch")
    assert request.header("Content-Type") == "application/x-ndjson"
    token = request.header("Upstash-Signature")
    verify(token, request.body, keys=[KEY], url=f"{server.url}/app/batch", now=NOW, tolerance_s=0)
    lines = read_deliveries(request.body)
    assert [(each.message_id, each.retried, each.body) for each in lines] == [
        ("msg_1", 2, first.body),
        ("msg_2", 2, second.body),
    ]
    assert lines[0].headers["qtasks-signature"] == "s"
    assert lines[0].headers["upstash-message-id"] == "msg_1"
    assert "upstash-signature" not in lines[0].headers


async def test_each_answer_is_known_as_soon_as_it_comes_whatever_the_order(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(Script(HEAD + chunk(line(2, 500, b'{"error":1}'))))
    wanted = claims(server, 1, 2)

    answers = deliverer.deliver(wanted)
    async with asyncio.timeout(10):
        [(answered, reply)] = await anext(answers)
    await answers.aclose()  # type: ignore[attr-defined]  # a generator, as all deliverers make

    assert answered is wanted[1]
    assert reply == Reply(500, (("X-Of", "2"),), b'{"error":1}', "unexpected status 500")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (stream(line(2)), LOST),
        (Script(HEAD + chunk(line(2)), then_close=True), "not completed"),
        (stream(line(2), b"nonsense\n", line(1)), "a line of a batch is no JSON"),
        (stream(line(2), b'{"messageId":"msg_1"}\n'), "a line of a batch is no answer"),
    ],
)
async def test_a_line_that_does_not_come_is_lost_for_its_message_alone(
    deliverer: HttpDeliverer, server: WireServer, answer: bytes | Script, error: str
) -> None:
    server.answers.append(answer)

    found = dict(await deliver(deliverer, claims(server, 1, 2)))

    assert (found[2].status, found[2].body) == (200, b"1")
    assert (found[1].status, found[1].is_alone_next) == (0, True)
    assert error in (found[1].error or "")


async def test_an_answer_to_all_is_that_of_each(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(response(429, b'{"e":1}', "Qtasks-Uncounted: full", "Retry-After: 1"))

    found = await deliver(deliverer, claims(server, 1, 2))

    assert [(seq, reply.status, reply.body) for seq, reply in found] == [
        (1, 429, b'{"e":1}'),
        (2, 429, b'{"e":1}'),
    ]
    assert ("Qtasks-Uncounted", "full") in found[0][1].headers


async def test_a_destination_that_knows_no_batches_has_answered_nobody(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(OK)

    found = await deliver(deliverer, claims(server, 1, 2))

    assert [(seq, reply.status, reply.is_alone_next) for seq, reply in found] == [(1, 0, True), (2, 0, True)]


async def test_time_is_over_for_those_that_have_not_answered(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(Script(HEAD + chunk(line(1))))

    found = await deliver(deliverer, claims(server, 1, 2, timeout_ms=SHORT_MS))

    assert [(seq, reply.status, reply.error) for seq, reply in found] == [
        (1, 200, None),
        (2, 0, "no complete answer within 0.15 s"),
    ]


async def test_who_never_got_it_is_no_worse_than_alone(deliverer: HttpDeliverer, server: WireServer) -> None:
    wanted = [claim("http://127.0.0.1:1/run", seq=seq, id=f"msg_{seq}") for seq in (1, 2)]

    found = await deliver(deliverer, wanted)

    assert [(reply.status, reply.is_alone_next) for _, reply in found] == [(0, False)] * 2
    assert {reply.trouble for _, reply in found} == {Trouble.UNREACHABLE}
    assert "127.0.0.1" in (found[0][1].error or "")


async def test_one_that_is_called_off_costs_the_others_nothing(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(HANG)
    first, second = claims(server, 1, 2, timeout_ms=500)
    delivering = asyncio.ensure_future(deliver(deliverer, [first, second]))
    await server.reached(1)

    deliverer.drop(first)
    found = await delivering

    assert [(seq, reply.error) for seq, reply in found] == [
        (1, "cancelled"),
        (2, "no complete answer within 0.5 s"),
    ]


async def test_answers_take_from_what_all_may_hold_and_give_it_back(server: WireServer) -> None:
    deliverer = new_deliverer(response_budget_bytes=200_000, response_patience_ms=0, max_response_bytes=LIMIT)
    long = orjson.dumps("x" * 100_000)
    server.answers.append(stream(line(1, body=long)))

    found = await deliver(deliverer, claims(server, 1, 2))
    lefts = [deliverer.response_budget_left]
    found.clear()
    lefts.append(deliverer.response_budget_left)

    assert lefts[0] < 200_000
    assert lefts[1] == 200_000
    await deliverer.close()


async def test_only_the_quick_are_sent_several_and_have_more_in_hand(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    wanted = claims(server, 1, 2, ordered=False)
    assert [len(part) for part in deliverer.part(wanted)] == [1, 1]
    for _ in range(20):
        deliverer._paces.took((wanted[0].url, None), QUICK_NS // 100)
    assert [len(part) for part in deliverer.part(wanted)] == [2]

    assert deliverer.window(8) == 8
    server.answers.append(DROP)
    server.answers.append(HANG)
    delivering = asyncio.ensure_future(deliver(deliverer, wanted))
    await delivering
    waiting = asyncio.ensure_future(deliver(deliverer, wanted))
    await server.reached(2)
    assert deliverer.window(8) == 9  # two messages, one connection
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert deliverer.window(8) == 8


async def test_more_is_looked_at_where_what_came_last_went_together_and_no_more_requests_are_made(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    one_by_one = claims(server, *range(40), ordered=False)
    together = claims(server, *range(40), kind="quick", ordered=False)
    for _ in range(20):
        deliverer._paces.took((together[0].url, "quick"), QUICK_NS // 100)
    assert deliverer.admission(8, in_hand=3).most == 5

    assert [len(part) for part in deliverer.part(together)] == [10] * 4
    admission = deliverer.admission(8, in_hand=3)
    assert admission.most == 8 * AHEAD - 3
    assert len(list(takewhile(admission.admit(), together))) == 40
    assert len(list(takewhile(admission.admit(), one_by_one))) == 5
    assert len(list(takewhile(admission.admit(), one_by_one))) == 5  # a claim that is made again begins anew

    deliverer.part(one_by_one[:1])
    assert deliverer.admission(8, in_hand=3).most == 5


class Stopwatch:
    """Shows one step more each time it is looked at: how long everything takes that is timed."""

    def __init__(self) -> None:
        self.step_ns = 0
        self._now_ns = 0

    def __call__(self) -> int:
        self._now_ns += self.step_ns
        return self._now_ns


async def test_who_turns_slow_is_sent_each_alone_until_it_is_quick_again(
    deliverer: HttpDeliverer, server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopwatch = Stopwatch()
    monkeypatch.setattr("qtasks.broker.http_delivery.stopwatch_ns", stopwatch)
    both = claims(server, 1, 2, ordered=False)

    async def taking(took_ns: int) -> tuple[list[int], list[str]]:
        """Deliver time and again; give how many went in each request, and where they went."""
        stopwatch.step_ns, before, sizes = took_ns, len(server.requests), []
        for _ in range(2 * MEMORY):
            for part in deliverer.part(both):
                server.answers.append(OK if len(part) == 1 else stream(line(1) + line(2)))
                sizes.append(len(part))
                await deliver(deliverer, list(part))
        return sizes, [request.target for request in server.requests[before:]]

    for took_ns, size, target in [
        (QUICK_NS // 100, 2, "/app/batch"),
        (QUICK_NS * 2, 1, "/app/run"),
        (QUICK_NS // 100, 2, "/app/batch"),
    ]:
        sizes, targets = await taking(took_ns)
        assert sizes[0] != size  # what was learnt before holds
        assert (sizes[-1], targets[-1]) == (size, target)


@pytest.mark.parametrize("others", ["quick", None])
async def test_a_slow_kind_goes_alone_until_it_is_quick_while_others_go_together(
    deliverer: HttpDeliverer, server: WireServer, monkeypatch: pytest.MonkeyPatch, others: str | None
) -> None:
    stopwatch = Stopwatch()
    monkeypatch.setattr("qtasks.broker.http_delivery.stopwatch_ns", stopwatch)
    wanted = [
        *claims(server, 1, 2, kind=others, ordered=False),
        *claims(server, 3, 4, kind="slow", ordered=False),
    ]

    async def taking(slow_ns: int) -> list[list[list[int]]]:
        """Deliver time and again; give what went in one request, each time."""
        parts = []
        for _ in range(2 * MEMORY):
            together = deliverer.part(wanted)
            for part in together:
                stopwatch.step_ns = slow_ns if part[0].extras.kind == "slow" else QUICK_NS // 100
                lines = b"".join(line(each.seq) for each in part)
                server.answers.append(OK if len(part) == 1 else stream(lines))
                await deliver(deliverer, list(part))
            parts.append([[each.seq for each in part] for part in together])
        return parts

    for slow_ns, begun, ended in [
        (QUICK_NS * 2, [[1], [2], [3], [4]], [[1, 2], [3], [4]]),
        (QUICK_NS // 100, [[1, 2], [3], [4]], [[1, 2, 3, 4]]),
    ]:
        parts = await taking(slow_ns)
        assert (parts[0], parts[-1]) == (begun, ended)


async def test_a_kind_that_turns_slow_among_others_goes_alone_and_leaves_them_together(
    deliverer: HttpDeliverer, server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 0
    monkeypatch.setattr("qtasks.broker.http_delivery.stopwatch_ns", lambda: now_ns)
    wanted = [
        *claims(server, 1, 2, kind="quick", ordered=False),
        *claims(server, 3, kind="other", ordered=False),
    ]
    for kind in ("quick", "other"):
        for _ in range(2 * MEMORY):
            deliverer._paces.took((wanted[0].url, kind), QUICK_NS // 100)
    assert [len(part) for part in deliverer.part(wanted)] == [3]

    for _ in range(MEMORY):
        script = Script(HEAD + chunk(line(1) + line(2)), last=chunk(line(3)) + b"0\r\n\r\n")
        server.answers.append(script)
        async with asyncio.timeout(10):
            async for _ in deliverer.deliver(wanted):  # the answer to the last one comes later
                now_ns += 0 if script.goes_on.is_set() else 2 * QUICK_NS
                script.goes_on.set()

    assert [[each.seq for each in part] for part in deliverer.part(wanted)] == [[1, 2], [3]]
