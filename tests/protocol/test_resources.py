"""Schedules, URL groups and flow-control keys as the API shows them (contract 2.5, 2.7, 2.10, appendix A)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import DecodeError
from qtasks.protocol.resources import Endpoint, FlowControlView, RunState, ScheduleView, UrlGroup

NIGHTLY = ScheduleView(
    schedule_id="nightly",
    cron="CRON_TZ=Europe/Berlin 0 4 * * *",
    destination="orders",
    created_at=1_754_000_000_000,
    header={"Content-Type": ("application/json",)},
    body=b"{}",
    retries=3,
    delay_s=10,
    caller_ip="203.0.113.7",
    next_schedule_time=1_754_013_600_000,
)
NIGHTLY_JSON = {
    "scheduleId": "nightly",
    "cron": "CRON_TZ=Europe/Berlin 0 4 * * *",
    "destination": "orders",
    "createdAt": 1_754_000_000_000,
    "method": "POST",
    "header": {"Content-Type": ["application/json"]},
    "body": "{}",
    "retries": 3,
    "delay": 10,
    "isPaused": False,
    "callerIp": "203.0.113.7",
    "callerIP": "203.0.113.7",
    "nextScheduleTime": 1_754_013_600_000,
}
FULL_SCHEDULE = replace(
    NIGHTLY,
    method="PUT",
    timeout_s=90,
    is_paused=True,
    callback="https://c",
    callback_header={"A": ("1",)},
    failure_callback="https://f",
    failure_callback_header={"B": ("2",)},
    queue_name="mail",
    flow_control_key="k",
    rate=1,
    parallelism=2,
    period_s=60,
    retry_delay_expression="1000",
    labels=("import", "night"),
    last_schedule_time=1_753_927_200_000,
    last_schedule_states={"msg_a": RunState.SUCCESS, "msg_b": RunState.IN_PROGRESS},
    error="topic orders not found",
)
FULL_SCHEDULE_JSON = NIGHTLY_JSON | {
    "method": "PUT",
    "timeout": 90,
    "isPaused": True,
    "callback": "https://c",
    "callbackHeader": {"A": ["1"]},
    "failureCallback": "https://f",
    "failureCallbackHeader": {"B": ["2"]},
    "queueName": "mail",
    "flowControlKey": "k",
    "rate": 1,
    "parallelism": 2,
    "period": 60,
    "retryDelayExpression": "1000",
    "label": "import",
    "labels": ["import", "night"],
    "lastScheduleTime": 1_753_927_200_000,
    "lastScheduleStates": {"msg_a": "SUCCESS", "msg_b": "IN_PROGRESS"},
    "error": "topic orders not found",
}
GROUP = UrlGroup(
    name="orders",
    created_at=1_754_000_000_000,
    updated_at=1_754_000_000_000,
    endpoints=(Endpoint("https://a.example", name="billing"), Endpoint("https://b.example")),
)
GROUP_JSON = {
    "name": "orders",
    "createdAt": 1_754_000_000_000,
    "updatedAt": 1_754_000_000_000,
    "endpoints": [{"name": "billing", "url": "https://a.example"}, {"url": "https://b.example"}],
}
FLOW = FlowControlView(
    key="tenant-42",
    parallelism_max=2,
    rate_max=10,
    rate_count=1,
    rate_period_s=60,
    rate_period_start_s=1_754_000_000,
)
FLOW_JSON = {
    "flowControlKey": "tenant-42",
    "waitListSize": 0,
    "parallelismMax": 2,
    "parallelismCount": 0,
    "rateMax": 10,
    "rateCount": 1,
    "ratePeriod": 60,
    "ratePeriodStart": 1_754_000_000,
    "isPinnedParallelism": False,
    "isPinnedRate": False,
    "isPaused": False,
}

Resource = ScheduleView | UrlGroup | Endpoint | FlowControlView
SAMPLES: list[tuple[Resource, dict[str, object]]] = [
    (NIGHTLY, NIGHTLY_JSON),
    (FULL_SCHEDULE, FULL_SCHEDULE_JSON),
    (GROUP, GROUP_JSON),
    (Endpoint("https://a.example"), {"url": "https://a.example"}),
    (FLOW, FLOW_JSON),
]


@pytest.mark.parametrize(("resource", "members"), SAMPLES)
def test_a_resource_is_the_json_of_the_contract_both_ways(
    resource: Resource, members: dict[str, object]
) -> None:
    assert orjson.loads(orjson.dumps(resource.to_json())) == members
    assert type(resource).from_json(members) == resource


def test_the_full_schedule_leaves_no_attribute_out() -> None:
    for each in fields(FULL_SCHEDULE):
        assert getattr(FULL_SCHEDULE, each.name), each.name


def test_a_schedule_has_no_body_member_without_a_body() -> None:
    members = replace(NIGHTLY, body=b"").to_json()

    assert not {"body", "bodyBase64"} & members.keys()


def test_a_group_shows_that_it_has_no_endpoints() -> None:
    group = UrlGroup(name="g", created_at=1, updated_at=2)

    assert group.to_json() == {"name": "g", "createdAt": 1, "updatedAt": 2, "endpoints": []}
    assert UrlGroup.from_json(group.to_json()) == group


def test_a_flow_control_key_shows_its_zeros() -> None:
    assert FlowControlView(key="k").to_json().keys() == FLOW_JSON.keys()


@pytest.mark.parametrize("key", ["callerIp", "callerIP"])
def test_either_spelling_of_the_caller_is_read(key: str) -> None:
    members = NIGHTLY_JSON | {"callerIp": None, "callerIP": None, key: "203.0.113.7"}

    assert ScheduleView.from_json(members) == NIGHTLY


@pytest.mark.parametrize(
    ("read", "members", "path"),
    [
        (ScheduleView.from_json, NIGHTLY_JSON | {"retries": None}, "retries"),
        (ScheduleView.from_json, NIGHTLY_JSON | {"isPaused": 0}, "isPaused"),
        (ScheduleView.from_json, NIGHTLY_JSON | {"lastScheduleStates": []}, "lastScheduleStates"),
        (ScheduleView.from_json, NIGHTLY_JSON | {"lastScheduleStates": {"m": "DONE"}}, "lastScheduleStates"),
        (ScheduleView.from_json, NIGHTLY_JSON | {"lastScheduleStates": {"m": []}}, "lastScheduleStates"),
        (UrlGroup.from_json, GROUP_JSON | {"endpoints": {}}, "endpoints"),
        (UrlGroup.from_json, GROUP_JSON | {"endpoints": ["https://a"]}, "endpoints"),
        (UrlGroup.from_json, GROUP_JSON | {"endpoints": [{"name": "a"}]}, "url"),
        (FlowControlView.from_json, FLOW_JSON | {"flowControlKey": None}, "key"),
        (FlowControlView.from_json, FLOW_JSON | {"rateMax": "1"}, "rateMax"),
    ],
)
def test_members_of_another_type_are_refused_by_name(
    read: Callable[[dict[str, object]], Resource], members: dict[str, object], path: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        read(members)

    assert caught.value.path == path
    assert path in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.data(), st.sampled_from(SAMPLES))
def test_whatever_an_answer_holds_only_a_decode_error_comes_of_it(
    data: st.DataObject, sample: tuple[Resource, dict[str, Any]]
) -> None:
    resource, members = sample
    key = data.draw(st.sampled_from(sorted(members)))

    try:
        read = type(resource).from_json(members | {key: data.draw(JSON)})
    except DecodeError:
        return

    assert type(read) is type(resource)
