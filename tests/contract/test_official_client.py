"""The official Python client of QStash against our standalone broker, changed in URL and token alone.

Each test runs with its synchronous kind and with its asynchronous one. All share a broker, so that each
uses names of its own.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import pytest
from qstash import AsyncQStash, QStash, Receiver
from qstash.chat import custom
from qstash.errors import QStashError, SignatureError
from qstash.log import LogState

from tests.support.homes import until_found
from tests.support.official import OfficialClient
from tests.support.processes import BrokerProcess, Processes
from tests.support.wire import HANG, Seen, WireServer, response

pytestmark = pytest.mark.process

NOT_FOUND = response(404, b"404 Not Found", "Content-Type: text/plain")
TEN_DAYS_S = 864_000
_numbers = count(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A standalone broker in a process of its own, for all tests here."""
    with Processes(tmp_path_factory.mktemp("official")) as processes:
        yield processes.broker()


@pytest.fixture(scope="module")
def sync_client(broker: BrokerProcess) -> Iterator[QStash]:
    """The synchronous client; making one takes time, and no loop holds it."""
    client = QStash(broker.token, base_url=broker.url, retry=False)
    yield client
    client.http._client.close()  # it offers no way to do so, and what is left open is a warning


@pytest.fixture(params=["sync", "async"])
async def client(
    broker: BrokerProcess, sync_client: QStash, request: pytest.FixtureRequest
) -> AsyncIterator[OfficialClient]:
    if request.param == "sync":
        yield OfficialClient(sync_client)
        return
    async_client = AsyncQStash(broker.token, base_url=broker.url, retry=False)
    yield OfficialClient(async_client)
    await async_client.http._client.aclose()


@pytest.fixture
async def destination(client: OfficialClient) -> AsyncIterator[WireServer]:
    """Where messages go; it answers 200 unless told otherwise."""
    async with WireServer() as server:
        yield server
        # Not while a delivery may still arrive: a connection that nobody closes is a warning.
        await client.message.cancel_all()
        await until_found(client.flow_control.get_global_parallelism, lambda it: it.parallelism_count == 0)


@pytest.fixture
def mark() -> str:
    """A name that no other test uses."""
    return f"name-{next(_numbers)}"


async def verify(client: OfficialClient, seen: Seen, url: str) -> None:
    """Check the signature of a delivery as a receiver of the official client does."""
    keys = await client.signing_key.get()
    receiver = Receiver(keys.current, keys.next)
    receiver.verify(signature=seen.header("Upstash-Signature"), body=seen.body.decode(), url=url)


async def log_of(client: OfficialClient, message_id: str, last: str) -> list[Any]:
    """Wait until the newest entry of a message's log is of this state; give them all, oldest first."""

    async def ask() -> list[Any]:
        found: list[Any] = (await client.log.list(filter={"message_id": message_id})).logs
        return found[::-1]

    return await until_found(ask, lambda found: found and found[-1].state.value == last)


async def dead(client: OfficialClient, destination: WireServer, path: str, **options: Any) -> Any:
    """Publish a message whose only attempt is answered with 404; give it as it lies in the DLQ."""
    destination.answers.append(NOT_FOUND)
    url = f"{destination.url}{path}"
    sent = await client.message.publish(**({"url": url, "retries": 0, "body": "x"} | options))
    await log_of(client, sent.message_id, "FAILED")
    [letter] = (await client.dlq.list(filter={"message_id": sent.message_id})).messages
    return letter


# --- publishing and enqueueing --------------------------------------------------------------------


async def test_what_it_publishes_arrives_with_a_signature_that_it_verifies(
    client: OfficialClient, destination: WireServer
) -> None:
    url = f"{destination.url}/hook?x=1&y=%20"
    answer = await client.message.publish(
        url=url, body="hello", content_type="text/x-a", method="PUT", headers={"Custom": "value"}, timeout=90
    )
    await destination.reached(1)

    seen = destination.last
    await verify(client, seen, url)
    assert (seen.method, seen.target, seen.body) == ("PUT", "/hook?x=1&y=%20", b"hello")
    assert (seen.header("Custom"), seen.header("Content-Type")) == ("value", "text/x-a")
    assert (answer.message_id, answer.deduplicated) == (seen.header("Upstash-Message-Id"), False)


async def test_a_signature_of_another_url_or_body_is_refused_by_its_receiver(
    client: OfficialClient, destination: WireServer
) -> None:
    await client.message.publish_json(url=f"{destination.url}/a", body={"n": 1})
    await destination.reached(1)

    keys = await client.signing_key.get()
    receiver = Receiver(keys.current, keys.next)
    signature = destination.last.header("Upstash-Signature")
    for url, body in [(f"{destination.url}/b", '{"n": 1}'), (f"{destination.url}/a", '{"n": 2}')]:
        with pytest.raises(SignatureError):
            receiver.verify(signature=signature, body=body, url=url)


async def test_what_it_enqueues_arrives_in_order(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    for n in range(5):
        await client.message.enqueue_json(
            queue=mark, url=f"{destination.url}/hook", body={"n": n}, headers={"Custom": "value"}, retries=2
        )
    await destination.reached(5)

    assert [json.loads(each.body) for each in destination.requests] == [{"n": n} for n in range(5)]
    assert {each.header("Custom") for each in destination.requests} == {"value"}
    await verify(client, destination.last, f"{destination.url}/hook")


async def test_it_reads_back_all_that_it_asked_for(client: OfficialClient, mark: str) -> None:
    answer = await client.message.publish(
        url="https://app.example/hook",
        body="text",
        content_type="text/plain",
        method="PATCH",
        headers={"test-header": "value"},
        delay="10d",
        retries=0,
        retry_delay="pow(retried, 2) * 1000",
        callback="https://app.example/callback?a=b",
        callback_headers={"Forward-X": "1", "Retries": "2"},
        failure_callback="https://app.example/failed",
        failure_callback_headers={"Forward-Y": "2"},
        flow_control={"key": mark, "rate": 10, "parallelism": 2, "period": "1h30m3s"},
        timeout="1m30s",
        label=mark,
    )

    message = await client.message.get(answer.message_id)
    assert (message.message_id, message.url, message.method) == (
        answer.message_id,
        "https://app.example/hook",
        "PATCH",
    )
    assert message.headers == {"Content-Type": ["text/plain"], "Test-Header": ["value"]}
    assert (message.body, message.body_base64, message.max_retries) == ("text", None, 0)
    assert message.retry_delay_expression == "pow(retried, 2) * 1000"
    assert message.callback == "https://app.example/callback?a=b"
    assert message.failure_callback == "https://app.example/failed"
    assert (message.callback_headers, message.failure_callback_headers) == ({"X": ["1"]}, {"Y": ["2"]})
    flow = message.flow_control
    assert (flow.key, flow.rate, flow.parallelism, flow.period) == (mark, 10, 2, 5403)
    assert (message.label, message.caller_ip) == (mark, "127.0.0.1")
    assert message.not_before - message.created_at == 1000 * TEN_DAYS_S
    assert (message.queue, message.schedule_id, message.url_group, message.endpoint) == (
        None,
        None,
        None,
        None,
    )


async def test_it_sends_bodies_that_are_no_text(client: OfficialClient, destination: WireServer) -> None:
    answer = await client.message.publish(url=destination.url, body=b"\xff\x00")
    await destination.reached(1)

    message = await client.message.get(answer.message_id)
    assert (message.body, message.body_base64) == (None, "/wA=")
    assert destination.last.body == b"\xff\x00"


async def test_a_message_can_still_be_read_after_its_delivery(
    client: OfficialClient, destination: WireServer
) -> None:
    answer = await client.message.publish_json(url=destination.url, body={"n": 1})
    await log_of(client, answer.message_id, "DELIVERED")

    message = await client.message.get(answer.message_id)
    assert (message.body, message.headers) == ('{"n": 1}', {"Content-Type": ["application/json"]})


async def test_it_publishes_for_an_instant(client: OfficialClient, mark: str) -> None:
    at = int(time.time()) + 3600
    answer = await client.message.publish(url="https://app.example", not_before=at, label=mark)

    assert (await client.message.get(answer.message_id)).not_before == 1000 * at


async def test_it_deduplicates_by_an_id(client: OfficialClient, destination: WireServer, mark: str) -> None:
    first = await client.message.publish_json(url=destination.url, body={}, deduplication_id=mark)
    second = await client.message.publish_json(url=destination.url, body={"n": 2}, deduplication_id=mark)
    third = await client.message.enqueue_json(queue=mark, url=destination.url, body={}, deduplication_id=mark)

    assert (first.deduplicated, second.deduplicated, third.deduplicated) == (False, True, True)
    assert {second.message_id, third.message_id} == {first.message_id}


async def test_it_deduplicates_by_content(client: OfficialClient, destination: WireServer, mark: str) -> None:
    answers = [
        await client.message.publish_json(
            url=destination.url, body={"mark": mark, "n": n}, content_based_deduplication=True
        )
        for n in (1, 1, 2)
    ]

    assert [each.deduplicated for each in answers] == [False, True, False]
    not_asked_for = await client.message.publish_json(
        url=destination.url, body={"mark": mark, "n": 1}, content_based_deduplication=False
    )
    assert not not_asked_for.deduplicated


async def test_it_publishes_to_an_api_by_way_of_its_url(
    client: OfficialClient, destination: WireServer
) -> None:
    provider = custom(f"{destination.url}/v1/chat/completions", "token-of-the-provider")
    await client.message.publish_json(
        api={"name": "llm", "provider": provider}, body={"model": "m"}, callback=f"{destination.url}/callback"
    )
    await destination.reached(2)

    called = {each.target: each for each in destination.requests}
    assert called["/v1/chat/completions"].header("Authorization") == "Bearer token-of-the-provider"
    assert json.loads(called["/callback"].body)["url"] == f"{destination.url}/v1/chat/completions"


async def test_what_cannot_be_accepted_is_an_error_that_says_why(client: OfficialClient, mark: str) -> None:
    refused: list[tuple[str, dict[str, Any]]] = [
        ("status: 400, body: .*Upstash-Retry-Delay", {"url": "https://app.example", "retry_delay": "2 ^ 3"}),
        ("status: 400, body: .*invalid callback url", {"url": "https://app.example", "callback": "x"}),
        ("status: 400, body: .*invalid scheme", {"url": "app.example/hook"}),
        ("status: 404, body: .*topic .* not found", {"url_group": mark}),
        ("status: 412, body: .*quota maxRetries exceeded", {"url": "https://app.example", "retries": 9999}),
    ]
    for words, options in refused:
        with pytest.raises(QStashError, match=words):
            await client.message.publish(**options)


async def test_a_wrong_token_is_an_error_that_says_so(broker: BrokerProcess) -> None:
    client = AsyncQStash("wrong", base_url=broker.url, retry=False)

    with pytest.raises(QStashError, match=r"status: 401, body: .*unable to authenticate: invalid token"):
        await client.message.publish(url="https://app.example")
    await client.http._client.aclose()


# --- batches --------------------------------------------------------------------------------------


async def test_it_sends_batches(client: OfficialClient, destination: WireServer, mark: str) -> None:
    await client.url_group.upsert_endpoints(mark, [{"url": f"{destination.url}/c", "name": "third"}])

    answers = await client.message.batch_json(
        [
            {"url": f"{destination.url}/a", "body": {"n": 1}, "headers": {"X": "1"}, "retries": 0},
            {"url": f"{destination.url}/b", "body": {"n": 2}, "queue": mark},
            {"url_group": mark, "body": {"n": 3}},
        ]
    )
    await destination.reached(3)

    a, b, [c] = answers
    seen = {each.target: each for each in destination.requests}
    assert [seen[each].header("Upstash-Message-Id") for each in ("/a", "/b", "/c")] == [
        a.message_id,
        b.message_id,
        c.message_id,
    ]
    assert (c.url, c.deduplicated) == (f"{destination.url}/c", False)
    assert seen["/a"].header("X") == "1"
    assert [json.loads(seen[each].body) for each in ("/a", "/b", "/c")] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert (await client.message.get(a.message_id)).max_retries == 0
    assert (await client.message.get(b.message_id)).queue == mark


async def test_it_sends_batches_of_plain_text_and_sees_repeats(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    message = {"url": destination.url, "body": "text", "content_type": "text/plain", "deduplication_id": mark}

    first, second = await client.message.batch([message, message])

    assert (second.message_id, first.deduplicated, second.deduplicated) == (first.message_id, False, True)


# --- messages -------------------------------------------------------------------------------------


async def test_it_cancels_one(client: OfficialClient) -> None:
    answer = await client.message.publish_json(url="https://app.example", body={}, delay=3600)

    await client.message.cancel(answer.message_id)

    log = await log_of(client, answer.message_id, "CANCELED")
    assert [each.state for each in log] == [LogState.CREATED, LogState.CANCEL_REQUESTED, LogState.CANCELED]
    with pytest.raises(QStashError, match="status: 404"):
        await client.message.cancel(answer.message_id)


async def test_it_cancels_many_that_are_being_tried(client: OfficialClient, destination: WireServer) -> None:
    destination.answers.extend([NOT_FOUND] * 2)
    sent = [
        (await client.message.publish_json(url=destination.url, body={}, retries=3)).message_id
        for _ in range(2)
    ]

    assert await client.message.cancel_many([*sent, "msg_unknown"]) == 2
    assert await client.message.cancel_many(sent) == 0


async def test_it_cancels_what_a_slow_receiver_still_works_on(client: OfficialClient) -> None:
    async with WireServer() as slow:
        slow.answers.append(HANG)
        sent = await client.message.publish(url=slow.url)
        await slow.reached(1)
        await client.message.cancel(sent.message_id)

    await log_of(client, sent.message_id, "CANCELED")


async def test_it_cancels_all_that_was_not_cancelled_before(client: OfficialClient) -> None:
    await client.message.cancel_all()
    sent = [
        (await client.message.publish_json(url="https://app.example", body={}, delay="1h")).message_id
        for _ in range(3)
    ]

    assert await client.message.cancel_many(sent[:2]) == 2
    assert await client.message.cancel_all() == 1
    assert await client.message.cancel_all() == 0


async def test_a_message_that_is_not_there_is_an_error_that_names_it(client: OfficialClient) -> None:
    with pytest.raises(QStashError, match=r"status: 404, body: .*message msg_unknown not found"):
        await client.message.get("msg_unknown")


# --- queues ---------------------------------------------------------------------------------------


async def test_it_sets_pauses_and_lists_queues(client: OfficialClient, mark: str) -> None:
    await client.queue.upsert(mark, parallelism=3)
    await client.queue.pause(mark)
    paused = await client.queue.get(mark)
    await client.queue.upsert(mark, parallelism=2)
    changed = await client.queue.get(mark)
    names = [each.name for each in await client.queue.list()]
    await client.queue.delete(mark)
    await client.queue.delete(mark)

    assert (paused.name, paused.parallelism, paused.paused, paused.lag) == (mark, 3, True, 0)
    assert (changed.parallelism, changed.paused, changed.created_at) == (2, False, paused.created_at)
    assert mark in names
    assert mark not in [each.name for each in await client.queue.list()]
    with pytest.raises(QStashError, match="status: 404"):
        await client.queue.get(mark)


async def test_a_queue_that_it_paused_keeps_its_messages_until_it_is_resumed(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    await client.queue.upsert(mark, paused=True)
    sent = await client.message.enqueue(queue=mark, url=destination.url, body="text")
    waiting = await client.queue.get(mark)
    states = [each.state.value for each in (await client.log.list(filter={"queue": mark})).logs]

    await client.queue.resume(mark)
    await destination.reached(1)

    assert (waiting.lag, waiting.paused, states) == (1, True, ["CREATED"])
    assert destination.last.header("Upstash-Message-Id") == sent.message_id
    await log_of(client, sent.message_id, "DELIVERED")
    assert (await client.queue.get(mark)).lag == 0


async def test_enqueueing_makes_a_queue_of_parallelism_one(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    await client.message.enqueue(queue=mark, url=destination.url)

    made = await client.queue.get(mark)
    assert (made.parallelism, made.paused) == (1, False)


# --- URL groups -----------------------------------------------------------------------------------


async def test_it_keeps_url_groups(client: OfficialClient, mark: str) -> None:
    await client.url_group.delete(mark)
    await client.url_group.upsert_endpoints(
        mark, [{"url": "https://a.example"}, {"url": "https://b.example", "name": "second"}]
    )
    await client.url_group.upsert_endpoints(
        mark, [{"url": "https://a.example"}, {"url": "https://c.example", "name": "second"}]
    )
    group = await client.url_group.get(mark)
    listed = [each.name for each in await client.url_group.list()]
    await client.url_group.remove_endpoints(mark, [{"name": "second"}])
    rest = (await client.url_group.get(mark)).endpoints
    await client.url_group.remove_endpoints(mark, [{"url": "https://a.example"}])

    assert [(each.url, each.name) for each in group.endpoints] == [
        ("https://a.example", None),
        ("https://c.example", "second"),
    ]
    assert (group.name, group.updated_at >= group.created_at, mark in listed) == (mark, True, True)
    assert [each.url for each in rest] == ["https://a.example"]
    with pytest.raises(QStashError, match="status: 404"):
        await client.url_group.get(mark)


async def test_it_publishes_and_enqueues_to_url_groups(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    urls = [f"{destination.url}/a", f"{destination.url}/b"]
    await client.url_group.upsert_endpoints(mark, [{"url": urls[0], "name": "first"}, {"url": urls[1]}])

    published = await client.message.publish_json(url_group=mark, body={"n": 1})
    enqueued = await client.message.enqueue_json(queue=mark, url_group=mark, body={"n": 2})
    await destination.reached(4)

    assert [each.url for each in published] == urls
    assert [each.url for each in enqueued] == urls
    assert {each.header("Upstash-Topic-Name") for each in destination.requests} == {mark}
    first = await client.message.get(published[0].message_id)
    assert (first.url_group, first.endpoint, first.url) == (mark, "first", urls[0])
    found = await client.log.list(filter={"url_group": mark, "state": LogState.CREATED})
    assert {each.message_id for each in found.logs} == {each.message_id for each in [*published, *enqueued]}


# --- schedules ------------------------------------------------------------------------------------


async def test_it_keeps_schedules(client: OfficialClient, mark: str) -> None:
    schedule_id = await client.schedule.create_json(
        destination="https://app.example/hook",
        cron="0 4 1 1 *",
        body={"n": 1},
        method="PUT",
        headers={"test-header": "value"},
        schedule_id=mark,
        retries=1,
        retry_delay="1000",
        delay="10s",
        timeout=30,
        callback="https://app.example/callback",
        callback_headers={"Forward-X": "1"},
        failure_callback="https://app.example/failed",
        failure_callback_headers={"Forward-Y": "2"},
        flow_control={"key": mark, "parallelism": 2},
        label=mark,
    )

    found = await client.schedule.get(schedule_id)
    assert (schedule_id, found.schedule_id, found.cron) == (mark, mark, "0 4 1 1 *")
    assert (found.destination, found.method, found.body) == ("https://app.example/hook", "PUT", '{"n": 1}')
    assert found.headers == {"Content-Type": ["application/json"], "Test-Header": ["value"]}
    assert (found.retries, found.retry_delay_expression, found.delay, found.timeout) == (1, "1000", 10, 30)
    assert (found.callback, found.callback_headers) == ("https://app.example/callback", {"X": ["1"]})
    assert (found.failure_callback, found.failure_callback_headers) == (
        "https://app.example/failed",
        {"Y": ["2"]},
    )
    flow = found.flow_control
    assert (flow.key, flow.parallelism, flow.rate, flow.period) == (mark, 2, None, 1)
    assert (found.label, found.paused, found.caller_ip) == (mark, False, "127.0.0.1")
    assert found.next_schedule_time > found.created_at
    assert (found.last_schedule_time, found.last_schedule_states, found.error) == (None, None, None)
    assert mark in [each.schedule_id for each in await client.schedule.list()]


async def test_it_pauses_resumes_and_deletes_schedules(client: OfficialClient) -> None:
    schedule_id = await client.schedule.create(destination="https://app.example", cron="0 4 1 1 *")
    paused = []
    for verb in (
        client.schedule.pause,
        client.schedule.pause,
        client.schedule.resume,
        client.schedule.resume,
    ):
        await verb(schedule_id)
        paused.append((await client.schedule.get(schedule_id)).paused)
    await client.schedule.delete(schedule_id)

    assert paused == [True, True, False, False]
    assert schedule_id.startswith("scd_")
    with pytest.raises(QStashError, match="status: 404"):
        await client.schedule.get(schedule_id)


async def test_it_overwrites_a_schedule_wholly(client: OfficialClient, mark: str) -> None:
    await client.schedule.create_json(
        destination="https://app.example", cron="0 4 1 1 *", body={}, schedule_id=mark, retries=1, label=mark
    )
    await client.schedule.pause(mark)

    again = await client.schedule.create(destination="https://b.example", cron="0 5 1 1 *", schedule_id=mark)

    found = await client.schedule.get(mark)
    assert (again, found.cron, found.destination) == (mark, "0 5 1 1 *", "https://b.example")
    assert (found.retries, found.label, found.body, found.headers, found.paused) == (3, None, None, {}, False)


async def test_it_schedules_into_a_queue_and_to_a_group(client: OfficialClient, mark: str) -> None:
    await client.url_group.upsert_endpoints(mark, [{"url": "https://a.example"}])
    schedule_id = await client.schedule.create(destination=mark, cron="0 4 1 1 *", queue=mark, body="text")

    found = await client.schedule.get(schedule_id)
    assert (found.destination, found.queue, found.body) == (mark, mark, "text")


# --- logs -----------------------------------------------------------------------------------------


async def test_it_reads_the_whole_of_a_message_in_the_log(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    destination.answers.append(NOT_FOUND)
    sent = await client.message.publish(
        url=f"{destination.url}/{mark}",
        body="text",
        content_type="text/plain",
        retries=1,
        retry_delay="1",
        timeout=90,
        label=mark,
        flow_control={"key": mark, "rate": 100},
    )
    log = await log_of(client, sent.message_id, "DELIVERED")

    states = ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]
    assert [each.state.value for each in log] == states
    for each in log:
        assert (each.url, each.method, each.max_retries) == (f"{destination.url}/{mark}", "POST", 1)
        assert (each.label, each.retry_delay_expression, each.timeout) == (mark, "1", 90_000)
        assert (each.flow_control.key, each.flow_control.rate, each.flow_control.period) == (mark, 100, 1)
        assert base64.b64decode(each.body_base64) == b"text"
        assert each.headers == {"Content-Type": ["text/plain"]}
    error, retry = log[2], log[3]
    assert (error.response_status, base64.b64decode(error.response_body)) == (404, b"404 Not Found")
    assert error.response_headers["Content-Type"] == ["text/plain"]
    assert (bool(error.error), retry.next_delivery_time - retry.time) == (True, 1)


async def test_it_filters_the_log(client: OfficialClient, destination: WireServer, mark: str) -> None:
    url = f"{destination.url}/{mark}"
    first = (await client.message.publish(url=url, label=f"{mark}-a,{mark}-b")).message_id
    second = (await client.message.enqueue(queue=mark, url=url, label=f"{mark}-c")).message_id
    third = (await client.message.publish(url=f"{url}/other")).message_id
    for each in (first, second, third):
        await log_of(client, each, "DELIVERED")
    at = {each.message_id: each.time for each in (await client.log.list(count=1000)).logs}
    both = {"message_ids": [first, second]}

    for wanted, found in [
        ({"message_id": third}, {third}),
        (both, {first, second}),
        ({"url": url}, {first, second}),
        ({"queue": mark}, {second}),
        ({"label": f"{mark}-b"}, {first}),
        (both | {"state": LogState.DELIVERED}, {first, second}),
        (both | {"state": LogState.IN_PROGRESS}, {first, second}),
        (both | {"state": LogState.FAILED}, set()),
        (both | {"from_time": min(at.values())}, {first, second}),
        (both | {"to_time": min(at.values()) - 1}, set()),
        ({"schedule_id": mark}, set()),
        ({"url_group": mark}, set()),
    ]:
        page = await client.log.list(filter=wanted)
        assert {each.message_id for each in page.logs} == found, wanted
    delivered = await client.log.list(filter=both | {"state": LogState.DELIVERED})
    assert len(delivered.logs) == 2


async def test_it_reads_the_log_page_by_page(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    sent = [(await client.message.publish(url=destination.url, label=mark)).message_id for _ in range(4)]
    for each in sent:
        await log_of(client, each, "DELIVERED")
    whole = (await client.log.list(filter={"label": mark})).logs

    pages, cursor = [], None
    while True:
        page = await client.log.list(filter={"label": mark}, count=5, cursor=cursor)
        pages.append(page.logs)
        cursor = page.cursor
        if cursor is None:
            break

    assert [len(each) for each in pages] == [5, 5, 2]
    assert [each for page in pages for each in page] == whole
    assert [each.time for each in whole] == sorted((each.time for each in whole), reverse=True)


# --- the dead letter queue ------------------------------------------------------------------------


async def test_it_reads_and_deletes_dead_letters(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    listed = await dead(
        client, destination, f"/{mark}", body="text", label=mark, method="PUT", retry_delay="1"
    )

    letter = await client.dlq.get(listed.dlq_id)
    await client.dlq.delete(listed.dlq_id)

    assert letter == listed
    assert (letter.url, letter.method, letter.body) == (f"{destination.url}/{mark}", "PUT", "text")
    assert (letter.response_status, letter.response_body) == (404, "404 Not Found")
    assert letter.response_headers["Content-Type"] == ["text/plain"]
    assert (letter.max_retries, letter.label, letter.retry_delay_expression) == (0, mark, "1")
    for verb in (client.dlq.get, client.dlq.delete):
        with pytest.raises(QStashError, match="status: 404"):
            await verb(listed.dlq_id)


async def test_it_filters_dead_letters(client: OfficialClient, destination: WireServer, mark: str) -> None:
    labelled = await dead(client, destination, f"/{mark}/a", label=mark)
    other = await dead(client, destination, f"/{mark}/b")
    queued_url = f"{destination.url}/{mark}/c"
    destination.answers.append(NOT_FOUND)
    sent = await client.message.enqueue(queue=mark, url=queued_url, retries=0)
    await log_of(client, sent.message_id, "FAILED")

    for wanted, urls in [
        ({"message_id": other.message_id}, {other.url}),
        ({"url": labelled.url}, {labelled.url}),
        ({"label": mark}, {labelled.url}),
        ({"queue": mark}, {queued_url}),
        ({"url": other.url, "response_status": 404}, {other.url}),
        ({"url": other.url, "response_status": 500}, set()),
        ({"url": other.url, "caller_ip": "127.0.0.1"}, {other.url}),
        ({"url": other.url, "caller_ip": "127.0.0.2"}, set()),
        ({"url": other.url, "from_time": other.created_at}, {other.url}),
        ({"url": other.url, "to_time": other.created_at - 1}, set()),
        ({"schedule_id": mark}, set()),
        ({"url_group": mark}, set()),
    ]:
        page = await client.dlq.list(filter=wanted)
        assert {each.url for each in page.messages} == urls, wanted


async def test_it_reads_dead_letters_page_by_page_and_deletes_many(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    ids = [(await dead(client, destination, "/", label=mark)).dlq_id for _ in range(3)]

    first = await client.dlq.list(filter={"label": mark}, count=2)
    rest = await client.dlq.list(filter={"label": mark}, count=2, cursor=first.cursor)
    deleted = [await client.dlq.delete_many(ids), await client.dlq.delete_many(ids)]

    assert [each.dlq_id for each in [*first.messages, *rest.messages]] == ids[::-1]
    assert (rest.cursor, deleted) == (None, [3, 0])
    assert (await client.dlq.list(filter={"label": mark})).messages == []


# --- flow control ---------------------------------------------------------------------------------


async def test_it_reads_pauses_and_pins_flow_control(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    async def publish(**limits: int) -> None:
        await client.message.publish(url=destination.url, flow_control={"key": mark, **limits})

    await publish(rate=50, parallelism=4, period=60)
    fresh = await client.flow_control.get(mark)
    await client.flow_control.pause(mark)
    await publish(rate=50, parallelism=4, period=60)
    paused = await client.flow_control.get(mark)
    await client.flow_control.pin(mark, {"parallelism": 7, "rate": 70, "period": 120})
    await publish(rate=10)
    pinned = await client.flow_control.get(mark)
    await client.flow_control.unpin(mark, {"parallelism": True, "rate": True})
    unpinned = await client.flow_control.get(mark)
    await client.flow_control.reset_rate(mark)
    reset = await client.flow_control.get(mark)
    await client.flow_control.resume(mark)
    await destination.reached(3)

    assert (fresh.key, fresh.rate_max, fresh.parallelism_max, fresh.rate_period) == (mark, 50, 4, 60)
    assert (fresh.is_paused, fresh.is_pinned_parallelism, fresh.is_pinned_rate) == (False, False, False)
    assert (paused.is_paused, paused.wait_list_size) == (True, 1)
    assert (pinned.parallelism_max, pinned.rate_max, pinned.rate_period) == (7, 70, 120)
    assert (pinned.is_pinned_parallelism, pinned.is_pinned_rate) == (True, True)
    assert (unpinned.parallelism_max, unpinned.rate_max) == (7, 70)
    assert (unpinned.is_pinned_parallelism, unpinned.is_pinned_rate) == (False, False)
    assert (reset.rate_count, abs(reset.rate_period_start - time.time()) < 10) == (0, True)
    assert not (await client.flow_control.get(mark)).is_paused


async def test_a_key_without_a_rate_has_a_period_of_a_second(client: OfficialClient, mark: str) -> None:
    sent = await client.message.publish(
        url="https://app.example", delay="1h", flow_control={"key": mark, "parallelism": 3}
    )

    flow = (await client.message.get(sent.message_id)).flow_control
    assert (flow.parallelism, flow.rate, flow.period) == (3, None, 1)
    assert (await client.flow_control.get(mark)).rate_max == 0


async def test_it_reads_the_global_parallelism(client: OfficialClient) -> None:
    found = await client.flow_control.get_global_parallelism()

    assert found.parallelism_max > 0
    assert found.parallelism_count >= 0


async def test_a_key_that_nobody_has_used_is_an_error(client: OfficialClient, mark: str) -> None:
    with pytest.raises(QStashError, match="status: 404"):
        await client.flow_control.get(mark)


# --- callbacks, redaction, keys -------------------------------------------------------------------


async def test_callbacks_arrive_with_signatures_that_it_verifies(
    client: OfficialClient, destination: WireServer
) -> None:
    destination.answers.append(NOT_FOUND)
    sent = await client.message.publish_json(
        url=f"{destination.url}/hook",
        body={"n": 1},
        retries=0,
        callback=f"{destination.url}/callback?a=b",
        callback_headers={"Forward-X": "1", "Upstash-Callback-Method": "PUT"},
        failure_callback=f"{destination.url}/failed",
        failure_callback_headers={"Forward-Y": "2"},
    )
    await destination.reached(3)

    seen = {each.target: each for each in destination.requests}
    callback, failure = seen["/callback?a=b"], seen["/failed"]
    await verify(client, callback, f"{destination.url}/callback?a=b")
    await verify(client, failure, f"{destination.url}/failed")
    assert (callback.method, callback.header("X")) == ("PUT", "1")
    assert (failure.method, failure.header("Y")) == ("POST", "2")
    [letter] = (await client.dlq.list(filter={"message_id": sent.message_id})).messages
    told = json.loads(failure.body)
    assert (told["sourceMessageId"], told["dlqId"], told["status"]) == (sent.message_id, letter.dlq_id, 404)
    assert base64.b64decode(told["body"]) == b"404 Not Found"
    assert base64.b64decode(told["sourceBody"]) == b'{"n": 1}'


async def test_what_it_has_redacted_is_delivered_and_never_shown(
    client: OfficialClient, destination: WireServer, mark: str
) -> None:
    secret = f"secret of {mark}"
    letter = await dead(
        client,
        destination,
        f"/{mark}",
        body=secret,
        headers={"Authorization": secret, "X": "shown"},
        redact={"body": True, "header": ["authorization"]},
    )
    message = await client.message.get(letter.message_id)
    log = await log_of(client, letter.message_id, "FAILED")

    assert (destination.last.body, destination.last.header("Authorization")) == (secret.encode(), secret)
    for view in (message, letter):
        assert view.body.startswith("REDACTED:")
        assert view.headers["Authorization"][0].startswith("REDACTED:")
        assert view.headers["X"] == ["shown"]
    for entry in log:
        assert base64.b64decode(entry.body_base64).startswith(b"REDACTED:")
        assert secret not in str(entry)


async def test_after_a_rotation_of_keys_receivers_with_the_old_pair_still_verify(
    client: OfficialClient, destination: WireServer
) -> None:
    before = await client.signing_key.get()
    after = await client.signing_key.rotate()

    await client.message.publish(url=destination.url, body="text")
    await destination.reached(1)

    assert (after.current == before.next, after.next in (before.current, before.next)) == (True, False)
    assert await client.signing_key.get() == after
    for keys in (before, after):
        Receiver(keys.current, keys.next).verify(
            signature=destination.last.header("Upstash-Signature"), body="text", url=destination.url
        )
