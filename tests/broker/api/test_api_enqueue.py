"""`POST /v2/enqueue/{queue}/{destination}` (contract 2.2, 3, 6.1)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from qtasks.broker.api import Api
from qtasks.broker.security import parse_rules
from tests.broker.api.conftest import TOKEN, api_of, client_of
from tests.broker.conftest import MakeRig
from tests.support.asgi import call
from tests.support.broker import Rig

BEARER = (b"authorization", b"Bearer " + TOKEN.encode())
HOOK = "https://app.example/hook"
PATH = f"/v2/enqueue/mail/{HOOK}"
INVALID_SCHEME = "invalid destination url: endpoint has invalid scheme, add http:// or https://"
DAY_MS = 86_400_000


async def stored(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    """Read back the message that was accepted."""
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = (await client.get(f"/v2/messages/{answer.json()['messageId']}")).json()
    return found


async def refusal(client: httpx.AsyncClient, path: str = PATH, **sent: Any) -> tuple[int, str]:
    """Enqueue what is refused; give status and text, having checked that nothing was stored."""
    answer = await client.post(path, **sent)
    assert (await client.get("/v2/logs")).json() == {"logs": []}
    assert (await client.get("/v2/queues")).json() == []
    return answer.status_code, answer.json()["error"]


# --- what is accepted -----------------------------------------------------------------------------


async def test_the_call_of_the_reference_page_is_accepted_and_delivered(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    answer = await client.post(
        "/v2/enqueue/myQueue/https://www.example.com",
        content=b'{"message":"Hello, World!"}',
        headers={
            "Content-Type": "application/json",
            "Upstash-Method": "POST",
            "Upstash-Retries": "3",
            "Upstash-Forward-Custom-Header": "custom-value",
        },
    )
    await rig.turn()

    assert answer.status_code == 200
    assert list(answer.json()) == ["messageId"]
    assert answer.json()["messageId"].startswith("msg_")
    [attempt] = rig.deliverer.attempts
    assert (attempt.url, attempt.method, attempt.queue) == ("https://www.example.com", "POST", "myQueue")
    assert attempt.body == b'{"message":"Hello, World!"}'
    assert dict(attempt.headers) == {"Content-Type": "application/json", "Custom-Header": "custom-value"}


async def test_what_is_accepted_can_be_read_back(client: httpx.AsyncClient, rig: Rig) -> None:
    answer = await client.post(
        f"{PATH}?a=b",
        content=b"hello",
        headers={
            "content-type": "text/plain",
            "upstash-method": "put",
            "UPSTASH-RETRIES": "7",
            "Upstash-Retry-Delay": "1000 * (1 + retried)",
            "Upstash-Timeout": "1m30s",
            "Upstash-Label": "import, night,import",
            "Upstash-Forward-x-tenant-ID": "42",
        },
    )

    now = rig.clock.now()
    assert await stored(client, answer) == {
        "messageId": answer.json()["messageId"],
        "url": f"{HOOK}?a=b",
        "method": "PUT",
        "header": {"Content-Type": ["text/plain"], "X-Tenant-Id": ["42"]},
        "body": "hello",
        "maxRetries": 7,
        "notBefore": now,
        "createdAt": now,
        "queueName": "mail",
        "callerIP": "203.0.113.9",
        "callerIp": "203.0.113.9",
        "label": "import",
        "labels": ["import", "night"],
        "retryDelayExpression": "1000 * (1 + retried)",
        "timeout": 90_000,
    }


async def test_defaults_are_three_retries_and_the_longest_timeout(client: httpx.AsyncClient) -> None:
    message = await stored(client, await client.post(PATH))

    assert (message["maxRetries"], message["timeout"], message["method"]) == (3, 7_200_000, "POST")
    assert message["header"] == {}
    assert "body" not in message


async def test_a_longer_timeout_than_the_longest_is_the_longest(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, headers={"Upstash-Timeout": "3h"})

    assert (await stored(client, answer))["timeout"] == 7_200_000


async def test_a_body_that_is_no_text_is_read_back_as_base64(client: httpx.AsyncClient) -> None:
    message = await stored(client, await client.post(PATH, content=b"\xff\x00"))

    assert ("body" in message, message["bodyBase64"]) == (False, "/wA=")


@pytest.mark.parametrize(
    ("target", "url"),
    [
        (b"https://app.example/hook", "https://app.example/hook"),
        (b"https://app.example", "https://app.example"),
        (b"https://app.example/", "https://app.example/"),
        (b"https://app.example:8443/a//b/", "https://app.example:8443/a//b/"),
        (b"HTTPS://App.Example/Hook", "HTTPS://App.Example/Hook"),
        (b"https:/app.example/hook", "https://app.example/hook"),  # a proxy took a slash
        (b"https%3A%2F%2Fapp.example%2Fhook%3Fa%3Db", "https://app.example/hook?a=b"),
        (b"https://app.example/a%2Fb%20c", "https://app.example/a%2Fb%20c"),
        (b"https://app.example/hook?a=b&c=%20d", "https://app.example/hook?a=b&c=%20d"),
        (b"https://app.example/hook?url=https://other.example/?x=1", "https://app.example/hook?url=https://other.example/?x=1"),
        (b"https://app.example/hook?a=b&upstash-retries=5", "https://app.example/hook?a=b"),
        (b"https://app.example/hook?qstash_token=abc&a=b", "https://app.example/hook?a=b"),
        (b"https://app.example/hook?UPSTASH-Delay=&a", "https://app.example/hook?a"),
        (b"https://app.example/../x", "https://app.example/../x"),
    ],
)  # fmt: skip
async def test_the_destination_is_stored_verbatim(api: Api, target: bytes, url: str) -> None:
    answer = await call(api, "POST", b"/v2/enqueue/mail/" + target, headers=[BEARER])
    assert answer.status == 200, answer.body

    message = await call(api, "GET", f"/v2/messages/{answer.json['messageId']}".encode(), headers=[BEARER])

    assert message.json["url"] == url


async def test_configuration_may_come_by_the_query(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        f"{PATH}?upstash-retries=5&x=1&Upstash-Forward-X-Tenant=a%20b&upstash-method=GET"
    )

    message = await stored(client, answer)
    assert (message["maxRetries"], message["method"], message["url"]) == (5, "GET", f"{HOOK}?x=1")
    assert message["header"] == {"X-Tenant": ["a b"]}


async def test_a_header_wins_over_the_query(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PATH}?upstash-retries=5", headers={"Upstash-Retries": "2"})

    assert (await stored(client, answer))["maxRetries"] == 2


async def test_the_token_and_other_headers_of_the_call_stay_behind(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(
        PATH, headers={"Cookie": "a=b", "X-Own": "1", "Upstash-Telemetry-Sdk": "py", "Upstash-Unknown": "1"}
    )

    assert (await stored(client, answer))["header"] == {}


async def test_all_plain_headers_go_on_when_asked_for_but_for_the_token(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, headers={"Upstash-Header-Forward": "true", "X-Own": "1"})

    header = (await stored(client, answer))["header"]
    assert header["X-Own"] == ["1"]
    assert not {"Authorization", "Host", "Content-Length", "Connection"} & set(header)


async def test_a_sender_s_own_authorization_goes_on_when_the_token_came_by_query(rig: Rig) -> None:
    async with client_of(rig, Authorization="Basic dTpw") as client:
        answer = await client.post(f"{PATH}?qstash_token={TOKEN}&upstash-header-forward=true")

    [entry] = rig.store.log()
    assert answer.status_code == 200
    assert entry.header["Authorization"] == ("Basic dTpw",)


async def test_a_header_in_utf_8_is_kept_as_it_was_meant(api: Api, rig: Rig) -> None:
    headers = [BEARER, (b"upstash-forward-x-name", "Jürgen".encode())]

    answer = await call(api, "POST", PATH.encode(), headers=headers)

    assert answer.status == 200
    assert rig.store.log()[0].header == {"X-Name": ("Jürgen",)}


async def test_a_body_may_come_in_pieces(api: Api, rig: Rig) -> None:
    await call(api, "POST", PATH.encode(), headers=[BEARER], chunks=[b"he", b"", b"llo"])

    assert rig.store.log()[0].body == b"hello"


# --- queues ---------------------------------------------------------------------------------------


async def test_a_missing_queue_is_made_as_qstash_makes_it(client: httpx.AsyncClient) -> None:
    await client.post(PATH)

    queue = (await client.get("/v2/queues/mail")).json()
    assert (queue["parallelism"], queue["paused"], queue["ordered"], queue["lag"]) == (1, False, True, 1)


async def test_a_missing_queue_is_made_as_declared(client: httpx.AsyncClient) -> None:
    await client.post(PATH, headers={"Qtasks-Queue": "parallelism=16; ordered=false"})

    queue = (await client.get("/v2/queues/mail")).json()
    assert (queue["parallelism"], queue["ordered"]) == (16, False)


async def test_an_existing_queue_is_not_changed(client: httpx.AsyncClient) -> None:
    await client.post("/v2/queues", json={"queueName": "mail", "parallelism": 5, "paused": True})

    await client.post(PATH, headers={"Qtasks-Queue": "parallelism=16; ordered=false"})

    queue = (await client.get("/v2/queues/mail")).json()
    assert (queue["parallelism"], queue["paused"], queue["ordered"]) == (5, True, True)


@pytest.mark.parametrize("name", ["mail", "Mail", "a.b_c-1", "A" * 128, "0"])
async def test_a_queue_is_called_just_as_it_was_named(client: httpx.AsyncClient, name: str) -> None:
    await client.post(f"/V2/Enqueue/{name}/{HOOK}")

    assert [each["name"] for each in (await client.get("/v2/queues")).json()] == [name]


@pytest.mark.parametrize("name", ["a b", "a:b", "ä", "a%2Fb", "A" * 129, "a@b", "%00"])
async def test_a_name_that_no_queue_can_have_is_refused(client: httpx.AsyncClient, name: str) -> None:
    status, text = await refusal(client, f"/v2/enqueue/{name}/{HOOK}")

    assert status == 400
    assert text.startswith("invalid queue name ")
    assert text.endswith('it must be 1 to 128 letters (A to Z), digits, ".", "_" or "-"')


async def test_a_delay_that_our_own_header_asks_for_works_on_an_unordered_queue(
    client: httpx.AsyncClient, rig: Rig
) -> None:
    at = rig.clock.now() + 60_000
    headers = {"Qtasks-Not-Before": str(at), "Qtasks-Queue": "parallelism=2; ordered=false"}

    message = await stored(client, await client.post(PATH, headers=headers))

    assert message["notBefore"] == at
    assert await rig.turn() == 0


# --- deduplication --------------------------------------------------------------------------------


async def test_a_repeat_answers_202_with_the_first_id(client: httpx.AsyncClient) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7"}
    first = await client.post(PATH, headers=headers, content=b"1")

    again = await client.post(PATH, headers=headers, content=b"2")

    assert (first.status_code, again.status_code) == (200, 202)
    assert again.json() == {"messageId": first.json()["messageId"], "deduplicated": True}


@pytest.mark.parametrize("flag", ["true", "True", "TRUE"])
async def test_equal_content_is_a_repeat_when_asked_for(client: httpx.AsyncClient, flag: str) -> None:
    headers = {"Upstash-Content-Based-Deduplication": flag, "Upstash-Forward-X": "1"}
    first = await client.post(PATH, headers=headers, content=b"same")

    again = await client.post(PATH, headers=headers | {"Upstash-Retries": "9"}, content=b"same")

    assert (again.status_code, again.json()["messageId"]) == (202, first.json()["messageId"])


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        (PATH, {}, b"other"),
        (f"{PATH}2", {}, b"same"),
        (f"/v2/enqueue/other/{HOOK}", {}, b"same"),
        (PATH, {"Upstash-Forward-X": "2"}, b"same"),
        (PATH, {"Content-Type": "text/plain"}, b"same"),
    ],
    ids=["body", "destination", "queue", "forwarded header", "content type"],
)
async def test_other_content_is_no_repeat(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], body: bytes
) -> None:
    common = {"Upstash-Content-Based-Deduplication": "true", "Upstash-Forward-X": "1"}
    await client.post(PATH, headers=common, content=b"same")

    answer = await client.post(path, headers=common | headers, content=body)

    assert answer.status_code == 200


async def test_an_id_wins_over_the_content(client: httpx.AsyncClient) -> None:
    headers = {"Upstash-Content-Based-Deduplication": "true"}
    await client.post(PATH, headers=headers, content=b"same")

    answer = await client.post(PATH, headers=headers | {"Upstash-Deduplication-Id": "a"}, content=b"same")

    assert answer.status_code == 200


async def test_an_id_is_not_spent_by_a_refused_call(client: httpx.AsyncClient) -> None:
    headers = {"Upstash-Deduplication-Id": "order-7"}
    await client.post(PATH, headers=headers | {"Upstash-Retries": "x"})

    assert (await client.post(PATH, headers=headers)).status_code == 200


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "status", "text"),
    [
        ("", 400, "a non-empty destination must be provided"),
        ("app.example/hook", 400, INVALID_SCHEME),
        ("app.example", 400, INVALID_SCHEME),
        ("localhost:8000", 400, INVALID_SCHEME),
        ("ftp://app.example/", 400, INVALID_SCHEME),
        ("file:///etc/passwd", 400, INVALID_SCHEME),
        ("javascript:alert(1)", 400, INVALID_SCHEME),
        ("orders", 404, "topic orders not found"),
        (
            "api/llm",
            400,
            "invalid destination: api/llm is not configured; start the broker with --api llm=BASE_URL, "
            "and its key in QTASKS_API_LLM_KEY",
        ),
        ("https://", 400, 'invalid destination url: "https://" has no host'),
        ("https:///hook", 400, 'invalid destination url: "https:///hook" has no host'),
    ],
)
async def test_a_destination_that_is_none_is_refused(
    client: httpx.AsyncClient, destination: str, status: int, text: str
) -> None:
    assert await refusal(client, f"/v2/enqueue/mail/{destination}") == (status, text)


async def test_a_missing_destination_is_refused_without_a_slash_too(client: httpx.AsyncClient) -> None:
    assert await refusal(client, "/v2/enqueue/mail") == (400, "a non-empty destination must be provided")


@pytest.mark.parametrize(
    "target",
    [
        b"https://app.example/a b",
        b"https://app.example:x/",
        b"https://[::1/",
        b"https://a\\b/",
        b"http://\xff/",
    ],
)
async def test_a_malformed_address_is_refused(api: Api, rig: Rig, target: bytes) -> None:
    answer = await call(api, "POST", b"/v2/enqueue/mail/" + target, headers=[BEARER])

    assert (answer.status, rig.store.log()) == (400, [])
    assert answer.json["error"].startswith("invalid destination url: ")


async def test_a_private_address_is_refused_with_what_would_allow_it(rig: Rig) -> None:
    rig.broker.intake._rules = parse_rules((), loopback=False)
    async with client_of(rig) as client:
        status, text = await refusal(client, "/v2/enqueue/mail/http://127.0.0.1:8000/hook")

    assert (status, text) == (
        400,
        "invalid destination url: endpoint resolves to a loopback address: 127.0.0.1; "
        "start the broker with --allow-destination 127.0.0.1 to allow it",
    )


async def test_the_address_of_an_app_that_is_not_here_is_refused(client: httpx.AsyncClient) -> None:
    status, text = await refusal(client, "/v2/enqueue/mail/http://nobody.qtasks.internal/")

    assert (status, text.split(";")[0]) == (400, "no app named 'nobody' runs in this broker")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("Upstash-Retries", "-1", "Upstash-Retries: must be an integer of at least 0"),
        ("Upstash-Retries", "x", "Upstash-Retries: must be an integer of at least 0"),
        ("Upstash-Retries", "1.5", "Upstash-Retries: must be an integer of at least 0"),
        ("Upstash-Timeout", "10x", 'Upstash-Timeout: invalid duration "10x"'),
        ("Upstash-Timeout", "0s", "Upstash-Timeout: must be longer than 0"),
        ("Upstash-Method", "TRACE", "Upstash-Method: must be one of GET, POST, PUT, PATCH, DELETE"),
        ("Upstash-Retry-Delay", "2 ** retried", "Upstash-Retry-Delay: "),
        ("Upstash-Retry-Delay", "__import__('os')", "Upstash-Retry-Delay: "),
        ("Upstash-Content-Based-Deduplication", "yes", "Upstash-Content-Based-Deduplication: must be true"),
        ("Upstash-Deduplication-Id", "a:b", "DeduplicationId cannot contain ':'"),
        ("Upstash-Delay", "10s", "Upstash-Delay: a message in a queue cannot be delayed"),
        ("Upstash-Not-Before", "1800000000", "Upstash-Not-Before: a message in a queue cannot be delayed"),
        ("Upstash-Callback", "a.example", "invalid callback url: endpoint has invalid scheme"),
        ("Upstash-Failure-Callback", "a.example", "invalid callback url: endpoint has invalid scheme"),
        ("Upstash-Flow-Control-Key", "k", "Upstash-Flow-Control-Key and Upstash-Flow-Control-Value must be"),
        ("Upstash-Redact-Fields", "bodies", "Upstash-Redact-Fields: must list body, header or"),
        ("Upstash-Cron", "* * * * *", "Upstash-Cron: only a schedule can have it"),
        ("Upstash-Queue-Name", "mail", "Upstash-Queue-Name: only a schedule can have it"),
        ("Qtasks-Queue", "parallelism=0", "Qtasks-Queue: parallelism must be at least 1"),
        ("Qtasks-Queue", "fast", "Qtasks-Queue: must look like"),
        ("Qtasks-Task-Id", "a b", "Qtasks-Task-Id: "),
        ("Qtasks-Not-Before", "soon", "Qtasks-Not-Before: "),
        ("Qtasks-Expires", "1600000000000", "Qtasks-Expires: 1600000000000 is past"),
        ("Qtasks-Unique", "always", 'Qtasks-Unique: must be started or finished, not "always"'),
        ("Qtasks-Unique", "started", "Qtasks-Unique: it says how long an Upstash-Deduplication-Id holds"),
        ("Qtasks-Not-Before", "1700000060000", "queue mail is ordered, and a delayed message"),
    ],
)
async def test_a_header_that_cannot_be_is_refused_by_its_name(
    client: httpx.AsyncClient, name: str, value: str, text: str
) -> None:
    status, found = await refusal(client, headers={name: value})

    assert (status, found[: len(text)]) == (400, text)


async def test_a_setting_that_cannot_be_is_refused_in_the_query_too(client: httpx.AsyncClient) -> None:
    status, text = await refusal(client, f"{PATH}?upstash-retries=x")

    assert (status, text.split(",")[0]) == (400, "Upstash-Retries: must be an integer of at least 0")


@pytest.mark.parametrize("value", [b"a\x00b", b"a\x01b", b"a\x7fb", b"a\rb", b"a\nb"])
async def test_a_forwarded_value_with_control_characters_is_refused(api: Api, rig: Rig, value: bytes) -> None:
    headers = [BEARER, (b"upstash-forward-x-bad", value)]

    answer = await call(api, "POST", PATH.encode(), headers=headers)

    assert (answer.status, rig.store.log()) == (400, [])
    assert answer.json["error"].startswith("Upstash-Forward-X-Bad: the value must not contain CR")


@pytest.mark.parametrize("encoded", ["%0d%0aX-Forged:1", "%00", "%ff"])
async def test_nothing_is_smuggled_into_a_header_by_the_query(
    client: httpx.AsyncClient, encoded: str
) -> None:
    status, _ = await refusal(client, f"{PATH}?upstash-forward-x-bad=a{encoded}")

    assert status == 400


# --- limits ---------------------------------------------------------------------------------------


async def test_a_body_of_just_the_limit_is_accepted(make_rig: MakeRig) -> None:
    async with client_of(make_rig(max_message_bytes=1000)) as client:
        assert (await client.post(PATH, content=b"x" * 1000)).status_code == 200


async def test_a_body_beyond_the_limit_is_refused(make_rig: MakeRig) -> None:
    async with client_of(make_rig(max_message_bytes=1000)) as client:
        answer = await refusal(client, content=b"x" * 1001)

    assert answer == (412, "quota maxMessageSize exceeded, current limit: 1000 bytes")


async def test_a_body_that_is_announced_too_long_is_not_read(api: Api, rig: Rig) -> None:
    headers = [BEARER, (b"content-length", b"99999999999")]

    answer = await call(api, "POST", PATH.encode(), headers=headers, chunks=[b"x"], disconnects=True)

    assert (answer.status, rig.store.log()) == (412, [])


async def test_a_body_without_a_length_is_read_no_further_than_the_limit(make_rig: MakeRig) -> None:
    rig = make_rig(max_message_bytes=1000)
    endless = [b"x" * 600] * 50

    answer = await call(
        api_of(rig), "POST", PATH.encode(), headers=[BEARER], chunks=endless, disconnects=True
    )

    assert (answer.status, rig.store.log()) == (412, [])


async def test_more_retries_than_the_quota_are_refused(client: httpx.AsyncClient) -> None:
    answer = await refusal(client, headers={"Upstash-Retries": "1001"})

    assert answer == (412, "quota maxRetries exceeded, current limit: 1000")


async def test_a_longer_delay_than_the_quota_is_refused(client: httpx.AsyncClient, rig: Rig) -> None:
    at = rig.clock.now() + 366 * DAY_MS + 1
    headers = {"Qtasks-Not-Before": str(at), "Qtasks-Queue": "parallelism=1; ordered=false"}

    answer = await refusal(client, headers=headers)

    assert answer == (412, "quota maxDelay exceeded, current limit: 31622400")


async def test_a_destination_longer_than_any_address_is_refused(client: httpx.AsyncClient) -> None:
    status, text = await refusal(client, f"/v2/enqueue/mail/{HOOK}?{'x' * 9000}")

    assert status == 400
    assert text.endswith("is longer than 8192 bytes")


async def test_a_header_longer_than_any_is_refused(client: httpx.AsyncClient) -> None:
    status, text = await refusal(client, headers={"Upstash-Forward-X-Long": "x" * 9000})

    assert (status, text) == (400, "Upstash-Forward-X-Long: name and value are limited to 8192 bytes")


async def test_more_forwarded_headers_than_any_are_refused(client: httpx.AsyncClient) -> None:
    status, text = await refusal(client, headers={f"Upstash-Forward-X-{n}": "1" for n in range(101)})

    assert (status, text) == (400, "at most 100 headers can be forwarded, not 101")


# --- a broker that cannot ------------------------------------------------------------------------


async def test_a_broker_that_is_shutting_down_asks_to_come_back(client: httpx.AsyncClient, rig: Rig) -> None:
    rig.broker.is_draining = True

    answer = await client.post(PATH)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json() == {"error": "the broker is shutting down; repeat in a moment"}
    assert rig.store.log() == []


async def test_a_broker_that_is_shutting_down_can_still_be_read(client: httpx.AsyncClient, rig: Rig) -> None:
    message_id = rig.enqueue()
    rig.broker.is_draining = True

    assert (await client.get(f"/v2/messages/{message_id}")).status_code == 200
    assert (await client.get("/livez")).status_code == 200


async def test_a_full_disk_answers_507_and_stores_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(max_pages=60)
    async with client_of(rig) as client:
        answer = await client.post(PATH, content=b"x" * 1_000_000)

        assert answer.status_code == 507
        assert answer.json()["error"].endswith("nothing was stored. Make room on its disk and repeat")
        assert (await client.get("/v2/queues")).json() == []
        assert (await client.post(PATH)).status_code == 200


async def test_a_store_that_is_locked_asks_to_come_back(
    client: httpx.AsyncClient, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    monkeypatch.setattr("qtasks.broker.store.sqlite.BUSY_MS", 50)
    other = sqlite3.connect(rig.database._path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    answer = await client.post(PATH)
    other.execute("ROLLBACK")
    other.close()

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (await client.post(PATH)).status_code == 200


async def test_encoded_destinations_of_any_kind_come_back_as_they_were(client: httpx.AsyncClient) -> None:
    url = "https://app.example/päth?a=b&c=d#part"

    message = await stored(client, await client.post(f"/v2/enqueue/mail/{quote(url, safe='')}"))

    assert message["url"] == url
