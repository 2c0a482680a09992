"""The home of a broker elsewhere: what is missing is named, what gets no answer can be repeated."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from qtasks import BrokerUnavailable, BrokerUnreachable, ConfigurationError, QTasks, Settings
from qtasks.clock import ManualClock, SystemClock
from qtasks.errors import BadRequest, Unauthorized
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.senders import HttpSender
from tests.support.waiting import eventually

TOKEN = "0123456789abcdef"
SECRET = "f00dfeedfacade11f00dfeedfacade22"


class FakeBroker:
    """An HTTP server that answers as its script says, then accepts; it keeps what it was sent."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], object]] = []
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[FakeBroker]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], object]:
        self.seen.append((path, headers, body))
        self.gate.wait(10)
        if self.script:
            return self.script.pop(0)
        if path == "/v2/batch":
            return 200, {}, [{"messageId": f"msg_{n}"} for n, _ in enumerate(json.loads(body))]
        return 200, {}, {"messageId": "msg_1"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeBroker


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, more, answer = cast(_Server, self.server).fake.answer(self.path, headers, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**more, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    with FakeBroker().running() as running:
        yield running


@contextmanager
def sender_to(url: str, budget_ms: int = 2000) -> Iterator[HttpSender]:
    sender = HttpSender(url, TOKEN, clock=SystemClock(), budget_ms=budget_ms)
    try:
        yield sender
    finally:
        sender.close()


def message(name: str = "one") -> Outgoing:
    return Outgoing("https://app.example/run", name.encode(), Options(dedup_id=name), queue="mail")


def settings(broker: str) -> Settings:
    return Settings(
        broker=broker,
        token=TOKEN,
        signing_keys=("sig_1", "sig_2"),
        secrets=(SECRET,),
        public_url="http://127.0.0.1:1/qtasks",
    )


def test_a_call_is_enqueued_with_token_and_deduplication_id(fake: FakeBroker) -> None:
    with sender_to(fake.url) as sender:
        answers = sender.send([message()])

    assert answers == [Enqueued("msg_1")]
    [(path, headers, body)] = fake.seen
    assert (path, body) == ("/v2/enqueue/mail/https://app.example/run", b"one")
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["upstash-deduplication-id"] == "one"


def test_calls_that_pile_up_share_requests(fake: FakeBroker) -> None:
    with sender_to(fake.url) as sender:
        fake.gate.clear()
        futures = [sender.submit([message(f"n{n}")]) for n in range(50)]
        fake.gate.set()
        for each in futures:
            each.result(10)

    sent = [1 if path != "/v2/batch" else len(json.loads(body)) for path, _, body in fake.seen]
    assert sum(sent) == 50
    assert len(sent) < 20


def test_of_a_refused_batch_the_others_are_accepted(fake: FakeBroker) -> None:
    accepted = {"messageId": "msg_1"}
    fake.script = [(400, {}, {"error": "message 1: no"}), (200, {}, accepted)]
    fake.script += [(400, {}, {"error": "message 0: no"})]
    fake.script += [(400, {}, {"error": "no such thing"}), (200, {}, accepted)]

    with sender_to(fake.url) as sender, pytest.raises(BadRequest, match="no such thing"):
        sender.send([message("a"), message("b"), message("c")])

    seen = [(path == "/v2/batch", body) for path, _, body in fake.seen]
    assert [is_batch for is_batch, _ in seen] == [True, False, True, False, False]
    assert [body for is_batch, body in seen if not is_batch] == [b"a", b"b", b"c"]


def test_a_lost_answer_is_asked_for_again_within_the_budget(fake: FakeBroker) -> None:
    fake.script = [(503, {"Retry-After": "0"}, {"error": "the broker is shutting down"})]

    with sender_to(fake.url) as sender:
        assert sender.send([message()]) == [Enqueued("msg_1")]

    assert [headers["upstash-deduplication-id"] for _, headers, _ in fake.seen] == ["one", "one"]


def test_a_broker_that_stays_unavailable_is_an_error_with_its_text(fake: FakeBroker) -> None:
    fake.script = [(503, {"Retry-After": "60"}, {"error": "the broker is shutting down"})]

    with (
        sender_to(fake.url) as sender,
        pytest.raises(BrokerUnavailable, match="503: the broker is shutting down"),
    ):
        sender.send([message()])


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, Unauthorized, "unable to authenticate: invalid token"),
        (400, BadRequest, "Upstash-Retries: must be an integer"),
    ],
)
def test_a_refusal_is_an_exception_of_its_own_and_not_repeated(
    fake: FakeBroker, status: int, kind: type[Exception], text: str
) -> None:
    fake.script = [(status, {}, {"error": text})]

    with sender_to(fake.url) as sender, pytest.raises(kind, match=re.escape(text)):
        sender.send([message()])

    assert len(fake.seen) == 1


def test_nobody_there_is_unreachable_within_the_budget_and_the_task_can_be_repeated(
    fake: FakeBroker,
) -> None:
    tasks = QTasks(settings=replace(settings("http://127.0.0.1:1"), send_budget_ms=200))

    @tasks.task(name="mail")
    def mail(to: str) -> None: ...

    text = r"no answer from the broker at http://127\.0\.0\.1:1 within 0\.2 s: .*Is it running"
    with pytest.raises(BrokerUnreachable, match=text) as caught:
        mail.delay("a")

    assert caught.value.task_id is not None
    with pytest.raises(BrokerUnreachable) as again:
        caught.value.repeat()
    assert again.value.task_id == caught.value.task_id


def test_a_repeat_that_gets_through_gives_what_the_call_would_have_given(fake: FakeBroker) -> None:
    tasks = QTasks(settings=replace(settings(fake.url), send_budget_ms=200))

    @tasks.task(name="mail")
    def mail(to: str) -> None: ...

    fake.gate.clear()  # the broker takes the request and does not answer
    with pytest.raises(BrokerUnreachable, match="it did not answer in time") as caught:
        mail.delay("a")
    fake.gate.set()
    result = caught.value.repeat()

    assert result.id == caught.value.task_id
    assert {headers["upstash-deduplication-id"] for _, headers, _ in fake.seen} == {result.id}
    asyncio.run(stop(tasks))


async def stop(tasks: QTasks) -> None:
    async with tasks.lifespan():
        pass


async def test_a_call_inside_a_running_loop_does_not_need_that_loop(fake: FakeBroker) -> None:
    tasks = QTasks(settings=settings(fake.url))

    @tasks.task(name="mail")
    def mail(to: str) -> None: ...

    first = mail.delay("a")
    second = await mail.adelay("b")

    assert first.id != second.id
    assert len(fake.seen) == 2
    await stop(tasks)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"token": None}, "QTASKS_TOKEN"),
        ({"signing_keys": ()}, "QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY"),
        ({"secrets": ()}, "QTASKS_SECRET"),
        ({"public_url": None}, "QTASKS_PUBLIC_URL"),
        ({"token": None, "public_url": None}, "QTASKS_TOKEN, QTASKS_PUBLIC_URL"),
    ],
)
def test_what_is_not_configured_is_named_at_the_first_call(changes: dict[str, Any], missing: str) -> None:
    tasks = QTasks(settings=replace(settings("http://127.0.0.1:1"), **changes))

    @tasks.task(name="mail")
    def mail(to: str) -> None: ...

    with pytest.raises(ConfigurationError, match=f"needs {missing} to be set"):
        mail.delay("a")


def test_what_is_done_meanwhile_takes_nothing_off_the_time_for_trying_again(fake: FakeBroker) -> None:
    fake.script = [(503, {"Retry-After": "0.01"}, {"error": "in a moment"})]
    seen: list[int] = []

    def meanwhile() -> None:
        eventually(lambda: len(fake.seen) > len(seen), "the request is on its way")
        seen.append(len(fake.seen))
        clock.advance(5000)

    clock = ManualClock(1_700_000_000_000)
    sender = HttpSender(fake.url, TOKEN, clock=clock, budget_ms=500)
    try:
        assert sender.send([message()], meanwhile) == [Enqueued("msg_1")]
    finally:
        sender.close()

    assert seen == [1, 2]


def test_closing_a_sender_tells_those_who_wait(fake: FakeBroker) -> None:
    sender = HttpSender(fake.url, TOKEN, clock=SystemClock())
    fake.gate.clear()
    waiting = sender.submit([message()])
    eventually(lambda: fake.seen, "the request arrives")

    sender.close()

    with pytest.raises(BrokerUnreachable, match="were closed before it answered"):
        waiting.result(5)
