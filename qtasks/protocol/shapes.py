"""The values that cross the wire, and what the read API shows of them, with their JSON.

`Outgoing` and `Enqueued` are how a message goes in; the others are views, made for showing: stores
keep rows of their own. Keys and their oddities are the contract's (2.4, 2.6, 2.8, 2.9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum
from typing import Self

from qtasks.errors import DecodeError, InvalidValue
from qtasks.protocol import json_fields as json
from qtasks.protocol.headers import Options
from qtasks.protocol.text import quoted
from qtasks.values import dataclass

HeaderMap = Mapping[str, tuple[str, ...]]


class State(StrEnum):
    """The states of a message, as its log entries show them (contract 1.1).

    `IN_PROGRESS` is never stored: as a filter it stands for `IN_PROGRESS_STATES`.
    """

    CREATED = "CREATED"
    ACTIVE = "ACTIVE"
    DELIVERED = "DELIVERED"
    ERROR = "ERROR"
    RETRY = "RETRY"
    FAILED = "FAILED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    CANCELED = "CANCELED"
    IN_PROGRESS = "IN_PROGRESS"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a state in any case, `CANCELLED` included; raises `InvalidValue`."""
        name = text.upper()
        try:
            return cls("CANCELED" if name == "CANCELLED" else name)
        except ValueError:
            raise InvalidValue(f"unknown state {quoted(text)}, none of {', '.join(cls)}") from None


IN_PROGRESS_STATES = frozenset({State.ACTIVE, State.RETRY, State.ERROR})


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish, or to enqueue where a queue is named.

    `destination` is a URL, or the name of an API such as `api/llm`. Who called, and the URL group or the
    fire of a schedule that the message comes from, are known to the broker alone.
    """

    destination: str
    body: bytes
    options: Options
    queue: str | None = None
    caller_ip: str | None = None
    group_name: str | None = None
    endpoint_name: str | None = None
    schedule_id: str | None = None
    fired_at: int | None = None
    is_new: bool = False
    """Its deduplication id was made for it just now and was sent to nobody yet: no other message has it."""

    def repeated(self) -> Outgoing:
        """Give the message as it is once it was sent: perhaps it has arrived."""
        return replace(self, is_new=False) if self.is_new else self


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The broker's answer for one message; of a duplicate, the id of the message already there.

    `url` is the endpoint's, where the destination is a URL group; otherwise there is none. `task_id` is
    that of the message already there, if it is another one than was asked for.
    """

    message_id: str
    deduplicated: bool = False
    url: str | None = None
    task_id: str | None = None

    def to_json(self) -> dict[str, object]:
        """Make the answer's JSON object (contract 2.1)."""
        if not (self.deduplicated or self.url or self.task_id):  # as most are, at a tenth of the cost
            return {"messageId": self.message_id}
        return json.write_fields(self, _ENQUEUED)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read the answer's JSON object; raises `DecodeError`."""
        message_id = members.get("messageId")
        if len(members) == 1 and isinstance(message_id, str):  # as most are, at a tenth of the cost
            return cls(message_id)
        return cls(**json.read_fields(members, _ENQUEUED))


_ENQUEUED = (
    json.text("message_id", "messageId", required=True),
    json.text("url", "url"),
    json.flag("deduplicated", "deduplicated"),
    json.text("task_id", "taskId"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageView:
    """A message as the API shows it (contract 2.4).

    `header` holds what is sent to the destination, names in Go's canonical form. Instants are Unix
    milliseconds, `period_s` is in seconds.
    """

    message_id: str
    url: str
    method: str = "POST"
    header: HeaderMap = field(default_factory=dict)
    body: bytes = b""
    max_retries: int
    not_before: int
    created_at: int
    queue_name: str | None = None
    topic_name: str | None = None
    endpoint_name: str | None = None
    schedule_id: str | None = None
    caller_ip: str | None = None
    labels: tuple[str, ...] = ()
    retry_delay_expression: str | None = None
    timeout_ms: int | None = None
    callback: str | None = None
    callback_header: HeaderMap = field(default_factory=dict)
    failure_callback: str | None = None
    failure_callback_header: HeaderMap = field(default_factory=dict)
    flow_control_key: str | None = None
    rate: int | None = None
    parallelism: int | None = None
    period_s: int | None = None

    def to_json(self) -> dict[str, object]:
        """Make the message object of the API."""
        return json.write_fields(self, _MESSAGE)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a message object of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _MESSAGE))


_MESSAGE = (
    json.text("message_id", "messageId", required=True),
    json.text("url", "url", required=True),
    json.text("topic_name", "topicName"),
    json.text("endpoint_name", "endpointName"),
    json.text("method", "method", required=True),
    json.header_map("header", "header", always=True),
    json.text_or_base64("body", "body", "bodyBase64"),
    json.number("max_retries", "maxRetries", required=True),
    json.number("not_before", "notBefore", required=True),
    json.number("created_at", "createdAt", required=True),
    json.text("callback", "callback"),
    json.header_map("callback_header", "callbackHeader"),
    json.text("failure_callback", "failureCallback"),
    json.header_map("failure_callback_header", "failureCallbackHeader"),
    json.text("queue_name", "queueName"),
    json.text("schedule_id", "scheduleId"),
    json.text("caller_ip", "callerIP", "callerIp"),
    json.labels("labels"),
    json.text("flow_control_key", "flowControlKey"),
    json.number("rate", "rate"),
    json.number("period_s", "period"),
    json.number("parallelism", "parallelism"),
    json.text("retry_delay_expression", "retryDelayExpression"),
    json.number("timeout_ms", "timeout"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message whose retries are spent or that was refused, with the last answer (contract 2.8).

    `response_status` is 0 where there was no answer; `error` then says why.
    """

    dlq_id: str
    message: MessageView
    response_status: int = 0
    response_header: HeaderMap = field(default_factory=dict)
    response_body: bytes = b""
    error: str | None = None

    def to_json(self) -> dict[str, object]:
        """Make the DLQ object of the API: the message's, with more members."""
        return self.message.to_json() | json.write_fields(self, _DEAD_LETTER)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a DLQ object of the API; raises `DecodeError`."""
        return cls(message=MessageView.from_json(members), **json.read_fields(members, _DEAD_LETTER))


_DEAD_LETTER = (
    json.text("dlq_id", "dlqId", required=True),
    json.number("response_status", "responseStatus", always=True),
    json.header_map("response_header", "responseHeader"),
    json.text_or_base64("response_body", "responseBody", "responseBodyBase64"),
    json.text("error", "error"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue as the API shows it (contract 2.6); `ordered` is ours, and true of QStash's queues.

    `lag` counts the messages stored and not finished.
    """

    name: str
    created_at: int
    updated_at: int
    parallelism: int = 1
    paused: bool = False
    lag: int = 0
    ordered: bool = True

    def to_json(self) -> dict[str, object]:
        """Make the queue object of the API; no member is ever left out."""
        return json.write_fields(self, _QUEUE)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a queue object of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _QUEUE))


_QUEUE = (
    json.text("name", "name", required=True),
    json.number("created_at", "createdAt", required=True),
    json.number("updated_at", "updatedAt", required=True),
    json.number("parallelism", "parallelism", required=True),
    json.flag("paused", "paused", required=True),
    json.number("lag", "lag", required=True),
    json.flag("ordered", "ordered", always=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One step in the life of a message (contract 2.9).

    `time` and `next_delivery_time` are Unix milliseconds; `body` and `response_body` are raw here
    and base64 in JSON.
    """

    time: int
    message_id: str
    state: State
    url: str
    header: HeaderMap = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None
    next_delivery_time: int | None = None
    queue_name: str | None = None
    topic_name: str | None = None
    endpoint_name: str | None = None
    schedule_id: str | None = None
    response_status: int | None = None
    response_header: HeaderMap = field(default_factory=dict)
    response_body: bytes = b""
    timeout_ms: int | None = None
    method: str | None = None
    max_retries: int | None = None
    retry_delay_expression: str | None = None
    labels: tuple[str, ...] = ()
    caller_ip: str | None = None
    callback: str | None = None
    callback_header: HeaderMap = field(default_factory=dict)
    failure_callback: str | None = None
    failure_callback_header: HeaderMap = field(default_factory=dict)
    flow_control_key: str | None = None
    rate: int | None = None
    parallelism: int | None = None
    period_s: int | None = None

    def to_json(self) -> dict[str, object]:
        """Make the log entry of the API, with both spellings where clients disagree."""
        return json.write_fields(self, _LOG_ENTRY)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a log entry of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _LOG_ENTRY))


def _write_state(state: State) -> dict[str, object]:
    return {"state": state.value}


def _read_state(members: Mapping[str, object]) -> State | None:
    text = members.get("state")
    try:
        return None if text is None else State.parse(str(text))
    except InvalidValue as error:
        raise DecodeError(str(error), path="state") from error


_LOG_ENTRY = (
    json.number("time", "time", required=True),
    json.text("message_id", "messageId", required=True),
    json.Field("state", _write_state, _read_state, required=True),
    json.text("url", "url", required=True),
    json.header_map("header", "header"),
    json.base64_bytes("body", "body"),
    json.text("error", "error"),
    json.number("next_delivery_time", "nextDeliveryTime"),
    json.text("topic_name", "topicName"),
    json.text("endpoint_name", "endpointName"),
    json.text("schedule_id", "scheduleId"),
    json.text("queue_name", "queueName"),
    json.number("response_status", "responseStatus"),
    json.header_map("response_header", "responseHeaders", "responseHeader"),
    json.base64_bytes("response_body", "responseBody"),
    json.number("timeout_ms", "timeout"),
    json.text("method", "method"),
    json.number("max_retries", "maxRetries"),
    json.text("retry_delay_expression", "retryDelayExpression", "retryDelayExpr"),
    json.labels("labels"),
    json.text("caller_ip", "callerIP", "callerIp"),
    json.text("callback", "callback"),
    json.header_map("callback_header", "callbackHeaders"),
    json.text("failure_callback", "failureCallback"),
    json.header_map("failure_callback_header", "failureCallbackHeaders"),
    json.text("flow_control_key", "flowControlKey"),
    json.number("rate", "rate"),
    json.number("period_s", "period"),
    json.number("parallelism", "parallelism"),
)
