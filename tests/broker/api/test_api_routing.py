"""What holds for every operation of the API: tokens, paths, methods, parameters, errors."""

from __future__ import annotations

import logging

import httpx
import pytest
from starlette.responses import Response

from qtasks.broker.api import ROUTES, Api
from qtasks.broker.api.routing import Call, Handler, Route
from qtasks.errors import BrokerFailed, BrokerUnavailable, QTasksError, StoreBusy, StoreFull
from tests.broker.api.conftest import TOKEN, client_of
from tests.support.asgi import NoAnswer, call
from tests.support.broker import Rig

BEARER = (b"authorization", b"Bearer " + TOKEN.encode())
HOOK = "https://app.example/hook"

EXAMPLES = {
    **{
        f"{method} /v2/publish": f"/v2/publish/{HOOK}" for method in ("POST", "GET", "PUT", "PATCH", "DELETE")
    },
    "POST /v2/batch": "/v2/batch",
    "POST /v2/enqueue/{queue}/{destination...}": f"/v2/enqueue/mail/{HOOK}",
    "GET /v2/messages/{id}": "/v2/messages/msg_1",
    "DELETE /v2/messages/{id}": "/v2/messages/msg_1",
    "DELETE /v2/messages": "/v2/messages",
    "GET /v2/queues": "/v2/queues",
    "POST /v2/queues": "/v2/queues",
    "GET /v2/queues/{queue}": "/v2/queues/mail",
    "DELETE /v2/queues/{queue}": "/v2/queues/mail",
    "POST /v2/queues/{queue}/pause": "/v2/queues/mail/pause",
    "POST /v2/queues/{queue}/resume": "/v2/queues/mail/resume",
    **{
        f"{method} /v2/schedules/{{id}}/{verb}": f"/v2/schedules/scd_1/{verb}"
        for verb in ("pause", "resume")
        for method in ("POST", "PATCH", "PUT")
    },
    "POST /v2/schedules/{destination...}": f"/v2/schedules/{HOOK}",
    "GET /v2/schedules": "/v2/schedules",
    "GET /v2/schedules/{id}": "/v2/schedules/scd_1",
    "DELETE /v2/schedules/{id}": "/v2/schedules/scd_1",
    "GET /v2/topics": "/v2/topics",
    "GET /v2/topics/{name}": "/v2/topics/orders",
    "DELETE /v2/topics/{name}": "/v2/topics/orders",
    "PATCH /v2/topics/{name}": "/v2/topics/orders",
    "POST /v2/topics/{name}/endpoints": "/v2/topics/orders/endpoints",
    "DELETE /v2/topics/{name}/endpoints": "/v2/topics/orders/endpoints",
    "GET /v2/flowControl": "/v2/flowControl",
    "GET /v2/flowControl/{key...}": "/v2/flowControl/tenant",
    "POST /v2/flowControl/{key...}": "/v2/flowControl/tenant/pause",
    "GET /v2/globalParallelism": "/v2/globalParallelism",
    "GET /v2/keys": "/v2/keys",
    "POST /v2/keys/rotate": "/v2/keys/rotate",
    "POST /v2/rotate": "/v2/rotate",
    "GET /v2/logs": "/v2/logs",
    "GET /v2/events": "/v2/events",
    "GET /v2/dlq": "/v2/dlq",
    "DELETE /v2/dlq": "/v2/dlq",
    "POST /v2/dlq/retry": "/v2/dlq/retry",
    "POST /v2/dlq/retry/{id}": "/v2/dlq/retry/1-1",
    "GET /v2/dlq/{id}": "/v2/dlq/1-1",
    "DELETE /v2/dlq/{id}": "/v2/dlq/1-1",
    "GET /qtasks/v1/results/{id}": "/qtasks/v1/results/tsk_1",
    "DELETE /qtasks/v1/results/{id}": "/qtasks/v1/results/tsk_1",
    "POST /qtasks/v1/results/query": "/qtasks/v1/results/query",
    "POST /qtasks/v1/results/{id}/progress": "/qtasks/v1/results/tsk_1/progress",
    "POST /qtasks/v1/tasks/{id}/cancel": "/qtasks/v1/tasks/tsk_1/cancel",
    "GET /qtasks/v1/tokens": "/qtasks/v1/tokens",
    "POST /qtasks/v1/tokens": "/qtasks/v1/tokens",
    "DELETE /qtasks/v1/tokens/{name}": "/qtasks/v1/tokens/dashboard",
    "GET /livez": "/livez",
    "GET /qtasks/v1/keys": "/qtasks/v1/keys",
    "GET /readyz": "/readyz",
    "GET /metrics": "/metrics",
    "GET /openapi.json": "/openapi.json",
}
OPEN = ("/livez", "/readyz", "/openapi.json")
CLOSED = [(key.split()[0], path) for key, path in EXAMPLES.items() if path not in OPEN]
STRICT = [each for each in CLOSED if HOOK not in each[1]]


def test_no_route_leaves_open_what_routes_are_found_by() -> None:
    assert not [each.path for each in ROUTES if any("{" in part for part in each.beginning)]


def test_the_examples_here_cover_every_operation() -> None:
    assert len(ROUTES) == len(EXAMPLES)
    for route in ROUTES:
        assert any(
            key.startswith(f"{route.method} ") and route.match(path.strip("/").split("/")) is not None
            for key, path in EXAMPLES.items()
        ), route


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer ", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"],
)
async def test_without_the_token_nothing_is_answered(
    rig: Rig, method: str, path: str, header: str | None
) -> None:
    headers = {"X-Nothing": ""} if header is None else {"Authorization": header}
    async with client_of(rig, **headers) as client:
        answer = await client.request(method, path)

    assert answer.status_code == 401
    assert answer.json() == {"error": "unable to authenticate: invalid token"}
    assert rig.store.log() == []


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER {TOKEN}"])
async def test_the_token_is_taken_from_the_header(rig: Rig, header: str) -> None:
    async with client_of(rig, Authorization=header) as client:
        assert (await client.get("/v2/queues")).status_code == 200


@pytest.mark.parametrize("token", [b"\xff\xfe", b"\xe2\x98\x83", b"\x00", b"x" * 100_000])
async def test_a_token_of_any_bytes_is_just_wrong(api: Api, token: bytes) -> None:
    answer = await call(api, "GET", b"/v2/queues", headers=[(b"authorization", b"Bearer " + token)])

    assert answer.status == 401


async def test_the_token_is_taken_from_the_query(rig: Rig) -> None:
    async with client_of(rig, Accept="*/*") as client:
        assert (await client.get(f"/v2/queues?qstash_token={TOKEN}")).status_code == 200


async def test_the_token_of_the_header_wins(rig: Rig) -> None:
    async with client_of(rig, Authorization="Bearer wrong") as client:
        assert (await client.get(f"/v2/queues?qstash_token={TOKEN}")).status_code == 401


async def test_a_header_that_is_no_bearer_leaves_the_query_s_token(rig: Rig) -> None:
    async with client_of(rig, Authorization="Basic dTpw") as client:
        assert (await client.get(f"/v2/queues?qstash_token={TOKEN}")).status_code == 200


async def test_any_of_several_tokens_will_do(rig: Rig) -> None:
    api = Api(rig.broker, ROUTES, ["first", "second"])
    for token, status in ((b"first", 200), (b"second", 200), (b"third", 401)):
        answer = await call(api, "GET", b"/v2/queues", headers=[(b"authorization", b"Bearer " + token)])
        assert answer.status == status


async def test_a_broker_without_tokens_answers_nobody(rig: Rig) -> None:
    api = Api(rig.broker, ROUTES, [])

    assert (await call(api, "GET", b"/v2/queues")).status == 401


async def test_whether_it_is_up_is_told_to_anybody(rig: Rig) -> None:
    async with client_of(rig, Accept="*/*") as client:
        answer = await client.get("/livez")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v2/queues",
        "/V2/Queues",
        "/v2/QUEUES/",
        "/v2/queues/",
        "/v2/Logs",
        "/v2/Events/",
        "/V2/DLQ",
        "/LIVEZ",
    ],
)
async def test_literal_segments_match_in_any_case_and_with_a_slash_at_the_end(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/v2", "/v2/", "/v1/queues", "/v2/queue", "/v2/queues/a/b", "/v2/queues/a/pause/now"],
)
async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert answer.status_code == 404
    assert answer.json()["error"].startswith("no such operation: GET /")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v2/logs", "GET"),
        ("PUT", "/v2/queues", "GET, POST"),
        ("GET", f"/v2/enqueue/mail/{HOOK}", "POST"),
        ("GET", "/v2/queues/mail/pause", "POST"),
        ("POST", "/livez", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == 405
    assert answer.json() == {"error": f"method {method} is not allowed here; allowed: {allowed}"}
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(("method", "path"), STRICT)
async def test_an_unknown_parameter_is_refused_by_its_name(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, f"{path}?mesageId=msg_1")

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("unknown query parameter 'mesageId'")


@pytest.mark.parametrize(("method", "path"), [each for each in STRICT if each[0] == "GET"])
async def test_an_empty_parameter_and_the_token_count_as_none(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    plain = await client.request(method, path)

    answer = await client.request(method, f"{path}?nothing=&qstash_token=abc")

    assert (answer.status_code, answer.content) == (plain.status_code, plain.content)


async def test_an_error_is_json(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v2/messages/none")

    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"error": "message none not found"}


async def test_a_path_that_is_no_utf_8_is_refused_and_not_an_internal_error(api: Api) -> None:
    for target in (b"/v2/queues/\xff", b"/v2/queues/%ff", b"/v2/messages/%ff", b"/v2/dlq/%ff"):
        answer = await call(api, "GET", target, headers=[BEARER])
        assert answer.status in (400, 404), target


async def test_a_websocket_is_not_answered(api: Api) -> None:
    async def receive() -> dict[str, str]:
        raise AssertionError("nothing is read")

    async def send(message: object) -> None:
        raise AssertionError("nothing is sent")

    await api({"type": "lifespan"}, receive, send)


# --- errors ---------------------------------------------------------------------------------------


def failing(error: Exception) -> Handler:
    """Make an operation that fails."""

    async def handler(call: Call) -> Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (BrokerUnavailable("shutting down", retry_after=2.5), 503, "2.5"),
        (StoreBusy("locked"), 503, "1"),
        (BrokerFailed("the disk is gone"), 503, "1"),
        (StoreFull("no room"), 507, None),
    ],
)
async def test_what_the_broker_cannot_do_now_is_told_with_when_to_come_back(
    rig: Rig, error: QTasksError, status: int, retry_after: str | None
) -> None:
    api = Api(rig.broker, [Route("GET", "/fails", failing(error))], [TOKEN])

    answer = await call(api, "GET", b"/fails", headers=[BEARER])

    assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.json == {"error": str(error)}


async def test_a_mistake_of_ours_tells_nothing_of_itself(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    error = RuntimeError("the secret detail")
    api = Api(rig.broker, [Route("GET", "/fails", failing(error))], [TOKEN])

    answer = await call(api, "GET", b"/fails", headers=[BEARER])

    assert answer.status == 500
    assert answer.json == {"error": "internal error; the broker's log says more"}
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_a_client_that_goes_away_has_sent_nothing(api: Api, rig: Rig) -> None:
    target = f"/v2/enqueue/mail/{HOOK}".encode()

    with pytest.raises(NoAnswer):
        await call(api, "POST", target, headers=[BEARER], chunks=[b"half"], disconnects=True)

    assert rig.store.log() == []
