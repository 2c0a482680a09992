"""Deliveries over a real socket: what is sent, and what is made of every kind of answer."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from qstash import Receiver

from qtasks.broker.http_delivery import HttpDeliverer
from qtasks.broker.security import DestinationRules, parse_rules
from qtasks.broker.store.extras import Extras
from qtasks.broker.store.records import Trouble
from qtasks.clock import SystemClock
from qtasks.protocol.signature import verify
from tests.support.deliveries import KEY, LIMIT, NOW, FakeResolver, claim, deliver, new_deliverer
from tests.support.wire import DROP, HANG, Script, WireServer, response

SHORT_MS = 150
BROKEN = [
    b"this is not HTTP\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
]

MakeDeliverer = Callable[..., HttpDeliverer]


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def make_deliverer() -> AsyncIterator[MakeDeliverer]:
    made: list[HttpDeliverer] = []

    def make(rules: DestinationRules | None = None, **changes: Any) -> HttpDeliverer:
        made.append(new_deliverer(rules, **changes))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def deliverer(make_deliverer: MakeDeliverer) -> HttpDeliverer:
    return make_deliverer()


# --- what is sent ---------------------------------------------------------------------------------


async def test_the_headers_are_those_of_the_contract_and_no_others(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    headers = (("Content-Type", "application/json"), ("X-Tenant", "42"))
    await deliver(
        deliverer, claim(server.url, headers=headers, body=b"{}", caller_ip="203.0.113.7", attempt=3)
    )

    assert server.last.names == [
        "Accept-Encoding",
        "Content-Length",
        "Content-Type",
        "Host",
        "Upstash-Caller-Ip",
        "Upstash-Message-Id",
        "Upstash-Retried",
        "Upstash-Signature",
        "User-Agent",
        "X-Tenant",
    ]
    assert server.last.header("User-Agent") == "Upstash-QStash"
    assert server.last.header("Upstash-Message-Id") == "msg_1"
    assert server.last.header("Upstash-Retried") == "2"
    assert server.last.header("Upstash-Caller-Ip") == "203.0.113.7"
    assert server.last.header("Content-Type") == "application/json"
    assert server.last.header("Host") == f"127.0.0.1:{server.port}"
    assert server.last.header("X-Tenant") == "42"


async def test_no_content_type_is_invented(deliverer: HttpDeliverer, server: WireServer) -> None:
    await deliver(deliverer, claim(server.url, body=b"hello"))

    assert "Content-Type" not in server.last.names


@pytest.mark.parametrize(
    "name",
    ["User-Agent", "Upstash-Message-Id", "Upstash-Retried", "Upstash-Signature", "Accept-Encoding"],
)
async def test_a_forwarded_header_does_not_replace_the_broker_s_own(
    deliverer: HttpDeliverer, server: WireServer, name: str
) -> None:
    await deliver(deliverer, claim(server.url, headers=((name, "forged"),)))

    assert server.last.header(name) != "forged"


@pytest.mark.parametrize("caller_ip", ["203.0.113.7", None])
async def test_a_sender_cannot_forge_its_address(
    deliverer: HttpDeliverer, server: WireServer, caller_ip: str | None
) -> None:
    headers = (("Upstash-Caller-Ip", "6.6.6.6"),)
    await deliver(deliverer, claim(server.url, headers=headers, caller_ip=caller_ip))

    assert "6.6.6.6" not in dict(server.last.headers).values()


@pytest.mark.parametrize("fired_at", [1_893_456_000_000, None])
async def test_the_fire_of_a_schedule_is_told_by_the_broker_alone(
    deliverer: HttpDeliverer, server: WireServer, fired_at: int | None
) -> None:
    headers = (("Qtasks-Scheduled-At", "1"),)
    extras = Extras(schedule_id="beat", fired_at=fired_at)
    await deliver(deliverer, claim(server.url, headers=headers, extras=extras))

    told = dict(server.last.headers).get("Qtasks-Scheduled-At")
    assert told == (None if fired_at is None else "1893456000000")


async def test_a_workflow_s_forwarded_upstash_headers_pass(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    await deliver(deliverer, claim(server.url, headers=(("Upstash-Workflow-Runid", "wfr_1"),)))

    assert server.last.header("Upstash-Workflow-Runid") == "wfr_1"


async def test_a_header_value_beyond_ascii_arrives_as_utf_8(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    await deliver(deliverer, claim(server.url, headers=(("X-Name", "Jürgen ☃"),)))

    assert server.last.header("X-Name") == "Jürgen ☃"


@pytest.mark.parametrize("body", [b"", b"hello", bytes(range(256)) * 500])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_method_and_body_arrive_unchanged(
    deliverer: HttpDeliverer, server: WireServer, method: str, body: bytes
) -> None:
    await deliver(deliverer, claim(server.url, method=method, body=body))

    assert (server.last.method, server.last.body) == (method, body)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("/hook/", "/hook/"),
        ("/a%2Fb%20c", "/a%2Fb%20c"),
        ("/a//b/../c", "/a//b/../c"),
        ("/hook?b=1&a=2&a=%20", "/hook?b=1&a=2&a=%20"),
        ("?a=b", "/?a=b"),
        ("/hook?x=a+b%2Bc", "/hook?x=a+b%2Bc"),
        ("/hook#part", "/hook"),
        ("/h%c3%bc", "/h%c3%bc"),
    ],
)
async def test_the_address_is_called_verbatim(
    deliverer: HttpDeliverer, server: WireServer, path: str, target: str
) -> None:
    await deliver(deliverer, claim(server.url + path))

    assert server.last.target == target


async def test_the_signature_is_for_this_body_at_this_address(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    url = f"{server.url}/hook?a=b"
    await deliver(deliverer, claim(url, body=b"hello"))

    claims = verify(server.last.header("Upstash-Signature"), b"hello", keys=[KEY], url=url, now=NOW)
    assert (claims["sub"], claims["nbf"]) == (url, 0)


async def test_the_official_receiver_accepts_the_signature(
    make_deliverer: MakeDeliverer, server: WireServer
) -> None:
    await deliver(make_deliverer(clock=SystemClock()), claim(server.url, body=b"hello"))

    Receiver(current_signing_key=KEY, next_signing_key="sig_none").verify(
        signature=server.last.header("Upstash-Signature"), body="hello", url=server.url
    )


async def test_each_attempt_is_signed_anew_with_the_key_of_the_moment(
    make_deliverer: MakeDeliverer, server: WireServer
) -> None:
    keys = iter(["sig_old_key", "sig_new_key"])
    deliverer = make_deliverer(signing_key=lambda: next(keys))

    await deliver(deliverer, claim(server.url))
    await deliver(deliverer, claim(server.url, attempt=2))

    first, second = (each.header("Upstash-Signature") for each in server.requests)
    old = verify(first, b"", keys=["sig_old_key"], url=server.url, now=NOW)
    new = verify(second, b"", keys=["sig_new_key"], url=server.url, now=NOW)
    assert old["jti"] != new["jti"]


async def test_no_cookie_is_kept_from_one_delivery_to_the_next(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(response(200, b"", "Set-Cookie: session=1; Path=/"))
    await deliver(deliverer, claim(server.url))

    await deliver(deliverer, claim(server.url))

    assert "Cookie" not in server.last.names


async def test_a_proxy_of_the_environment_is_not_used(
    deliverer: HttpDeliverer, server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    assert (await deliver(deliverer, claim(server.url))).status == 200


# --- what is answered -----------------------------------------------------------------------------


async def test_a_success_brings_status_headers_and_body(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(response(201, b'{"n":1}', "Content-Type: application/json"))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, reply.body, reply.error, reply.truncated) == (201, b'{"n":1}', None, False)
    assert ("Content-Type", "application/json") in reply.headers


async def test_a_failure_brings_the_answer_and_a_reason(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(response(503, b"later", "Retry-After: 10"))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, reply.body, reply.error) == (503, b"later", "unexpected status 503")
    assert ("Retry-After", "10") in reply.headers


async def test_a_header_sent_twice_is_brought_twice(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(response(200, b"", "X-One: a", "X-One: b"))

    reply = await deliver(deliverer, claim(server.url))

    assert [value for name, value in reply.headers if name == "X-One"] == ["a", "b"]


async def test_an_answer_without_a_body_is_a_success(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(b"HTTP/1.1 204 No Content\r\n\r\n")

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, reply.body) == (204, b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(deliverer: HttpDeliverer, server: WireServer, status: int) -> None:
    server.answers.append(response(status, b"", f"Location: {server.url}/elsewhere"))

    reply = await deliver(deliverer, claim(f"{server.url}/hook"))

    assert reply.status == status
    assert [each.target for each in server.requests] == ["/hook"]


async def test_a_body_of_just_the_limit_is_whole(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(response(200, b"x" * LIMIT))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.body, reply.truncated) == (b"x" * LIMIT, False)


async def test_a_body_beyond_the_limit_is_cut_and_marked(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(response(200, b"x" * (LIMIT + 1)))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, reply.body, reply.truncated) == (200, b"x" * LIMIT, True)


async def test_a_body_that_never_ends_is_not_read_to_its_end(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    head = b"HTTP/1.1 500 Error\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers.append(Script(head, more=b"400\r\n" + b"x" * 1024 + b"\r\n"))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, len(reply.body), reply.truncated) == (500, LIMIT, True)


async def test_a_compressed_answer_is_kept_as_it_came(deliverer: HttpDeliverer, server: WireServer) -> None:
    packed = gzip.compress(b"x" * 1_000_000)[:LIMIT]
    server.answers.append(response(200, packed, "Content-Encoding: gzip"))

    reply = await deliver(deliverer, claim(server.url))

    assert reply.body == packed
    assert ("Content-Encoding", "gzip") in reply.headers


@pytest.mark.parametrize("answer", BROKEN, ids=range(len(BROKEN)))
async def test_a_broken_answer_is_a_failed_attempt(
    deliverer: HttpDeliverer, server: WireServer, answer: bytes
) -> None:
    server.answers.append(Script(answer, then_close=True))

    reply = await deliver(deliverer, claim(server.url))

    assert reply.status == 0
    assert reply.error
    assert reply.trouble is not Trouble.UNREACHABLE
    assert len(server.requests) == 1


async def test_a_connection_closed_without_an_answer_is_a_failed_attempt(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(DROP)

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, reply.error) == (0, "Server disconnected")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_an_attempt_on_a_used_connection_that_breaks_is_not_repeated_unseen(
    deliverer: HttpDeliverer, server: WireServer, method: str
) -> None:
    """One attempt is one request: the broker counts them, and nobody else may repeat one."""
    await deliver(deliverer, claim(server.url))
    server.answers.extend([DROP, response(200)])

    reply = await deliver(deliverer, claim(server.url, method=method))

    assert (reply.status, len(server.requests)) == (0, 2)


async def test_deliveries_to_one_destination_share_a_connection(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    for _ in range(3):
        await deliver(deliverer, claim(server.url))

    assert (len(server.requests), server.connections) == (3, 1)


async def test_an_answer_that_does_not_come_in_time_is_a_failed_attempt(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(HANG)

    reply = await deliver(deliverer, claim(server.url, timeout_ms=SHORT_MS))

    assert (reply.status, reply.error) == (0, "no complete answer within 0.15 s")


async def test_an_answer_must_be_complete_in_time(deliverer: HttpDeliverer, server: WireServer) -> None:
    server.answers.append(Script(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))

    reply = await deliver(deliverer, claim(server.url, timeout_ms=SHORT_MS))

    assert (reply.status, reply.error) == (0, "no complete answer within 0.15 s")
    assert reply.trouble is Trouble.SILENT


async def test_a_connection_that_ends_without_an_answer_is_silence(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(Script(b"", then_close=True))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, reply.trouble) == (0, Trouble.SILENT)


async def test_a_refused_connection_is_a_failed_attempt(deliverer: HttpDeliverer) -> None:
    async with WireServer() as closed:
        url = closed.url

    reply = await deliver(deliverer, claim(url))

    assert (reply.status, reply.trouble) == (0, Trouble.UNREACHABLE)
    assert "Cannot connect to host 127.0.0.1" in (reply.error or "")


async def test_a_name_that_cannot_be_resolved_is_a_failed_attempt(deliverer: HttpDeliverer) -> None:
    reply = await deliver(deliverer, claim(f"http://{'x' * 64}.example/"))

    assert reply.status == 0
    assert reply.error


async def test_a_name_without_an_address_is_a_destination_that_cannot_be_reached() -> None:
    deliverer = new_deliverer(resolver=FakeResolver())

    reply = await deliver(deliverer, claim("https://nowhere.example/"))
    await deliverer.close()

    assert (reply.status, reply.trouble) == (0, Trouble.UNREACHABLE)


async def test_a_stored_header_that_cannot_be_sent_fails_the_attempt_alone(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    reply = await deliver(deliverer, claim(server.url, headers=(("X-Bad", "a\r\nX-Forged: b"),)))

    assert (reply.status, server.requests) == (0, [])


# --- who may be called ----------------------------------------------------------------------------

LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "app.localhost",
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
    "127\u30020\u30020\u30021",
    "example.com@127.0.0.1",
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
async def test_no_spelling_of_loopback_reaches_it_unless_it_is_admitted(
    make_deliverer: MakeDeliverer, server: WireServer, host: str
) -> None:
    deliverer = make_deliverer(parse_rules((), loopback=False))

    reply = await deliver(deliverer, claim(f"http://{host}:{server.port}/", timeout_ms=5000))

    assert (reply.status, server.connections) == (0, 0)


async def test_an_address_that_is_refused_says_so(make_deliverer: MakeDeliverer, server: WireServer) -> None:
    deliverer = make_deliverer(parse_rules((), loopback=False))

    reply = await deliver(deliverer, claim(server.url))

    assert "endpoint resolves to a loopback address: 127.0.0.1" in (reply.error or "")
    assert reply.trouble is None  # the destination has no part in it


async def test_a_name_that_resolves_to_a_refused_address_says_so(
    make_deliverer: MakeDeliverer, server: WireServer
) -> None:
    deliverer = make_deliverer(parse_rules((), loopback=False))

    reply = await deliver(deliverer, claim(f"http://localhost:{server.port}/"))

    assert "endpoint resolves to a loopback address" in (reply.error or "")
    assert reply.trouble is None


@pytest.mark.parametrize("entry", ["127.0.0.0/8", "127.0.0.1", "localhost"])
async def test_what_is_on_the_list_is_called(
    make_deliverer: MakeDeliverer, server: WireServer, entry: str
) -> None:
    deliverer = make_deliverer(parse_rules([entry], loopback=False))
    host = "localhost" if entry == "localhost" else "127.0.0.1"

    reply = await deliver(deliverer, claim(f"http://{host}:{server.port}/"))

    assert reply.status == 200


async def test_a_redirect_to_a_refused_address_is_not_followed(
    make_deliverer: MakeDeliverer, server: WireServer
) -> None:
    deliverer = make_deliverer(parse_rules(["127.0.0.1"], loopback=False))
    server.answers.append(response(302, b"", "Location: http://169.254.169.254/latest/meta-data/"))

    reply = await deliver(deliverer, claim(server.url))

    assert (reply.status, len(server.requests)) == (302, 1)


# --- giving up ------------------------------------------------------------------------------------


async def test_giving_up_a_delivery_closes_its_connection(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(HANG)
    waiting = asyncio.ensure_future(deliver(deliverer, claim(server.url)))
    await server.reached(1)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert (await deliver(deliverer, claim(server.url))).status == 200
    assert server.connections == 2


# --- broken off -----------------------------------------------------------------------------------


async def test_an_attempt_that_is_dropped_closes_its_connection_and_no_other(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.extend([HANG, HANG])
    claims = [claim(server.url, seq=1), claim(server.url, seq=2)]
    attempts = [asyncio.ensure_future(deliver(deliverer, each)) for each in claims]
    await server.reached(2)

    deliverer.drop(claims[0])
    reply = await attempts[0]
    deliverer.drop(claims[0])  # it is over: nothing to be dropped

    assert (reply.status, reply.error, attempts[1].done()) == (0, "cancelled", False)
    attempts[1].cancel()
    await asyncio.gather(attempts[1], return_exceptions=True)


async def test_a_dropped_attempt_does_not_touch_the_next_one(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    server.answers.append(HANG)
    attempt = asyncio.ensure_future(deliver(deliverer, claim(server.url)))
    await server.reached(1)
    deliverer.drop(claim(server.url))
    await attempt

    assert (await deliver(deliverer, claim(server.url))).status == 200


async def test_an_attempt_that_has_been_answered_is_not_dropped(
    deliverer: HttpDeliverer, server: WireServer
) -> None:
    deliverer.drop(claim(server.url))

    assert (await deliver(deliverer, claim(server.url))).status == 200
