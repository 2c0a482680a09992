"""`GET /openapi.json`: that it describes all there is and nothing else. How true it is, schemathesis asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx
import orjson
import pytest

from qtasks.broker.api import ROUTES
from qtasks.broker.api.openapi import parameters
from qtasks.broker.api.openapi.document import OPERATIONS, document
from qtasks.broker.api.openapi.schemas import schema_of
from qtasks.protocol.flow import FLOW_KEY, FLOW_VALUE
from qtasks.protocol.headers import CALLBACKS, ROWS
from qtasks.protocol.shapes import DeadLetter, MessageView
from tests.broker.api.conftest import client_of
from tests.broker.conftest import MakeRig
from tests.support.broker import HOOK, Rig

DOCUMENT = document()
STRICT = document(strict=True)
FILLED = {"destination": HOOK, "queue": "mail", "key": "tenant", "name": "orders", "id": "none"}


def operations(whole: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give the method, the path and the description of each operation."""
    for path, methods in whole["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


def statuses(described: dict[str, Any]) -> set[int]:
    return {int(each) for each in described["responses"]}


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["$ref"]] if "$ref" in part else []
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


ASKED = [
    (method, re.sub(r"\{(\w+)\}", lambda found: FILLED[found[1]], path), described)
    for method, path, described in operations(DOCUMENT)
]
IDS = [described["operationId"] for _, _, described in ASKED]


# --- what is described ----------------------------------------------------------------------------


def test_every_route_is_described_and_nothing_else() -> None:
    described = {(each.method, each.route) for each in OPERATIONS}

    assert described == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_who_may_call_an_operation_is_described_as_its_route_has_it(operation: Any) -> None:
    [route] = [each for each in ROUTES if (each.method, each.path) == (operation.method, operation.route)]

    marks = (operation.is_open, operation.needs_full, operation.publishes, operation.is_extra)

    assert marks == (route.is_open, route.needs_full and not route.is_open, route.publishes, route.extra)


def test_a_strict_broker_describes_the_routes_that_it_has() -> None:
    described = {(method, path) for method, path, _ in operations(STRICT)}

    assert described == {(each.method, each.template) for each in OPERATIONS if not each.is_extra}
    assert not any(path.startswith("/qtasks/") for _, path in described)


def test_a_strict_broker_describes_nothing_of_ours() -> None:
    assert b"Qtasks-" not in orjson.dumps(STRICT)
    assert b"Qtasks-" in orjson.dumps(DOCUMENT)
    assert not [path for _, path, described in operations(STRICT) if 507 in statuses(described)]
    assert "Full" not in STRICT["components"]["responses"]
    assert "Result" not in STRICT["components"]["schemas"]


def test_every_setting_of_a_message_is_described() -> None:
    known = {row.header for row in ROWS} | {header for header, _ in CALLBACKS} | {FLOW_KEY, FLOW_VALUE}

    # The content type belongs to the body.
    assert known - parameters.HEADERS.keys() == {"Content-Type"}
    assert parameters.HEADERS.keys() - known == {"Upstash-Header-Forward"}


@pytest.mark.parametrize("whole", [DOCUMENT, STRICT], ids=["lenient", "strict"])
def test_all_that_is_referred_to_is_there(whole: dict[str, Any]) -> None:
    for each in references(whole):
        _, _, kind, name = each.split("/")
        assert name in whole["components"][kind], each


def test_operations_have_names_of_their_own() -> None:
    assert len(IDS) == len(set(IDS)) == len(OPERATIONS)


@pytest.mark.parametrize(("method", "path", "described"), list(operations(DOCUMENT)), ids=IDS)
def test_the_places_in_a_path_are_its_parameters(method: str, path: str, described: dict[str, Any]) -> None:
    named = [each["$ref"].rpartition("/")[2] for each in described.get("parameters", [])]

    found = [DOCUMENT["components"]["parameters"][each] for each in named]

    in_path = [each["name"] for each in found if each["in"] == "path"]
    assert in_path == re.findall(r"\{(\w+)\}", path)
    assert len(named) == len(set(named))


# --- that it is true ------------------------------------------------------------------------------


async def test_it_is_told_to_anybody(rig: Rig) -> None:
    async with client_of(rig, Accept="*/*") as client:
        answer = await client.get("/openapi.json")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json() == DOCUMENT


async def test_a_strict_broker_tells_what_it_has_itself(make_rig: MakeRig) -> None:
    async with client_of(make_rig(strict=True)) as client:
        answer = await client.get("/openapi.json")

    assert answer.json() == STRICT


@pytest.mark.parametrize("path", DOCUMENT["paths"])
async def test_another_method_is_refused_with_those_that_are_described(
    client: httpx.AsyncClient, path: str
) -> None:
    described = {method for method, each, _ in operations(DOCUMENT) if each == path}

    answer = await client.request("TRACE", re.sub(r"\{(\w+)\}", lambda found: FILLED[found[1]], path))

    # A path may be another's too: what follows `/v2/flowControl/` may be a key to look at.
    assert answer.status_code == 405
    assert described <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize(("method", "path", "described"), ASKED, ids=IDS)
async def test_the_limit_on_requests_holds_where_it_is_described(
    make_rig: MakeRig, method: str, path: str, described: dict[str, Any]
) -> None:
    async with client_of(make_rig(burst_limit=0)) as client:
        answer = await client.request(method, path)

    assert (answer.status_code == 429) == (429 in statuses(described))
    if answer.status_code == 429:
        for name in DOCUMENT["components"]["responses"]["TooManyRequests"]["headers"]:
            assert answer.headers[name].isdecimal()


@pytest.mark.parametrize(
    ("method", "path", "described"),
    # Its quota is that on retries, and is judged after the dead letter has been found.
    [each for each in ASKED if each[2]["operationId"] != "retryDeadLetter"],
    ids=[each for each in IDS if each != "retryDeadLetter"],
)
async def test_a_body_may_be_too_large_where_it_is_described(
    client: httpx.AsyncClient, method: str, path: str, described: dict[str, Any]
) -> None:
    answer = await client.request(method, path, headers={"Content-Length": str(10**12)})

    assert (answer.status_code == 412) == (412 in statuses(described))


@pytest.mark.parametrize("name", parameters.PUBLISH)
async def test_the_example_of_every_header_is_accepted(client: httpx.AsyncClient, name: str) -> None:
    headers = {name: str(parameters.HEADERS[name]["example"])}
    if name in (FLOW_KEY, FLOW_VALUE):
        headers = {each: parameters.HEADERS[each]["example"] for each in (FLOW_KEY, FLOW_VALUE)}
    elif name not in parameters.ENQUEUE and "Only with" in parameters.HEADERS[name]["description"]:
        headers["Upstash-Cron"] = "0 4 * * *"
    elif name == "Qtasks-Unique":
        headers["Upstash-Deduplication-Id"] = "order-7"

    answer = await client.post(f"/v2/publish/{HOOK}", headers=headers)

    assert answer.status_code == 200, answer.text


# --- how schemas are found ------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    name: str
    colour: Colour = Colour.RED
    sides: int | None = None
    made_at: int
    wait_ms: int = 0
    tags: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        written: dict[str, object] = {"name": self.name, "colour": self.colour, "madeAt": self.made_at}
        for key, value in (("sides", self.sides), ("wait", self.wait_ms), ("tags", self.tags)):
            if value:
                written[key] = value
        return written


def test_a_schema_is_what_the_shape_writes() -> None:
    assert schema_of(Shape) == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "colour": {"type": "string"},
            "sides": {"type": "integer"},
            "madeAt": {"type": "integer", "description": "Unix milliseconds"},
            "wait": {"type": "integer", "description": "milliseconds"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "colour", "madeAt"],
    }


def test_what_is_known_of_a_member_goes_before_what_it_looks_like() -> None:
    colour = {"type": "string", "enum": list(Colour)}

    assert schema_of(Shape, colour=colour)["properties"]["colour"] == colour


def test_a_message_is_described_with_all_its_spellings() -> None:
    message = schema_of(MessageView)

    assert message["required"] == [
        "messageId", "url", "method", "header", "maxRetries", "notBefore", "createdAt",
    ]  # fmt: skip
    assert {"callerIP", "callerIp", "label", "labels", "body", "bodyBase64"} <= message["properties"].keys()
    assert message["properties"]["bodyBase64"] == {"type": "string", "contentEncoding": "base64"}
    assert message["properties"]["timeout"] == {"type": "integer", "description": "milliseconds"}


def test_a_dead_letter_is_described_as_a_message_and_more() -> None:
    message, letter = schema_of(MessageView), schema_of(DeadLetter)

    assert message["properties"].items() <= letter["properties"].items()
    assert set(letter["required"]) == {*message["required"], "dlqId", "responseStatus"}
