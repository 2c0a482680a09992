"""What the header table makes a broker send, as the other end of a connection sees it (contract 3.5, 4.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import orjson
import pytest

from tests.support.contract import Standalone, unpacked
from tests.support.homes import until_found
from tests.support.processes import BrokerProcess, Processes
from tests.support.wire import HANG, WireServer, response

pytestmark = pytest.mark.process

# What the broker itself sends with every message, and what its HTTP stack adds.
OWN = {
    "User-Agent",
    "Upstash-Message-Id",
    "Upstash-Retried",
    "Upstash-Signature",
    "Upstash-Caller-Ip",
    "Host",
    "Content-Length",
    "Accept-Encoding",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A standalone broker in a process of its own, for all tests here."""
    with Processes(tmp_path_factory.mktemp("wire")) as processes:
        yield processes.broker()


@pytest.fixture
async def standalone(broker: BrokerProcess) -> AsyncIterator[Standalone]:
    """The broker, with a destination of this test alone."""
    headers = {"Authorization": f"Bearer {broker.token}"}
    async with (
        WireServer() as receiver,
        httpx.AsyncClient(base_url=broker.url, headers=headers, timeout=10, trust_env=False) as http,
    ):
        yield Standalone(http, receiver)


async def test_upstash_forward_and_content_type_are_all_that_a_delivery_has_beside_the_broker_s_own(
    standalone: Standalone,
) -> None:
    receiver = standalone.receiver
    headers = {
        "Content-Type": "application/x-a; b=c",
        "Upstash-Forward-X-Tenant": "42",
        "Upstash-Forward-Upstash-Workflow-RunId": "wfr_1",
        "Upstash-Forward-Host": "other.example",
        "Upstash-Forward-Content-Length": "99999",
        "Upstash-Forward-Transfer-Encoding": "chunked",
        "Upstash-Method": "PUT",
        "Upstash-Telemetry-Sdk": "x",
        "Upstash-Unknown": "x",
        "Upstash-Label": "a",
        "Upstash-Retries": "2",
        "X-Own": "1",
        "Cookie": "a=b",
    }
    target = "/a//b/%2F?x=1&y=%20"

    message_id = await standalone.publish(f"{receiver.url}{target}", b"\x00\xffbody", headers)
    await receiver.reached(1)

    seen = receiver.last
    assert (seen.method, seen.target, seen.body) == ("PUT", target, b"\x00\xffbody")
    assert set(seen.names) == OWN | {"Content-Type", "X-Tenant", "Upstash-Workflow-Runid"}
    assert seen.header("Content-Type") == "application/x-a; b=c"
    assert seen.header("Host") == receiver.url.removeprefix("http://")
    assert seen.header("Upstash-Message-Id") == message_id
    assert (seen.header("User-Agent"), seen.header("Upstash-Retried")) == ("Upstash-QStash", "0")


async def test_upstash_forward_cannot_replace_what_the_broker_itself_sends(standalone: Standalone) -> None:
    receiver = standalone.receiver
    names = ["User-Agent", "Upstash-Message-Id", "Upstash-Retried", "Upstash-Signature", "Upstash-Caller-Ip"]
    headers = {f"Upstash-Forward-{name}": "forged" for name in names}

    await standalone.publish(receiver.url, b"", headers)
    await receiver.reached(1)

    assert set(receiver.last.names) == OWN
    assert all(receiver.last.header(name) != "forged" for name in names)


async def test_upstash_forward_that_is_repeated_arrives_as_one_header(standalone: Standalone) -> None:
    repeated = [("Upstash-Forward-X", "value-uppercase"), ("upstash-forward-x", "value-lowercase")]
    await standalone.http.post(f"/v2/publish/{standalone.receiver.url}", headers=repeated)
    await standalone.receiver.reached(1)

    assert standalone.receiver.last.header("X") == "value-uppercase, value-lowercase"


async def test_upstash_timeout_that_has_passed_makes_a_failed_attempt(standalone: Standalone) -> None:
    receiver = standalone.receiver
    receiver.answers.append(HANG)
    headers = {"Upstash-Timeout": "0.2s", "Upstash-Retry-Delay": "1"}

    message_id = await standalone.publish(receiver.url, b"", headers)
    await receiver.reached(2)

    async def states() -> list[str]:
        page = (await standalone.http.get(f"/v2/events?messageId={message_id}")).json()
        return [each["state"] for each in page["events"]][::-1]

    found = await until_found(states, lambda each: each[-1] == "DELIVERED")
    assert found == ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]
    assert receiver.last.header("Upstash-Retried") == "1"


async def test_upstash_callback_and_upstash_failure_callback_arrive_as_messages_of_their_own(
    standalone: Standalone,
) -> None:
    receiver = standalone.receiver
    receiver.answers.append(response(500, b"oops", "Content-Type: text/plain", "X-Y: 1"))
    headers = {
        "Upstash-Retries": "0",
        "Upstash-Callback": f"{receiver.url}/callback?a=b",
        "Upstash-Callback-Forward-X-Tenant": "42",
        "Upstash-Callback-Method": "PUT",
        "Upstash-Failure-Callback": f"{receiver.url}/failed",
    }

    message_id = await standalone.publish(f"{receiver.url}/hook", b"hello", headers)
    await receiver.reached(3)

    seen = {each.target: each for each in receiver.requests}
    callback, failure = seen["/callback?a=b"], seen["/failed"]
    assert set(callback.names) == OWN | {"Content-Type", "X-Tenant"}
    assert set(failure.names) == OWN | {"Content-Type"}
    assert (callback.method, failure.method) == ("PUT", "POST")
    for each in (callback, failure):
        body = orjson.loads(each.body)
        assert each.header("Content-Type") == "application/json"
        assert each.header("Upstash-Message-Id") != message_id
        assert (body["sourceMessageId"], body["status"], unpacked(body["body"])) == (message_id, 500, b"oops")
        assert (body["header"]["Content-Type"], body["header"]["X-Y"]) == (["text/plain"], ["1"])


async def test_the_names_of_group_and_schedule_are_sent_where_there_are_any(standalone: Standalone) -> None:
    receiver = standalone.receiver
    endpoints = {"endpoints": [{"url": f"{receiver.url}/a", "name": "first"}]}
    assert (await standalone.http.post("/v2/topics/orders/endpoints", json=endpoints)).status_code == 200
    headers = {
        "Upstash-Forward-Upstash-Topic-Name": "forged",
        "Upstash-Forward-Upstash-Schedule-Id": "forged",
    }

    assert (await standalone.http.post("/v2/publish/orders", headers=headers)).status_code == 200
    await receiver.reached(1)

    assert receiver.last.header("Upstash-Topic-Name") == "orders"
    assert "Upstash-Url-Group" not in receiver.last.names
