"""Several messages in one request to the webhook: each is executed as if it had come alone (promise P23)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message

from qtasks.ids import Ids
from qtasks.protocol.batches import AnswerLine, DeliveryLine, read_answer, write_deliveries
from qtasks.protocol.signature import sign
from qtasks.tasks.envelope import pack
from qtasks.tasks.webhook import MOST_WAITING, Webhook, WebhookKeys
from tests.support.tasks import KEY, NOW, URL, Workshop

BATCH_URL = f"{URL.removesuffix('run')}batch"
SOON_S = 10


class Gate:
    """A webhook that runs two tasks at a time."""

    def __init__(self, keys: WebhookKeys | None = None) -> None:
        self.shop = Workshop()
        self._ids = Ids.seeded(2)
        keys = keys or WebhookKeys((KEY,), URL)
        self.webhook = Webhook(lambda: self.shop.executor, keys=keys, concurrency=2, clock=self.shop.clock)

    def line(self, number: int, task: str, *args: Any) -> DeliveryLine:
        """Make a line that calls a task."""
        body = pack(self.shop.envelope(task, *args, id=f"tsk_{number}"))
        headers = {"qtasks-signature": self.shop.signer.sign(body), "x-of": str(number)}
        return DeliveryLine(f"msg_{number}", 0, headers, body)

    def token(self, body: bytes, *, key: str = KEY, url: str = BATCH_URL) -> str:
        """Sign a batch as the broker does."""
        return sign(url, body, key=key, now=NOW, jti=self._ids.token_id())

    async def post(self, body: bytes, token: str | None = None) -> httpx.Response:
        """Send a batch, with an honest signature if no other is given."""
        headers = {"Upstash-Signature": token or self.token(body)}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.webhook), base_url="http://app.example"
        ) as client:
            return await client.post("/qtasks/batch", content=body, headers=headers)

    async def answers(self, *lines: DeliveryLine) -> list[AnswerLine]:
        """Send a batch; give the answers in the order of their coming."""
        response = await self.post(write_deliveries(lines))
        assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
        return [read_answer(each) for each in response.content.splitlines()]


async def test_each_message_has_an_answer_of_its_own() -> None:
    gate = Gate()

    async def double(number: int) -> int:
        if number == 3:
            raise ValueError("three is too much")
        return 2 * number

    gate.shop.task(double)
    found = {
        each.message_id: each for each in await gate.answers(*(gate.line(n, "double", n) for n in range(6)))
    }

    assert [found[f"msg_{n}"].body for n in (0, 1, 2, 4, 5)] == [b"0", b"2", b"4", b"8", b"10"]
    assert found["msg_3"].status == 500
    assert b"three is too much" in found["msg_3"].body


async def test_a_line_of_another_app_or_of_nobody_is_refused_alone() -> None:
    gate = Gate()

    async def note(text: str) -> str:
        return text

    gate.shop.task(note)
    good, forged, unknown = gate.line(1, "note", "a"), gate.line(2, "note", "b"), gate.line(3, "missing")
    forged = DeliveryLine(forged.message_id, 0, {"qtasks-signature": "x"}, forged.body)
    nonsense = DeliveryLine("msg_4", 0, {"qtasks-signature": gate.shop.signer.sign(b"{}")}, b"{}")

    found = {each.message_id: each.status for each in await gate.answers(good, forged, unknown, nonsense)}

    assert found == {"msg_1": 200, "msg_2": 403, "msg_3": 503, "msg_4": 489}


async def test_no_more_run_at_once_than_may_and_plain_functions_run_too() -> None:
    gate = Gate()
    inside, most = 0, 0

    async def slow() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    def plain() -> str:
        return "on a thread"

    gate.shop.task(slow)
    gate.shop.task(plain)
    found = await gate.answers(*(gate.line(n, "slow") for n in range(7)), gate.line(7, "plain"))

    assert most == 2
    assert {each.status for each in found} == {200}
    assert len(found) == 8


async def test_a_slow_one_does_not_hold_back_the_others() -> None:
    gate = Gate()
    released = asyncio.Event()

    async def work(is_slow: bool) -> None:
        if is_slow:
            await released.wait()

    gate.shop.task(work)
    body = write_deliveries([gate.line(1, "work", True), gate.line(2, "work", False)])
    async with Streaming(gate, body) as stream:
        assert (await stream.next()).message_id == "msg_2"
        released.set()
        assert (await stream.next()).message_id == "msg_1"


async def test_a_broker_that_goes_away_calls_off_what_it_sent() -> None:
    gate = Gate()
    told: list[str] = []
    begun: asyncio.Queue[None] = asyncio.Queue()

    async def work() -> None:
        begun.put_nowait(None)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append("called off")
            raise

    gate.shop.task(work)
    body = write_deliveries([gate.line(n, "work") for n in range(3)])
    async with Streaming(gate, body) as stream:
        await begun.get()
        await begun.get()
        stream.disconnect()
        await stream.ended()

    assert told == ["called off", "called off"]  # the third had not begun, and never does
    assert gate.shop.executor.running == 0


async def test_more_than_may_wait_are_sent_away_uncounted() -> None:
    gate = Gate()
    begun, released = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await released.wait()

    gate.shop.task(work)
    many = write_deliveries([gate.line(n, "work") for n in range(2 + 2 * MOST_WAITING)])
    async with Streaming(gate, many) as stream:
        await begun.wait()
        answer = await gate.post(write_deliveries([gate.line(99, "work")]))
        released.set()
        await stream.ended()

    assert (answer.status_code, answer.headers["Qtasks-Uncounted"]) == (429, "full")


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (lambda gate, body: gate.token(body, key="sig_forged"), 403),
        (lambda gate, body: gate.token(body + b"x"), 403),
        (lambda gate, body: gate.token(body, url=URL), 403),  # signed for one message
    ],
)
async def test_what_the_broker_has_not_signed_as_a_batch_runs_nothing(
    token: Callable[[Gate, bytes], str], status: int
) -> None:
    gate = Gate()

    async def note(text: str) -> None:
        gate.shop.ran.append(text)

    gate.shop.task(note)
    body = write_deliveries([gate.line(1, "note", "a")])

    answer = await gate.post(body, token(gate, body))

    assert (answer.status_code, gate.shop.ran) == (status, [])


async def test_a_batch_that_is_none_is_a_mistake() -> None:
    answer = await Gate().post(b"?")

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("a line of a batch is no JSON: ")


class Streaming:
    """A request whose answer is read as it comes, and which may be broken off."""

    def __init__(self, gate: Gate, body: bytes) -> None:
        self._gate = gate
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self._headers = [(b"upstash-signature", gate.token(body).encode())]
        self._lines: asyncio.Queue[AnswerLine] = asyncio.Queue()

    async def __aenter__(self) -> Streaming:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/qtasks/batch",
            "headers": self._headers,
            "query_string": b"",
        }
        self._task = asyncio.ensure_future(self._gate.webhook(scope, self._incoming.get, self._send))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.ended()

    async def next(self) -> AnswerLine:
        """Give the next answer."""
        async with asyncio.timeout(SOON_S):
            return await self._lines.get()

    def disconnect(self) -> None:
        """Go away."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def ended(self) -> None:
        """Wait until the app has done with it."""
        async with asyncio.timeout(SOON_S):
            await self._task

    async def _send(self, message: Message) -> None:
        for each in message.get("body", b"").splitlines():
            self._lines.put_nowait(read_answer(each))
