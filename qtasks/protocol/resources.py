"""What outlives single messages, as the API shows it: schedules, URL groups and flow-control keys.

Messages, their log and the queues are in `shapes`; keys and their oddities are the contract's (2.5,
2.7, 2.10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from qtasks.errors import DecodeError
from qtasks.protocol import json_fields as json
from qtasks.protocol.shapes import HeaderMap


class RunState(StrEnum):
    """What became of a message that a schedule made."""

    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """A schedule as the API shows it (contract 2.7).

    `created_at` and the schedule times are Unix milliseconds; `delay_s`, `timeout_s` and `period_s`
    are seconds. `last_schedule_states` tells of each message of the last run; `error` says why there
    are none.
    """

    schedule_id: str
    cron: str
    destination: str
    created_at: int
    method: str = "POST"
    header: HeaderMap = field(default_factory=dict)
    body: bytes = b""
    retries: int
    delay_s: int | None = None
    timeout_s: int | None = None
    is_paused: bool = False
    caller_ip: str | None = None
    callback: str | None = None
    callback_header: HeaderMap = field(default_factory=dict)
    failure_callback: str | None = None
    failure_callback_header: HeaderMap = field(default_factory=dict)
    queue_name: str | None = None
    flow_control_key: str | None = None
    rate: int | None = None
    parallelism: int | None = None
    period_s: int | None = None
    retry_delay_expression: str | None = None
    labels: tuple[str, ...] = ()
    last_schedule_time: int | None = None
    next_schedule_time: int | None = None
    last_schedule_states: Mapping[str, RunState] = field(default_factory=dict)
    error: str | None = None

    def to_json(self) -> dict[str, object]:
        """Make the schedule object of the API."""
        return json.write_fields(self, _SCHEDULE)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a schedule object of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _SCHEDULE))


def _write_states(states: Mapping[str, RunState]) -> dict[str, object]:
    if not states:
        return {}
    return {"lastScheduleStates": {message: state.value for message, state in states.items()}}


def _read_states(members: Mapping[str, object]) -> Mapping[str, RunState] | None:
    states = members.get("lastScheduleStates")
    if states is None:
        return None
    if not isinstance(states, dict):
        raise DecodeError(f"lastScheduleStates is {states!r:.100}, no object", path="lastScheduleStates")
    try:
        return {message: RunState(state) for message, state in states.items()}
    except ValueError as error:
        raise DecodeError(f"lastScheduleStates: {error}", path="lastScheduleStates") from error


_SCHEDULE = (
    json.text("schedule_id", "scheduleId", required=True),
    json.text("cron", "cron", required=True),
    json.text("destination", "destination", required=True),
    json.number("created_at", "createdAt", required=True),
    json.text("method", "method", required=True),
    json.header_map("header", "header", always=True),
    json.text_or_base64("body", "body", "bodyBase64"),
    json.number("retries", "retries", required=True),
    json.number("delay_s", "delay"),
    json.number("timeout_s", "timeout"),
    json.flag("is_paused", "isPaused", required=True),
    json.text("caller_ip", "callerIp", "callerIP"),
    json.text("callback", "callback"),
    json.header_map("callback_header", "callbackHeader"),
    json.text("failure_callback", "failureCallback"),
    json.header_map("failure_callback_header", "failureCallbackHeader"),
    json.text("queue_name", "queueName"),
    json.text("flow_control_key", "flowControlKey"),
    json.number("rate", "rate"),
    json.number("period_s", "period"),
    json.number("parallelism", "parallelism"),
    json.text("retry_delay_expression", "retryDelayExpression"),
    json.labels("labels"),
    json.number("last_schedule_time", "lastScheduleTime"),
    json.number("next_schedule_time", "nextScheduleTime"),
    json.Field("last_schedule_states", _write_states, _read_states),
    json.text("error", "error"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One receiver of a URL group; clients compare its JSON wholly, so no name is no member."""

    url: str
    name: str | None = None

    def to_json(self) -> dict[str, object]:
        """Make the endpoint object of the API."""
        return json.write_fields(self, _ENDPOINT)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read an endpoint object of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _ENDPOINT))


_ENDPOINT = (json.text("name", "name"), json.text("url", "url", required=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlGroup:
    """A URL group as the API shows it (contract 2.5), its endpoints in the order they came in."""

    name: str
    created_at: int
    updated_at: int
    endpoints: tuple[Endpoint, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Make the group object of the API; no member is ever left out."""
        return json.write_fields(self, _URL_GROUP)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a group object of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _URL_GROUP))


def _write_endpoints(endpoints: tuple[Endpoint, ...]) -> dict[str, object]:
    return {"endpoints": [each.to_json() for each in endpoints]}


def _read_endpoints(members: Mapping[str, object]) -> tuple[Endpoint, ...] | None:
    endpoints = members.get("endpoints")
    if endpoints is None:
        return None
    if not isinstance(endpoints, list) or not all(isinstance(each, dict) for each in endpoints):
        raise DecodeError(f"endpoints is {endpoints!r:.100}, not a list of objects", path="endpoints")
    return tuple(Endpoint.from_json(each) for each in endpoints)


_URL_GROUP = (
    json.text("name", "name", required=True),
    json.number("created_at", "createdAt", required=True),
    json.number("updated_at", "updatedAt", required=True),
    json.Field("endpoints", _write_endpoints, _read_endpoints),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowControlView:
    """A flow-control key as the API shows it (contract 2.10), 0 where there is no limit.

    `rate_period_s` is in seconds and `rate_period_start_s` in Unix seconds, unlike every other instant.
    """

    key: str
    wait_list_size: int = 0
    parallelism_max: int = 0
    parallelism_count: int = 0
    rate_max: int = 0
    rate_count: int = 0
    rate_period_s: int = 1
    rate_period_start_s: int = 0
    is_pinned_parallelism: bool = False
    is_pinned_rate: bool = False
    is_paused: bool = False

    def to_json(self) -> dict[str, object]:
        """Make the flow-control object of the API; no member is ever left out."""
        return json.write_fields(self, _FLOW_CONTROL)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read a flow-control object of the API; raises `DecodeError`."""
        return cls(**json.read_fields(members, _FLOW_CONTROL))


_FLOW_CONTROL = (
    json.text("key", "flowControlKey", required=True),
    json.number("wait_list_size", "waitListSize"),
    json.number("parallelism_max", "parallelismMax"),
    json.number("parallelism_count", "parallelismCount"),
    json.number("rate_max", "rateMax"),
    json.number("rate_count", "rateCount"),
    json.number("rate_period_s", "ratePeriod"),
    json.number("rate_period_start_s", "ratePeriodStart"),
    json.flag("is_pinned_parallelism", "isPinnedParallelism", always=True),
    json.flag("is_pinned_rate", "isPinnedRate", always=True),
    json.flag("is_paused", "isPaused", always=True),
)
