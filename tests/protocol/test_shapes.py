"""What the read API shows, and its JSON (contract 1.1, 2.4, 2.6, 2.8, 2.9, appendix A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import DecodeError, InvalidValue
from qtasks.protocol.shapes import DeadLetter, Enqueued, LogEntry, MessageView, QueueView, State

MESSAGE = MessageView(
    message_id="msg_f", url="https://api.example.net/x", max_retries=0, not_before=1, created_at=1
)
FULL_MESSAGE = MessageView(
    message_id="msg_7",
    url="https://api.example.net/hook?x=1",
    method="PUT",
    header={"Content-Type": ("application/json",), "X-Tenant": ("42",)},
    body=b'{"n":1}',
    max_retries=3,
    not_before=1_754_000_060_000,
    created_at=1_754_000_000_000,
    queue_name="mail",
    topic_name="orders",
    endpoint_name="billing",
    schedule_id="scd_1",
    caller_ip="203.0.113.7",
    labels=("import", "night"),
    retry_delay_expression="1000 * (1 + retried)",
    timeout_ms=90_000,
    callback="https://api.example.net/cb",
    callback_header={"X-A": ("1",)},
    failure_callback="https://api.example.net/fcb",
    failure_callback_header={"X-B": ("2",)},
    flow_control_key="tenant-42",
    rate=10,
    parallelism=2,
    period_s=60,
)
FULL_MESSAGE_JSON = {
    "messageId": "msg_7",
    "url": "https://api.example.net/hook?x=1",
    "method": "PUT",
    "header": {"Content-Type": ["application/json"], "X-Tenant": ["42"]},
    "body": '{"n":1}',
    "maxRetries": 3,
    "notBefore": 1_754_000_060_000,
    "createdAt": 1_754_000_000_000,
    "queueName": "mail",
    "topicName": "orders",
    "endpointName": "billing",
    "scheduleId": "scd_1",
    "callerIP": "203.0.113.7",
    "callerIp": "203.0.113.7",
    "label": "import",
    "labels": ["import", "night"],
    "retryDelayExpression": "1000 * (1 + retried)",
    "timeout": 90_000,
    "callback": "https://api.example.net/cb",
    "callbackHeader": {"X-A": ["1"]},
    "failureCallback": "https://api.example.net/fcb",
    "failureCallbackHeader": {"X-B": ["2"]},
    "flowControlKey": "tenant-42",
    "rate": 10,
    "parallelism": 2,
    "period": 60,
}
ENTRY = LogEntry(time=5, message_id="msg_g", state=State.ERROR, url="https://x.example")
FULL_ENTRY = LogEntry(
    time=1_754_000_000_950,
    message_id="msg_g",
    state=State.ERROR,
    url="https://x.example",
    header={"X": ("1",)},
    body=b'{"n":1}',
    error="unexpected status 500",
    next_delivery_time=1_754_000_012_950,
    queue_name="mail",
    topic_name="orders",
    endpoint_name="billing",
    schedule_id="scd_1",
    response_status=500,
    response_header={"Content-Type": ("text/plain",)},
    response_body=b"oops",
    timeout_ms=900_000,
    method="POST",
    max_retries=3,
    retry_delay_expression="1000",
    labels=("a",),
    caller_ip="203.0.113.7",
    callback="https://c.example",
    callback_header={"A": ("1",)},
    failure_callback="https://f.example",
    failure_callback_header={"B": ("2",)},
    flow_control_key="k",
    rate=1,
    parallelism=2,
    period_s=3,
)
FULL_ENTRY_JSON = {
    "time": 1_754_000_000_950,
    "messageId": "msg_g",
    "state": "ERROR",
    "url": "https://x.example",
    "header": {"X": ["1"]},
    "body": "eyJuIjoxfQ==",
    "error": "unexpected status 500",
    "nextDeliveryTime": 1_754_000_012_950,
    "queueName": "mail",
    "topicName": "orders",
    "endpointName": "billing",
    "scheduleId": "scd_1",
    "responseStatus": 500,
    "responseHeaders": {"Content-Type": ["text/plain"]},
    "responseHeader": {"Content-Type": ["text/plain"]},
    "responseBody": "b29wcw==",
    "timeout": 900_000,
    "method": "POST",
    "maxRetries": 3,
    "retryDelayExpression": "1000",
    "retryDelayExpr": "1000",
    "label": "a",
    "labels": ["a"],
    "callerIP": "203.0.113.7",
    "callerIp": "203.0.113.7",
    "callback": "https://c.example",
    "callbackHeaders": {"A": ["1"]},
    "failureCallback": "https://f.example",
    "failureCallbackHeaders": {"B": ["2"]},
    "flowControlKey": "k",
    "rate": 1,
    "parallelism": 2,
    "period": 3,
}
LETTER = DeadLetter(
    dlq_id="1754000123456-0",
    message=MESSAGE,
    response_status=404,
    response_header={"Content-Type": ("text/plain",)},
    response_body=b"404 Not Found",
)
SMALL_MESSAGE_JSON = {
    "messageId": "msg_f",
    "url": "https://api.example.net/x",
    "method": "POST",
    "header": {},
    "maxRetries": 0,
    "notBefore": 1,
    "createdAt": 1,
}
QUEUE = QueueView(name="mail", created_at=1, updated_at=2)

Shape = MessageView | DeadLetter | QueueView | LogEntry | Enqueued
SAMPLES: list[tuple[Shape, dict[str, object]]] = [
    (MESSAGE, SMALL_MESSAGE_JSON),
    (FULL_MESSAGE, FULL_MESSAGE_JSON),
    (
        LETTER,
        SMALL_MESSAGE_JSON
        | {
            "dlqId": "1754000123456-0",
            "responseStatus": 404,
            "responseHeader": {"Content-Type": ["text/plain"]},
            "responseBody": "404 Not Found",
        },
    ),
    (
        DeadLetter(dlq_id="1-0", message=MESSAGE, error="connection refused"),
        SMALL_MESSAGE_JSON | {"dlqId": "1-0", "responseStatus": 0, "error": "connection refused"},
    ),
    (
        QUEUE,
        {
            "name": "mail",
            "createdAt": 1,
            "updatedAt": 2,
            "parallelism": 1,
            "paused": False,
            "lag": 0,
            "ordered": True,
        },
    ),
    (ENTRY, {"time": 5, "messageId": "msg_g", "state": "ERROR", "url": "https://x.example"}),
    (FULL_ENTRY, FULL_ENTRY_JSON),
    (Enqueued("msg_a"), {"messageId": "msg_a"}),
    (Enqueued("msg_a", deduplicated=True), {"messageId": "msg_a", "deduplicated": True}),
    (
        Enqueued("msg_c", deduplicated=True, url="https://b.example"),
        {"messageId": "msg_c", "url": "https://b.example", "deduplicated": True},
    ),
]


@pytest.mark.parametrize(("shape", "members"), SAMPLES)
def test_a_shape_is_the_json_of_the_contract_both_ways(shape: Shape, members: dict[str, object]) -> None:
    assert orjson.loads(orjson.dumps(shape.to_json())) == members
    assert type(shape).from_json(members) == shape


@pytest.mark.parametrize("shape", [FULL_MESSAGE, FULL_ENTRY])
def test_the_full_samples_leave_no_attribute_out(shape: MessageView | LogEntry) -> None:
    for each in fields(shape):
        assert getattr(shape, each.name), each.name


@pytest.mark.parametrize(
    ("body", "members"),
    [(b"", {}), ("é".encode(), {"body": "é"}), (b"\xff", {"bodyBase64": "/w=="})],
)
def test_a_body_is_shown_as_text_or_in_base64(body: bytes, members: dict[str, object]) -> None:
    message = replace(MESSAGE, body=body)

    assert message.to_json() == SMALL_MESSAGE_JSON | members
    assert MessageView.from_json(message.to_json()) == message


def test_the_older_spellings_and_null_are_read_too() -> None:
    entry = LogEntry.from_json(
        FULL_ENTRY_JSON
        | {
            "labels": None,
            "label": "a",
            "callerIP": None,
            "responseHeaders": None,
            "retryDelayExpression": None,
        }
    )

    assert entry == FULL_ENTRY


def test_a_header_with_a_plain_value_is_read_as_a_list_of_one() -> None:
    members = SMALL_MESSAGE_JSON | {"header": {"X": "1"}}

    assert MessageView.from_json(members).header == {"X": ("1",)}


def test_unknown_members_are_ignored() -> None:
    assert QueueView.from_json({**QUEUE.to_json(), "new": 1}) == QUEUE


def test_a_queue_that_says_nothing_of_its_order_is_ordered() -> None:
    members = QUEUE.to_json()
    del members["ordered"]

    assert QueueView.from_json(members).ordered


@pytest.mark.parametrize(
    ("read", "members", "path"),
    [
        (Enqueued.from_json, {}, "message_id"),
        (Enqueued.from_json, {"messageId": 1}, "messageId"),
        (Enqueued.from_json, {"messageId": "m", "deduplicated": 1}, "deduplicated"),
        (MessageView.from_json, SMALL_MESSAGE_JSON | {"maxRetries": True}, "maxRetries"),
        (MessageView.from_json, SMALL_MESSAGE_JSON | {"maxRetries": None}, "max_retries"),
        (MessageView.from_json, SMALL_MESSAGE_JSON | {"header": {"X": [1]}}, "header"),
        (MessageView.from_json, SMALL_MESSAGE_JSON | {"labels": {}}, "labels"),
        (MessageView.from_json, SMALL_MESSAGE_JSON | {"bodyBase64": "%"}, "bodyBase64"),
        (LogEntry.from_json, FULL_ENTRY_JSON | {"state": "SLEEPING"}, "state"),
        (LogEntry.from_json, FULL_ENTRY_JSON | {"state": None}, "state"),
        (LogEntry.from_json, FULL_ENTRY_JSON | {"body": "é"}, "body"),
        (DeadLetter.from_json, SMALL_MESSAGE_JSON, "dlq_id"),
    ],
)
def test_members_of_another_type_are_refused_by_name(
    read: Callable[[dict[str, object]], Shape], members: dict[str, object], path: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        read(members)

    assert caught.value.path == path
    assert path in str(caught.value)


@pytest.mark.parametrize(("text", "state"), [("retry", State.RETRY), ("CANCELLED", State.CANCELED)])
def test_a_state_is_read_in_any_case_and_both_spellings(text: str, state: State) -> None:
    assert State.parse(text) is state


def test_an_unknown_state_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidValue, match='unknown state "DONE", none of CREATED, ACTIVE, DELIVERED'):
        State.parse("DONE")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.data(), st.sampled_from(SAMPLES))
def test_whatever_an_answer_holds_only_a_decode_error_comes_of_it(
    data: st.DataObject, sample: tuple[Shape, dict[str, Any]]
) -> None:
    shape, members = sample
    key = data.draw(st.sampled_from(sorted(members)))

    try:
        read = type(shape).from_json(members | {key: data.draw(JSON)})
    except DecodeError:
        return

    assert type(read) is type(shape)
