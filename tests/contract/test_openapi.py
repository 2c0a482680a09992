"""The broker against its own description: schemathesis asks what the document offers, and checks the answers.

Every operation is asked once as it should be, and succeeds; then it is asked at random, rightly and wrongly,
with every kind of token. What comes back must be what the document says, and nothing else.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, Response

from qtasks.broker.api import Api
from qtasks.broker.api.openapi import parameters
from qtasks.broker.api.openapi.document import OPERATIONS, document
from qtasks.broker.api.openapi.operation import Operation
from qtasks.broker.store.records import Reply
from qtasks.protocol.flow import FLOW_KEY, FLOW_VALUE
from tests.support import FULL
from tests.support.broker import HOOK, Rig
from tests.support.contract import BROKEN, TEXT, Bench, bench_of
from tests.support.homes import TOKEN

Target = schemathesis.APIOperation[Any, Any, Any, Any]
Request = schemathesis.Case[Any]

TOTAL = 3_000 if FULL else 500
AT_RANDOM = TOTAL // len(OPERATIONS)  # each is also asked once rightly

DOCUMENT = document()
CONFIG = {
    # The tokens are ours to choose, so that each answer can be told from whose it was.
    "generation": {"with-security-parameters": False},
    # These ask whether the broker takes exactly what a schema allows, which no schema of a destination, a
    # cron expression or a quota can say; or they make requests of their own.
    "checks": {
        name: {"enabled": False}
        for name in (
            "negative_data_rejection",
            "positive_data_acceptance",
            "missing_required_header",
            "unsupported_method",
            "allow_header_conformance",
            "use_after_free",
            "ensure_resource_availability",
            "ignored_auth",
            "object_level_authorization",
        )
    },
}


def examples(*names: str) -> dict[str, str]:
    """Give headers with the values that the document has as their examples."""
    return {name: str(parameters.HEADERS[name]["example"]) for name in names}


FORWARDED = {
    "Content-Type": "text/plain",
    "Upstash-Forward-A": "b",
    "Upstash-Callback-Forward-A": "b",
    "Upstash-Failure-Callback-Forward-A": "b",
}
# All settings that may stand on a message that is delivered at once; in a queue it can have no flow control.
RICH = FORWARDED | examples(*parameters.ENQUEUE, FLOW_KEY, FLOW_VALUE)
SCHEDULED = FORWARDED | examples(*(each for each in parameters.SCHEDULE if each != "Upstash-Queue-Name"))
RESULT = {"Qtasks-Task-Id": "tsk_done", "Qtasks-Result-TTL": "3600"}

# What a request needs beside the parameters of its path, by the name of its body or its own.
BODIES: dict[str, Any] = {
    "any": "hello",
    "Batch": [
        {"destination": HOOK, "headers": {"Upstash-Retries": "1"}, "body": "one"},
        {"destination": "orders", "queue": "mail"},
    ],
    "MessageFilters": {"label": ["import"]},
    "DeadLetterFilters": {"responseStatus": 404},
    "QueueSettings": {"queueName": "mail", "parallelism": 2, "paused": None},
    "NewEndpoints": {
        "endpoints": [{"url": "https://c.example", "name": "third"}, {"url": "https://d.example"}]
    },
    "OldEndpoints": {"endpoints": [{"name": "billing"}]},
    "GroupHeaders": {"headers": {"Upstash-Retries": "3", "Upstash-Forward-A": ["b"]}},
    "TokenSettings": {"name": "ci", "scope": "full"},
    "ResultQuery": {"ids": ["tsk_waiting", "tsk_done"]},
    "Progress": {"done": 3, "total": 10.5, "note": "Importing"},
}
QUERIES: dict[str, dict[str, Any]] = {"pinFlow": {"parallelism": 2, "rate": 3, "period": "1m"}}
HEADERS: dict[str, dict[str, str]] = {"createSchedule": SCHEDULED}
# What a request at random has all the same, as hardly any would be accepted without.
ALWAYS = {"createSchedule": {"Upstash-Cron": "0 4 * * *"}}


@dataclass(frozen=True)
class Furnished:
    """A broker that has something of everything. `known` are names and ids by the parameter they stand in."""

    api: Api
    known: dict[str, list[str]]
    reader: str


async def furnish(rig: Rig) -> Furnished:
    """Put into a broker whatever its API can show."""
    async with bench_of(rig) as bench:
        rig.clock.advance(minutes=2)  # past the instants that the headers' examples are about
        await bench.group("orders", [{"url": "https://a.example", "name": "billing"}, "https://b.example"])
        await run_schedules(bench)
        rig.deliverer.will(Reply(200, (), b'{"sum": 5}'))
        done = await bench.publish(headers=RESULT)
        await bench.run()
        await bench.die(RESULT | {"Qtasks-Task-Id": "tsk_dead"})
        await bench.die(RICH | {"Upstash-Deduplication-Id": "dead", "Upstash-Retries": "0"})
        rig.deliverer.will(BROKEN)
        retrying = await bench.publish()
        await bench.run()
        await bench.ask("POST", "/v2/queues", json={"queueName": "mail", "paused": True})
        held = await bench.enqueue(body=b"\xfe", headers={"Upstash-Label": "import"})
        waiting = await bench.publish(headers=RICH | examples("Upstash-Delay", "Upstash-Not-Before"))
        await bench.publish(headers=RESULT | {"Qtasks-Task-Id": "tsk_waiting", "Upstash-Delay": "1h"})
        await bench.ask("POST", "/qtasks/v1/results/tsk_waiting/progress", json=BODIES["Progress"])
        letters = await bench.letters()
        tokens = {scope: await make_token(bench, scope) for scope in ("full", "read-only")}
        known = {
            "path.destination": [HOOK, "orders"],
            "path.scheduled": [HOOK, "orders"],
            "path.queue": ["mail"],
            "path.message": [held, waiting, retrying, done, *(each["messageId"] for each in letters)],
            "path.schedule": ["nightly", "ticking", "broken"],
            "path.group": ["orders"],
            "path.flow": [RICH[FLOW_KEY]],
            "path.dead": [each["dlqId"] for each in letters],
            "path.task": ["tsk_done", "tsk_dead"],
            # Asked at random, it would be waited for.
            "path.unfinished-task": ["tsk_waiting"],
            "path.token": ["full"],
        }
        return Furnished(bench.api, known, tokens["read-only"])


async def run_schedules(bench: Bench) -> None:
    """Make schedules that have all settings, that have fired in vain, and that could not fire."""
    await bench.schedule(body="tick", headers=SCHEDULED)
    queued = {"Upstash-Schedule-Id": "ticking", "Upstash-Queue-Name": "mail", "Upstash-Retries": "0"}
    await bench.schedule("orders", b"\xff", queued)
    await bench.group("gone")
    await bench.schedule("gone", headers={"Upstash-Schedule-Id": "broken"})
    await bench.ask("DELETE", "/v2/topics/gone")
    bench.rig.deliverer.will(*[Reply(500, TEXT, b"\xff")] * 2)
    await bench.tick()
    await bench.run()


async def make_token(bench: Bench, scope: str) -> str:
    """Make a token that has its scope for a name; give its value."""
    path, members = "/qtasks/v1/tokens", {"name": scope, "scope": scope}
    return str((await bench.ask("POST", path, status=201, json=members))["token"])


@pytest.fixture
def furnished(tmp_path: Path) -> Iterator[Furnished]:
    rig = Rig(tmp_path)
    yield asyncio.run(furnish(rig))
    rig.database.close()


def described(operation: Operation) -> Target:
    """Find an operation in the document, where nothing may be answered that it does not list."""
    whole = copy.deepcopy(DOCUMENT)
    for schema in whole["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    config = schemathesis.Config.from_dict(CONFIG)
    schema = schemathesis.openapi.from_dict(whole, config=config)
    return schema[operation.template][operation.method]


def places(operation: Operation, known: dict[str, list[str]], turn: int = 0) -> dict[str, Any]:
    """Fill the places in an operation's path with what there is; each `turn` takes others."""
    names = [each for each in operation.parameters if each.startswith("path.")]
    return {parameters.PATHS[each]["name"]: known[each][turn % len(known[each])] for each in names}


def asked_rightly(operation: Operation, target: Target, known: dict[str, list[str]]) -> Request:
    """Make the request that an operation is for."""
    request: dict[str, Any] = {
        "path_parameters": places(operation, known),
        "query": QUERIES.get(operation.id),
        "headers": HEADERS.get(operation.id),
    }
    if operation.body:
        media_type = "text/plain" if operation.body == "any" else "application/json"
        request |= {"body": BODIES[operation.body], "media_type": media_type}
    return target.Case(**request)


def asked_at_random(
    operation: Operation, target: Target, known: dict[str, list[str]]
) -> st.SearchStrategy[Request]:
    """Make requests that the document allows, of what there is and of what there is not, and others."""
    headers = ALWAYS.get(operation.id)
    rightly = [
        target.as_strategy(path_parameters=places(operation, known, turn), headers=headers)
        for turn in range(max(map(len, known.values())))
    ]
    rightly.append(target.as_strategy())
    if not operation.parameters and not operation.body:
        return st.one_of(rightly)  # nothing can be wrong with it
    return st.one_of(st.one_of(rightly), target.as_strategy(generation_mode=GenerationMode.NEGATIVE))


def answer_to(case: Request, furnished: Furnished, bearer: str = "owner") -> Response:
    """Send a request in somebody's name, and hold the answer to the document."""
    tokens = {"owner": TOKEN, "reader": furnished.reader, "stranger": "wrong"}
    headers = {"Authorization": f"Bearer {tokens[bearer]}"} if bearer in tokens else {}
    params = {"qstash_token": TOKEN} if bearer == "sender" else {}
    answer = case.call(app=furnished.api, headers=headers, params=params)
    case.validate_response(answer)
    return answer


@pytest.mark.parametrize("strict", [False, True])
def test_the_document_is_openapi(strict: bool) -> None:
    schemathesis.openapi.from_dict(document(strict=strict)).validate()


def shown(furnished: Furnished, id_: str, *ids: str) -> list[Any]:
    """Give what an operation answers, for each of the ids in its path."""
    [operation] = [each for each in OPERATIONS if each.id == id_]
    target = described(operation)
    cases = [target.Case(path_parameters={"id": each}) for each in ids] or [target.Case()]
    return [orjson.loads(answer_to(case, furnished).content) for case in cases]


def test_nothing_is_described_that_is_never_shown(furnished: Furnished) -> None:
    [dead], [log], [schedules] = (
        shown(furnished, f"list{each}") for each in ("DeadLetters", "Events", "Schedules")
    )
    found = {
        "Message": shown(furnished, "getMessage", *furnished.known["path.message"]),
        "Result": shown(furnished, "getResult", *furnished.known["path.task"], "tsk_waiting"),
        "DeadLetter": dead["messages"],
        "LogEntry": log["events"],
        "Schedule": schedules,
    }

    missing = {
        name: DOCUMENT["components"]["schemas"][name]["properties"].keys()
        - {key for each in rows for key in each}
        for name, rows in found.items()
    }

    assert missing == {name: set() for name in found}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_every_operation_can_be_asked_as_it_is_described(furnished: Furnished, operation: Operation) -> None:
    case = asked_rightly(operation, described(operation), furnished.known)

    answer = answer_to(case, furnished)

    assert answer.status_code in (200, 201), answer.content


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_whatever_is_asked_is_answered_as_described(furnished: Furnished, operation: Operation) -> None:
    cases = asked_at_random(operation, described(operation), furnished.known)
    bearers = st.sampled_from(("owner",) * 6 + ("sender", "reader", "stranger", "nobody"))

    @settings(
        max_examples=AT_RANDOM,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(cases, bearers)
    def asking(case: Request, bearer: str) -> None:
        answer = answer_to(case, furnished, bearer)
        if operation.is_open:
            return
        if bearer in ("stranger", "nobody"):
            assert answer.status_code == 401
        elif bearer == "reader" and operation.needs_full:
            assert answer.status_code == 403
        else:
            assert answer.status_code not in (401, 403)

    asking()
