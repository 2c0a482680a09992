"""Who may make the webhook run something: the table of deliveries that it must refuse (promise P23)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from qtasks.clock import ManualClock
from qtasks.protocol.signature import body_hash, sign
from qtasks.tasks.envelope import EnvelopeSigner, pack
from qtasks.tasks.webhook import MAX_BODY, Webhook, WebhookKeys
from tests.support.asgi import NoAnswer, call
from tests.support.tasks import KEY, NEXT_KEY, NOW, OTHER_SECRET, SECRET, URL, Workshop

KEYS = WebhookKeys((KEY, NEXT_KEY), URL)
EVIL = "https://evil.example/qtasks/run"


class Gate:
    """A webhook before a workshop with the one task `note`."""

    def __init__(self, keys: WebhookKeys | None = KEYS, *, concurrency: int = 8, **workshop: Any) -> None:
        self.shop = Workshop(**workshop)

        async def note(text: str) -> str:
            self.shop.ran.append(text)
            return text

        self.shop.task(note)
        self.webhook = Webhook(
            lambda: self.shop.executor, keys=keys, concurrency=concurrency, clock=self.shop.clock
        )
        self.body = pack(self.shop.envelope("note", "hello"))

    async def post(
        self, body: bytes | None = None, path: str = "/run", method: str = "POST", **changes: str | None
    ) -> httpx.Response:
        """Deliver, with the headers of an honest delivery of `body` but for `changes`."""
        sent = self.body if body is None else body
        return await post(self.webhook, path, sent, self.shop.headers(sent, **changes), method=method)


async def post(
    app: ASGIApp, path: str, body: bytes, headers: dict[str, str], *, method: str = "POST", root: str = ""
) -> httpx.Response:
    transport = httpx.ASGITransport(app, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        return await client.request(method, path, content=body, headers=headers)


def token(
    of: bytes,
    *,
    key: str = KEY,
    header: object = None,
    **changes: object,
) -> str:
    """Sign whatever claims, as somebody with a key could."""
    claims = {
        "iss": "Upstash",
        "sub": URL,
        "exp": NOW // 1000 + 300,
        "nbf": 0,
        "iat": NOW // 1000,
        "jti": "jwt_1",
        "body": body_hash(of),
    } | changes
    parts = [orjson.dumps(header or {"alg": "HS256", "typ": "JWT"}), orjson.dumps(claims)]
    signed = b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in parts)
    mac = hmac.new(key.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def unsigned(body: bytes) -> str:
    """Make the token of the algorithm `none`, without a signature."""
    head, claims, _ = token(body, header={"alg": "none", "typ": "JWT"}).split(".")
    return f"{head}.{claims}."


def altered(body: bytes) -> str:
    """Take a good token and put other claims into it."""
    head, _, mac = token(body).split(".")
    return f"{head}.{token(body, exp=NOW).split('.')[1]}.{mac}"


async def test_an_honest_delivery_is_executed() -> None:
    gate = Gate()

    answer = await gate.post()

    assert (answer.status_code, answer.json(), gate.shop.ran) == (200, "hello", ["hello"])


# --- the broker's signature -----------------------------------------------------------------------

NO_KEY = "made with none of the signing keys"
WRONG_TOKENS: dict[str, tuple[Callable[[bytes], str], str]] = {
    "no token at all": (lambda body: "x", "the signature is not a JWT"),
    "not three parts": (lambda body: token(body).rpartition(".")[0], "the signature is not a JWT"),
    "algorithm none": (unsigned, "the signature is not a JWT"),
    "algorithm none, signed": (
        lambda body: token(body, header={"alg": "none"}),
        "the signature's algorithm is 'none', not HS256",
    ),
    "another algorithm": (
        lambda body: token(body, header={"alg": "RS256"}),
        "the signature's algorithm is 'RS256', not HS256",
    ),
    "forged with another key": (
        lambda body: token(body, key="sig_forged"),
        "made with none of the signing keys",
    ),
    "forged with an empty key": (lambda body: token(body, key=""), "made with none of the signing keys"),
    "forged with the app's secret": (
        lambda body: token(body, key=SECRET),
        "made with none of the signing keys",
    ),
    "altered claims": (altered, "made with none of the signing keys"),
    "expired": (lambda body: token(body, exp=NOW // 1000 - 6), "the signature has expired"),
    "without an expiry": (lambda body: token(body, exp=None), "the signature's exp is None, not a time"),
    "not valid yet": (lambda body: token(body, nbf=NOW // 1000 + 6), "the signature is not valid yet"),
    "another issuer": (lambda body: token(body, iss="Somebody"), "the signature was issued by 'Somebody'"),
    "another body": (lambda body: token(b"another"), "the body is not the one that was signed"),
    "no body": (lambda body: token(body, body=None), "the body is not the one that was signed"),
    "another address": (
        lambda body: token(body, sub=EVIL),
        f"the signature is for {EVIL!r}, not for {URL!r}",
    ),
    "the address without its end": (
        lambda body: token(body, sub=URL.removesuffix("/run")),
        "the signature is for 'https://app.example/qtasks', not for",
    ),
    "the address with a slash": (lambda body: token(body, sub=f"{URL}/"), "the signature is for"),
    "the address with a query": (lambda body: token(body, sub=f"{URL}?a=b"), "the signature is for"),
    "another scheme": (lambda body: token(body, sub=URL.replace("https", "http")), "the signature is for"),
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
async def test_a_delivery_that_the_broker_has_not_signed_for_us_is_refused(name: str) -> None:
    gate = Gate()
    make_token, text = WRONG_TOKENS[name]

    answer = await gate.post(Upstash_Signature=make_token(gate.body))

    assert (answer.status_code, gate.shop.ran) == (403, [])
    assert text in answer.json()["error"]


@pytest.mark.parametrize("value", [None, ""])
async def test_an_unsigned_delivery_is_refused(value: str | None) -> None:
    gate = Gate()

    answer = await gate.post(Upstash_Signature=value)

    assert (answer.status_code, gate.shop.ran) == (401, [])
    assert answer.json() == {"error": "the delivery is not signed: header Upstash-Signature is missing"}


async def test_a_body_that_was_changed_on_its_way_is_refused() -> None:
    gate = Gate()
    headers = gate.shop.headers(gate.body)

    answer = await post(gate.webhook, "/run", gate.body.replace(b"hello", b"hullo"), headers)

    assert (answer.status_code, gate.shop.ran) == (403, [])
    assert answer.json() == {"error": "the body is not the one that was signed"}


async def test_clocks_that_differ_by_seconds_are_forgiven() -> None:
    gate = Gate()

    answer = await gate.post(
        Upstash_Signature=token(gate.body, exp=NOW // 1000 - 4, nbf=NOW // 1000 + 4, iat=NOW // 1000 + 4)
    )

    assert answer.status_code == 200


async def test_a_delivery_is_good_for_five_minutes_and_no_longer() -> None:
    clock = ManualClock(NOW)
    gate = Gate(clock=clock)
    headers = gate.shop.headers(gate.body)

    clock.advance(minutes=5, seconds=5)
    answer = await post(gate.webhook, "/run", gate.body, headers)

    assert (answer.status_code, answer.json()) == (403, {"error": "the signature has expired"})


async def test_the_next_key_is_accepted_beside_the_current_one() -> None:
    gate = Gate()

    answer = await gate.post(Upstash_Signature=token(gate.body, key=NEXT_KEY))

    assert answer.status_code == 200


async def test_a_key_that_was_rotated_out_is_not_accepted() -> None:
    gate = Gate(WebhookKeys((NEXT_KEY, "sig_newest"), URL))

    answer = await gate.post()

    assert (answer.status_code, gate.shop.ran) == (403, [])


@pytest.mark.parametrize("keys", [(), ("",), ("", "")])
async def test_a_webhook_with_no_key_that_counts_refuses_everything(keys: tuple[str, ...]) -> None:
    gate = Gate(WebhookKeys(keys, URL))

    for key in (KEY, ""):
        answer = await gate.post(Upstash_Signature=token(gate.body, key=key))
        assert (answer.status_code, gate.shop.ran) == (403, [])


async def test_a_webhook_without_keys_is_closed() -> None:
    gate = Gate(None)

    answer = await gate.post()

    assert (answer.status_code, gate.shop.ran) == (503, [])
    assert answer.json()["error"].startswith("not configured: this webhook takes no deliveries until ")


# --- the app's own signature ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, ""])
async def test_a_task_that_this_app_has_not_signed_is_refused(value: str | None) -> None:
    gate = Gate()

    answer = await gate.post(Qtasks_Signature=value)

    assert (answer.status_code, gate.shop.ran) == (403, [])
    error = answer.json()["error"]
    assert error["message"] == "the task has no signature: header Qtasks-Signature is missing"


NOT_SIGNED = "the task was not signed by this app, or was changed since"


@pytest.mark.parametrize(
    "signature",
    [
        "x",
        "\u00e9",
        "=" * 43,
        "A" * 43,
        EnvelopeSigner([OTHER_SECRET]).sign(pack(Workshop().envelope("note", "hello"))),
        EnvelopeSigner([SECRET]).sign(b"another body"),
    ],
    ids=["nonsense", "not ascii", "padding", "zeros", "another app's", "of another body"],
)
async def test_a_task_with_a_wrong_signature_is_refused(signature: str) -> None:
    gate = Gate()
    headers = gate.shop.headers(gate.body, Qtasks_Signature=None)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]

    answer = await call(
        gate.webhook,
        "POST",
        b"/run",
        headers=[*raw, (b"qtasks-signature", signature.encode("latin-1"))],
        chunks=[gate.body],
    )

    assert (answer.status, gate.shop.ran) == (403, [])
    assert answer.json["error"]["message"] == NOT_SIGNED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"hello"', b'"hullo"'),
        (b'"note"', b'"wipe"'),
        (b"https://app.example", b"https://app.exampl3"),
        (b'"id":"tsk_1"', b'"id":"tsk_2"'),
        (b'"v":1', b'"v": 1'),
        (b'"kwargs":{}', b'"kwargs":{"text":"x"}'),
        (b'"enqueuedAt":17', b'"enqueuedAt":27'),
    ],
)
async def test_a_task_that_the_broker_has_altered_is_refused(old: bytes, new: bytes) -> None:
    """The broker can sign what it likes, but not in the app's name."""
    gate = Gate()
    assert old in gate.body
    body = gate.body.replace(old, new)

    answer = await gate.post(body, Qtasks_Signature=gate.shop.signer.sign(gate.body))

    assert (answer.status_code, gate.shop.ran) == (403, [])
    assert answer.json()["error"]["message"] == NOT_SIGNED


async def test_a_task_signed_for_another_address_is_refused() -> None:
    gate = Gate()

    answer = await gate.post(pack(gate.shop.envelope("note", "hello", destination=EVIL)))

    assert (answer.status_code, gate.shop.ran) == (403, [])
    assert answer.json()["error"]["message"] == f"the task was signed for {EVIL}, not for this app"


async def test_a_task_that_has_expired_is_dead() -> None:
    gate = Gate()

    answer = await gate.post(pack(gate.shop.envelope("note", "hello", expires_at=NOW - 1)))

    assert (answer.status_code, gate.shop.ran) == (489, [])
    assert answer.headers["Upstash-NonRetryable-Error"] == "true"
    assert answer.json()["error"]["type"] == "Expired"


async def test_a_task_that_has_not_expired_is_executed() -> None:
    gate = Gate()

    answer = await gate.post(pack(gate.shop.envelope("note", "hello", expires_at=NOW)))

    assert (answer.status_code, gate.shop.ran) == (200, ["hello"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"v":1}',
        b'{"v":2,"task":"note","id":"a","args":[],"kwargs":{},"meta":{}}',
        b'{"v":1,"task":"note","id":"a","args":[],"kwargs":{},"meta":[]}',
        b'{"v":1,"task":"note","id":"a","args":7,"kwargs":{},"meta":{"destination":"x","enqueuedAt":1}}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
async def test_a_signed_body_that_is_no_task_is_dead_and_executes_nothing(body: bytes) -> None:
    gate = Gate()

    answer = await gate.post(body)

    assert gate.shop.ran == []
    assert answer.status_code in (403, 489)


async def test_a_task_signed_with_an_earlier_secret_is_executed_while_that_is_kept() -> None:
    gate = Gate(secrets=(OTHER_SECRET, SECRET))

    answer = await gate.post(Qtasks_Signature=EnvelopeSigner([SECRET]).sign(gate.body))

    assert answer.status_code == 200


async def test_a_task_is_signed_with_the_first_of_several_secrets() -> None:
    body = b"{}"

    signature = EnvelopeSigner([OTHER_SECRET, SECRET]).sign(body)

    assert signature == EnvelopeSigner([OTHER_SECRET]).sign(body)


async def test_a_task_signed_with_a_secret_that_was_dropped_is_refused() -> None:
    gate = Gate(secrets=(OTHER_SECRET,))

    answer = await gate.post(Qtasks_Signature=EnvelopeSigner([SECRET]).sign(gate.body))

    assert (answer.status_code, gate.shop.ran) == (403, [])


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_only_posts_are_deliveries(method: str) -> None:
    gate = Gate()

    answer = await gate.post(method=method)

    assert (answer.status_code, answer.headers["Allow"], gate.shop.ran) == (405, "POST", [])


@pytest.mark.parametrize("path", ["/", "/runs", "/run/now", "/RUN", "/batches", "/run%2Fx"])
async def test_nothing_is_at_any_other_path(path: str) -> None:
    gate = Gate()

    answer = await gate.post(path=path)

    assert (answer.status_code, gate.shop.ran) == (404, [])


async def test_a_delivery_that_breaks_off_executes_nothing() -> None:
    gate = Gate()
    headers = [(name.encode(), value.encode()) for name, value in gate.shop.headers(gate.body).items()]

    with pytest.raises(NoAnswer):
        await call(gate.webhook, "POST", b"/run", headers=headers, chunks=[gate.body], disconnects=True)

    assert gate.shop.ran == []


async def test_a_body_without_end_is_not_read_to_its_end() -> None:
    gate = Gate()
    chunk = b"x" * (1024 * 1024)
    chunks = [chunk] * (MAX_BODY // len(chunk) + 2)
    headers = [(b"upstash-signature", token(b"").encode())]

    answer = await call(gate.webhook, "POST", b"/run", headers=headers, chunks=chunks, disconnects=True)

    assert answer.status == 413


async def test_an_unsigned_delivery_is_refused_before_its_body_is_read() -> None:
    gate = Gate()

    answer = await call(gate.webhook, "POST", b"/run", chunks=[b"x"], disconnects=True)

    assert answer.status == 401


async def test_a_full_process_sends_deliveries_back_without_spending_an_attempt() -> None:
    gate = Gate(concurrency=1)
    is_inside, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        is_inside.set()
        await may_end.wait()

    gate.shop.task(slow)
    body = pack(gate.shop.envelope("slow"))
    first = asyncio.ensure_future(gate.post(body, Upstash_Message_Id="msg_slow"))
    await is_inside.wait()

    full = await gate.post()
    may_end.set()

    assert (full.status_code, full.headers["Qtasks-Uncounted"], gate.shop.ran) == (429, "full", [])
    assert "Retry-After" in full.headers
    assert (await first).status_code == 200
    assert (await gate.post()).status_code == 200


async def test_refused_deliveries_take_no_slot_for_good() -> None:
    gate = Gate(concurrency=1)

    for _ in range(3):
        await gate.post(Upstash_Signature="x")

    assert (await gate.post()).status_code == 200


# --- where it is mounted --------------------------------------------------------------------------


def starlette(webhook: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/qtasks", app=webhook)])


def deep(webhook: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/inner", routes=[Mount("/qtasks", app=webhook)])])


def fastapi(webhook: ASGIApp) -> ASGIApp:
    app = FastAPI()
    app.mount("/qtasks", webhook)
    return app


MOUNTS = pytest.mark.parametrize(
    ("mount", "path", "root"),
    [
        (starlette, "/qtasks/run", ""),
        (starlette, "/qtasks/run/", ""),
        (starlette, "/qtasks/run", "/api"),
        (deep, "/inner/qtasks/run", ""),
        (fastapi, "/qtasks/run", ""),
        (fastapi, "/qtasks/run", "/api"),
    ],
)


@MOUNTS
async def test_an_honest_delivery_is_executed_wherever_it_is_mounted(
    mount: Callable[[ASGIApp], ASGIApp], path: str, root: str
) -> None:
    gate = Gate()

    answer = await post(mount(gate.webhook), path, gate.body, gate.shop.headers(gate.body), root=root)

    assert (answer.status_code, gate.shop.ran) == (200, ["hello"])


@MOUNTS
async def test_a_forged_delivery_is_refused_wherever_it_is_mounted(
    mount: Callable[[ASGIApp], ASGIApp], path: str, root: str
) -> None:
    gate = Gate()
    headers = gate.shop.headers(gate.body, Upstash_Signature=token(gate.body, key="sig_forged"))

    answer = await post(mount(gate.webhook), path, gate.body, headers, root=root)

    assert (answer.status_code, gate.shop.ran) == (403, [])


SPOOFS = [
    {"Host": "evil.example"},
    {"Host": "evil.example", "X-Forwarded-Proto": "https"},
    {"X-Forwarded-Host": "evil.example"},
    {"Forwarded": "host=evil.example;proto=https"},
    {"X-Original-URL": "/qtasks/run"},
]


@pytest.mark.parametrize("spoof", SPOOFS)
async def test_a_spoofed_host_does_not_make_another_address_ours(spoof: dict[str, str]) -> None:
    gate = Gate()
    headers = gate.shop.headers(gate.body, Upstash_Signature=token(gate.body, sub=EVIL)) | spoof

    answer = await post(starlette(gate.webhook), "/qtasks/run", gate.body, headers)

    assert (answer.status_code, gate.shop.ran) == (403, [])


@pytest.mark.parametrize("spoof", SPOOFS)
async def test_a_host_that_a_proxy_has_changed_does_not_matter(spoof: dict[str, str]) -> None:
    gate = Gate()

    answer = await post(
        starlette(gate.webhook), "/qtasks/run", gate.body, gate.shop.headers(gate.body) | spoof
    )

    assert (answer.status_code, gate.shop.ran) == (200, ["hello"])


async def test_a_token_for_a_run_of_the_past_does_not_sign_a_new_body() -> None:
    gate = Gate()
    old = sign(URL, b"old", key=KEY, now=NOW, jti="jwt_1")

    answer = await gate.post(Upstash_Signature=old)

    assert (answer.status_code, gate.shop.ran) == (403, [])
