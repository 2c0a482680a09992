"""The official Python client of QStash against our standalone broker, changed in URL and token alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qstash import AsyncQStash, QStash, Receiver

from tests.support.api import read_keys
from tests.support.inbox import Inbox
from tests.support.processes import BrokerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.process


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[QStash]:
    made = QStash(broker.token, base_url=broker.url)
    yield made
    made.http._client.close()  # it offers no way to do so, and what is left open is a warning


def test_what_it_enqueues_arrives_with_a_signature_that_it_verifies(
    client: QStash, inbox: Inbox, tmp_path: Path
) -> None:
    answer = client.message.enqueue_json(
        queue="mail", url=f"{inbox.url}/hook?x=1", body={"n": 1}, headers={"Custom": "value"}, retries=2
    )

    arrived = inbox.first()
    keys = read_keys(tmp_path / "q.db")
    receiver = Receiver(keys["QSTASH_CURRENT_SIGNING_KEY"], keys["QSTASH_NEXT_SIGNING_KEY"])
    receiver.verify(
        signature=arrived.headers["upstash-signature"],
        body=arrived.body.decode(),
        url=f"{inbox.url}/hook?x=1",
    )
    assert (arrived.method, arrived.path, arrived.body) == ("POST", "/hook?x=1", b'{"n": 1}')
    assert arrived.headers["custom"] == "value"
    assert not isinstance(answer, list)
    assert arrived.headers["upstash-message-id"] == answer.message_id


def test_it_deduplicates(client: QStash, inbox: Inbox) -> None:
    first = client.message.enqueue_json(queue="q", url=inbox.url, body={}, deduplication_id="once")
    second = client.message.enqueue_json(queue="q", url=inbox.url, body={}, deduplication_id="once")

    assert not isinstance(first, list)
    assert not isinstance(second, list)
    assert (second.message_id, second.deduplicated) == (first.message_id, True)


def test_it_reads_back_the_message_and_its_log(client: QStash, inbox: Inbox) -> None:
    answer = client.message.enqueue(queue="q", url=inbox.url, body="text", content_type="text/plain")
    assert not isinstance(answer, list)

    message = client.message.get(answer.message_id)
    delivered = eventually(lambda: deliveries(client, answer.message_id), "the delivery is in the log")

    assert (message.queue, message.body, message.max_retries) == ("q", "text", 3)
    assert len(delivered) == 1


def deliveries(client: QStash, message_id: str) -> list[Any]:
    """Give the entries that say that a message was delivered."""
    found = client.log.list().logs
    return [each for each in found if each.message_id == message_id and each.state.value == "DELIVERED"]


def test_it_sets_pauses_and_lists_queues(client: QStash) -> None:
    client.queue.upsert("mail", parallelism=3)
    client.queue.pause("mail")
    paused = client.queue.get("mail")
    client.queue.resume("mail")
    names = [each.name for each in client.queue.list()]
    client.queue.delete("mail")

    assert (paused.parallelism, paused.paused) == (3, True)
    assert names == ["mail"]
    assert client.queue.list() == []


def test_it_publishes_later_and_cancels(client: QStash, inbox: Inbox) -> None:
    answer = client.message.publish_json(url=inbox.url, body={}, delay="1h")
    assert not isinstance(answer, list)

    client.message.cancel(answer.message_id)

    states = [each.state.value for each in client.log.list().logs if each.message_id == answer.message_id]
    assert states == ["CANCELED", "CANCEL_REQUESTED", "CREATED"]


def test_it_sends_batches(client: QStash, inbox: Inbox) -> None:
    answers = client.message.batch_json(
        [
            {"url": f"{inbox.url}/a", "body": {"n": 1}},
            {"url": f"{inbox.url}/b", "body": {"n": 2}, "queue": "q"},
        ]
    )

    assert len(answers) == 2
    eventually(lambda: len(inbox.requests) == 2, "both arrive")
    assert sorted(each.path for each in inbox.requests) == ["/a", "/b"]


async def test_the_asynchronous_one_works_as_well(broker: BrokerProcess, inbox: Inbox) -> None:
    client = AsyncQStash(broker.token, base_url=broker.url)

    await client.message.enqueue_json(queue="mail", url=inbox.url, body={"n": 1})

    assert inbox.first().body == b'{"n": 1}'
    await client.http._client.aclose()
