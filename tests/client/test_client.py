"""Both clients against the real API, over TCP and over a Unix socket: every call, and every error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qtasks import BrokerUnavailable, BrokerUnreachable
from qtasks.client import calls
from qtasks.client.calls import Call
from qtasks.client.clients import AsyncClient, Client
from qtasks.errors import (
    BadRequest,
    DecodeError,
    NotFound,
    QuotaExceeded,
    RequestError,
    StoreFull,
    Unauthorized,
)
from qtasks.home.ownership import owner_socket
from qtasks.protocol.headers import Options, QueueSpec
from qtasks.protocol.shapes import Outgoing, State
from tests.support.api import read_keys
from tests.support.homes import TOKEN, embedded, running_server, server_setup, until_found, url_said
from tests.support.processes import free_port
from tests.support.wire import DROP, WireServer, response

T = TypeVar("T")
OPTIONS = Options(
    method="PUT",
    content_type="text/plain; charset=utf-8",
    forward=(("Custom-Header", "grüße"),),
    retries=0,
    labels=("a", "b"),
    task_id="task-1",
    result_ttl_ms=60_000,
    queue=QueueSpec(parallelism=4, ordered=False),
)


class Door:
    """One client to a broker, used the same way whether it is sync or async."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client

    async def send(self, call: Call[T]) -> T:
        """Carry out a call; a plain client does so on a thread."""
        if isinstance(self._client, AsyncClient):
            return await self._client.send(call)
        return await asyncio.to_thread(self._client.send, call)

    async def close(self) -> None:
        """Close the client."""
        if isinstance(self._client, AsyncClient):
            await self._client.aclose()
        else:
            self._client.close()


Open = Callable[..., Door]


@pytest.fixture(params=[Client, AsyncClient])
async def open_door(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Make doors of one kind of client; they are closed at the end."""
    opened: list[Door] = []

    def make(url: str, token: str = TOKEN, **options: Any) -> Door:
        opened.append(Door(request.param(url, token, **options)))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()


@pytest.fixture(params=["tcp", "socket"])
async def door(request: pytest.FixtureRequest, tmp_path: Path, open_door: Open) -> AsyncIterator[Door]:
    """A client to a broker that runs: a standalone one, or the owner of a file."""
    store = tmp_path / "q.db"
    async with AsyncExitStack() as stack:
        if request.param == "tcp":
            said = await stack.enter_async_context(running_server(server_setup(store)))
            yield open_door(url_said(said))
        else:
            await stack.enter_async_context(embedded(store).lifespan())
            yield open_door("", read_keys(store)["QSTASH_TOKEN"], socket=owner_socket(store))


@pytest.fixture
async def hook() -> AsyncIterator[WireServer]:
    """A destination that answers 200 unless it is told otherwise."""
    async with WireServer() as server:
        yield server


async def test_a_message_goes_in_and_arrives_as_it_was(door: Door, hook: WireServer) -> None:
    url = f"{hook.url}/a%2Fb?x=1&y=%20"
    enqueued = await door.send(calls.enqueue(Outgoing(url, "hällo".encode(), OPTIONS, queue="mail")))
    await hook.reached(1)

    assert enqueued.message_id.startswith("msg_")
    assert not enqueued.deduplicated
    assert (hook.last.method, hook.last.target) == ("PUT", "/a%2Fb?x=1&y=%20")
    assert hook.last.body == "hällo".encode()
    assert hook.last.header("content-type") == "text/plain; charset=utf-8"
    assert hook.last.header("custom-header") == "grüße"
    assert hook.last.header("upstash-message-id") == enqueued.message_id


async def test_a_duplicate_is_told_from_the_first(door: Door, hook: WireServer) -> None:
    message = Outgoing(hook.url, b"{}", Options(dedup_id="once"), queue="mail")

    first = await door.send(calls.enqueue(message))
    second = await door.send(calls.enqueue(message))
    await hook.reached(1)

    assert (first.deduplicated, second.deduplicated) == (False, True)
    assert first.message_id == second.message_id


async def test_a_message_that_waits_is_shown_and_its_queue_too(door: Door, hook: WireServer) -> None:
    await door.send(calls.set_queue("mail", parallelism=2, paused=True))
    id_ = (await door.send(calls.enqueue(Outgoing(hook.url, b"body", OPTIONS, queue="mail")))).message_id

    shown = await door.send(calls.message(id_))
    queue = await door.send(calls.queue("mail"))

    assert (shown.message_id, shown.url, shown.method, shown.body) == (id_, hook.url, "PUT", b"body")
    assert (shown.max_retries, shown.labels, shown.queue_name) == (0, ("a", "b"), "mail")
    assert (queue.name, queue.parallelism, queue.paused, queue.lag) == ("mail", 2, True, 1)
    assert await door.send(calls.queues()) == [queue]
    assert hook.requests == []


async def test_a_paused_queue_goes_on_when_it_is_resumed(door: Door, hook: WireServer) -> None:
    await door.send(calls.set_queue("mail"))
    await door.send(calls.pause_queue("mail"))
    await door.send(calls.enqueue(Outgoing(hook.url, b"", Options(), queue="mail")))
    assert (await door.send(calls.queue("mail"))).paused

    await door.send(calls.resume_queue("mail"))
    await hook.reached(1)

    await until_found(lambda: door.send(calls.queue("mail")), lambda queue: queue.lag == 0)
    await door.send(calls.set_queue("mail", parallelism=3))
    assert not (await door.send(calls.queue("mail"))).paused


async def test_the_log_is_read_page_by_page(door: Door, hook: WireServer) -> None:
    id_ = (await door.send(calls.enqueue(Outgoing(hook.url, b"x", Options(), queue="mail")))).message_id
    await door.send(calls.enqueue(Outgoing(hook.url, b"y", Options(), queue="mail")))
    await hook.reached(2)
    mine = calls.log(message_id=id_)
    await until_found(lambda: door.send(mine), lambda page: page.items[0].state is State.DELIVERED)

    states, cursor = [], None
    for _ in range(3):
        page = await door.send(calls.log(message_id=id_, cursor=cursor, count=1))
        states += [each.state for each in page.items]
        cursor = page.cursor
    delivered = await door.send(calls.log(message_id=id_, state="delivered"))

    assert states == [State.DELIVERED, State.ACTIVE, State.CREATED]
    [entry] = delivered.items
    assert (entry.message_id, entry.body, entry.response_status) == (id_, b"x", 200)


async def test_a_dead_letter_is_listed_and_shown(door: Door, hook: WireServer) -> None:
    hook.answers.append(response(500, b"broken"))
    id_ = (await door.send(calls.enqueue(Outgoing(hook.url, b"x", OPTIONS, queue="mail")))).message_id

    [dead] = (await until_found(lambda: door.send(calls.dead_letters()), lambda page: page.items)).items

    assert (dead.message.message_id, dead.response_status, dead.response_body) == (id_, 500, b"broken")
    assert await door.send(calls.dead_letter(dead.dlq_id)) == dead


async def test_a_result_is_waited_for(door: Door, hook: WireServer) -> None:
    hook.answers.append(response(200, b'{"answer": 42}'))
    await door.send(calls.enqueue(Outgoing(hook.url, b"x", OPTIONS, queue="mail")))

    found = await door.send(calls.result("task-1", wait_ms=9_000))

    assert (found.task_id, found.state, found.value) == ("task-1", "SUCCEEDED", b'{"answer":42}')
    assert (await door.send(calls.result("nobody"))).state == "UNKNOWN"


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (calls.message("msg_nobody"), NotFound, "message msg_nobody not found"),
        (calls.queue("nowhere"), NotFound, "queue nowhere not found"),
        (calls.pause_queue("nowhere"), NotFound, "queue nowhere not found"),
        (calls.dead_letter("nothing"), NotFound, "dlq message nothing not found"),
        (calls.set_queue("mail", parallelism=0), BadRequest, "parallelism must be an integer of at least 1"),
        (calls.log(cursor="x"), BadRequest, "cursor 'x' is not one that this API gave"),
        (
            calls.enqueue(Outgoing("ftp://x", b"", Options(), queue="mail")),
            BadRequest,
            "invalid destination url",
        ),
        (
            calls.enqueue(Outgoing("http://10.0.0.1/", b"", Options(), queue="mail")),
            BadRequest,
            "endpoint resolves to a private address: 10.0.0.1",
        ),
        (
            calls.enqueue(Outgoing("https://a.example", b"", Options(retries=9999), queue="mail")),
            QuotaExceeded,
            "quota maxRetries exceeded, current limit: 1000",
        ),
    ],
)
async def test_a_refusal_is_an_exception_with_the_broker_s_text(
    door: Door, call: Call[object], kind: type[RequestError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        await door.send(call)

    assert text in str(caught.value)
    assert caught.value.status == kind.status


async def test_a_wrong_token_is_an_exception_of_its_own(tmp_path: Path, open_door: Open) -> None:
    async with running_server(server_setup(tmp_path / "q.db")) as said:
        with pytest.raises(Unauthorized, match="unable to authenticate: invalid token"):
            await open_door(url_said(said), "wrong").send(calls.queues())


async def test_a_body_over_the_limit_is_refused(door: Door) -> None:
    body = b"x" * (10 * 1024 * 1024 + 1)

    with pytest.raises(QuotaExceeded, match="quota maxMessageSize exceeded, current limit: 10485760 bytes"):
        await door.send(calls.enqueue(Outgoing("https://a.example", body, Options(), queue="mail")))


async def test_a_broker_that_cannot_serve_now_says_when_to_come_back(
    open_door: Open, hook: WireServer
) -> None:
    hook.answers.append(response(503, b'{"error": "shutting down"}', "Retry-After: 2.5"))

    with pytest.raises(BrokerUnavailable, match="the broker answered 503: shutting down") as caught:
        await open_door(hook.url).send(calls.queues())

    assert (caught.value.status, caught.value.retry_after) == (503, 2.5)


async def test_an_error_page_of_a_proxy_is_an_error_with_its_beginning(
    open_door: Open, hook: WireServer
) -> None:
    hook.answers.append(response(502, b"<html>Bad Gateway</html>", "Retry-After: tomorrow"))

    with pytest.raises(BrokerUnavailable, match="the broker answered 502: <html>Bad Gateway") as caught:
        await open_door(hook.url).send(calls.queues())

    assert caught.value.retry_after is None


async def test_a_full_store_is_an_exception_of_its_own(open_door: Open, hook: WireServer) -> None:
    hook.answers.append(response(507, b'{"error": "no room is left"}'))

    with pytest.raises(StoreFull, match="no room is left"):
        await open_door(hook.url).send(calls.queues())


async def test_a_status_that_has_no_exception_of_its_own_is_a_refusal(
    open_door: Open, hook: WireServer
) -> None:
    hook.answers.append(response(418, b'{"error": "a teapot"}'))

    with pytest.raises(RequestError, match="a teapot") as caught:
        await open_door(hook.url).send(calls.queues())

    assert caught.value.status == 418


async def test_a_redirect_is_not_followed_with_the_token(open_door: Open, hook: WireServer) -> None:
    hook.answers.append(response(302, b"", f"Location: {hook.url}/elsewhere"))

    with pytest.raises(RequestError):
        await open_door(hook.url).send(calls.queues())

    assert len(hook.requests) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'"text"', b'[{"name": 1}]'])
async def test_an_answer_that_is_not_the_api_s_is_an_error(
    open_door: Open, hook: WireServer, body: bytes
) -> None:
    hook.answers.append(response(200, body))

    with pytest.raises(DecodeError):
        await open_door(hook.url).send(calls.queues())


async def test_nobody_there_is_unreachable(open_door: Open) -> None:
    with pytest.raises(BrokerUnreachable):
        await open_door(f"http://127.0.0.1:{free_port()}").send(calls.queues())


async def test_a_connection_that_breaks_before_the_answer_is_unreachable(
    open_door: Open, hook: WireServer
) -> None:
    hook.answers.append(DROP)

    with pytest.raises(BrokerUnreachable):
        await open_door(hook.url).send(calls.queues())


async def test_an_answer_that_does_not_come_in_time_is_unreachable(open_door: Open, hook: WireServer) -> None:
    hook.answers.append(b"")

    with pytest.raises(BrokerUnreachable):
        await open_door(hook.url, timeout=0.05).send(calls.queues())


async def test_proxies_of_the_environment_are_not_used(
    open_door: Open, hook: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.answers.append(response(200, b"[]"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)

    assert await open_door(hook.url).send(calls.queues()) == []
    assert hook.last.header("authorization") == f"Bearer {TOKEN}"
