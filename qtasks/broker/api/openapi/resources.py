"""The operations on what outlives messages: queues, schedules, URL groups, flow control, keys, tokens.

The results of tasks and the broker's own health are here too.
"""

from __future__ import annotations

from qtasks.broker.api.openapi import parameters
from qtasks.broker.api.openapi.operation import OK_EMPTY, Operation
from qtasks.broker.api.openapi.schemas import list_of, ref

QUEUES = (
    Operation(
        method="GET",
        route="/v2/queues",
        id="listQueues",
        tag="Queues",
        summary="List all queues",
        answers={200: list_of(ref("Queue"))},
    ),
    Operation(
        method="POST",
        route="/v2/queues",
        id="upsertQueue",
        tag="Queues",
        summary="Make or change a queue",
        answers=OK_EMPTY,
        refusals=(400, 412),
        body="QueueSettings",
        is_body_required=True,
        stores=True,
    ),
    Operation(
        method="GET",
        route="/v2/queues/{queue}",
        id="getQueue",
        tag="Queues",
        summary="Show a queue",
        answers={200: ref("Queue")},
        refusals=(400, 404),
        parameters=("path.queue",),
    ),
    Operation(
        method="DELETE",
        route="/v2/queues/{queue}",
        id="deleteQueue",
        tag="Queues",
        summary="Drop a queue with what waits in it; there being none is no error",
        answers=OK_EMPTY,
        parameters=("path.queue",),
        stores=True,
    ),
    *(
        Operation(
            method="POST",
            route=f"/v2/queues/{{queue}}/{verb}",
            id=f"{verb}Queue",
            tag="Queues",
            summary=summary,
            answers=OK_EMPTY,
            refusals=(400, 404),
            parameters=("path.queue",),
            stores=True,
        )
        for verb, summary in (
            ("pause", "Start nothing more of a queue"),
            ("resume", "Let a paused queue go on"),
        )
    ),
)

SCHEDULES = (
    *(
        Operation(
            method=method,
            route=f"/v2/schedules/{{id}}/{verb}",
            id=f"{verb}Schedule" if method == "POST" else f"{verb}ScheduleBy{method.title()}",
            tag="Schedules",
            summary=summary,
            answers=OK_EMPTY,
            refusals=(400, 404),
            parameters=("path.schedule",),
            stores=True,
        )
        for verb, summary in (
            ("pause", "Fire no more until the schedule is resumed"),
            ("resume", "Let a paused schedule go on with its next fire"),
        )
        for method in ("POST", "PATCH", "PUT")
    ),
    Operation(
        method="POST",
        route="/v2/schedules/{destination...}",
        path="/v2/schedules/{id}",  # as its neighbours have it: OpenAPI knows no two templates of one path
        id="createSchedule",
        tag="Schedules",
        summary="Make a schedule, or replace the one of `Upstash-Schedule-Id`; `Upstash-Cron` is needed",
        answers={200: ref("ScheduleId")},
        refusals=(400, 404, 412),
        parameters=("path.scheduled", *parameters.SCHEDULE),
        body="any",
        stores=True,
    ),
    Operation(
        method="GET",
        route="/v2/schedules",
        id="listSchedules",
        tag="Schedules",
        summary="List all schedules",
        answers={200: list_of(ref("Schedule"))},
    ),
    Operation(
        method="GET",
        route="/v2/schedules/{id}",
        id="getSchedule",
        tag="Schedules",
        summary="Show a schedule",
        answers={200: ref("Schedule")},
        refusals=(400, 404),
        parameters=("path.schedule",),
    ),
    Operation(
        method="DELETE",
        route="/v2/schedules/{id}",
        id="deleteSchedule",
        tag="Schedules",
        summary="Delete a schedule; its messages go on, and there being none is no error",
        answers=OK_EMPTY,
        parameters=("path.schedule",),
        stores=True,
    ),
)

GROUPS = (
    Operation(
        method="GET",
        route="/v2/topics",
        id="listUrlGroups",
        tag="URL groups",
        summary="List all URL groups",
        answers={200: list_of(ref("UrlGroup"))},
    ),
    Operation(
        method="GET",
        route="/v2/topics/{name}",
        id="getUrlGroup",
        tag="URL groups",
        summary="Show a URL group",
        answers={200: ref("UrlGroup")},
        refusals=(400, 404),
        parameters=("path.group",),
    ),
    Operation(
        method="DELETE",
        route="/v2/topics/{name}",
        id="deleteUrlGroup",
        tag="URL groups",
        summary="Delete a URL group; there being none is no error",
        answers=OK_EMPTY,
        parameters=("path.group",),
        stores=True,
    ),
    Operation(
        method="PATCH",
        route="/v2/topics/{name}",
        id="setUrlGroupHeaders",
        tag="URL groups",
        summary="Set the headers that every message to the group has by default",
        answers=OK_EMPTY,
        refusals=(400, 404, 412),
        parameters=("path.group",),
        body="GroupHeaders",
        is_body_required=True,
        stores=True,
    ),
    Operation(
        method="POST",
        route="/v2/topics/{name}/endpoints",
        id="addEndpoints",
        tag="URL groups",
        summary="Add endpoints, or give named ones a new URL; the group is made if it is missing",
        answers=OK_EMPTY,
        refusals=(400, 412),
        parameters=("path.group",),
        body="NewEndpoints",
        is_body_required=True,
        stores=True,
    ),
    Operation(
        method="DELETE",
        route="/v2/topics/{name}/endpoints",
        id="removeEndpoints",
        tag="URL groups",
        summary="Remove endpoints by name or URL; without its last one the group is gone",
        answers=OK_EMPTY,
        refusals=(400, 404, 412),
        parameters=("path.group",),
        body="OldEndpoints",
        is_body_required=True,
        stores=True,
    ),
)

_STEERING = (
    ("pause", "pauseFlow", "Start nothing more of a key, which is made if it is missing", (), (400,)),
    ("resume", "resumeFlow", "Let a paused key go on", (), (400,)),
    (
        "pin",
        "pinFlow",
        "Fix the parallelism or the rate, whatever later messages say; one of them is needed",
        ("query.parallelism", "query.rate", "query.period"),
        (400,),
    ),
    (
        "unpin",
        "unpinFlow",
        "Let the next message decide the parallelism or the rate",
        ("query.free-parallelism", "query.free-rate"),
        (400, 404),
    ),
    ("resetRate", "resetFlowRate", "Begin a new period now, with nothing spent", (), (400, 404)),
    ("reset", "resetFlow", "The same as `resetRate`", (), (400, 404)),
)

FLOW = (
    Operation(
        method="GET",
        route="/v2/flowControl",
        id="listFlows",
        tag="Flow control",
        summary="List the keys that were ever used",
        answers={200: list_of(ref("FlowControl"))},
        parameters=("query.search",),
    ),
    Operation(
        method="GET",
        route="/v2/flowControl/{key...}",
        id="getFlow",
        tag="Flow control",
        summary="Show a key",
        answers={200: ref("FlowControl")},
        refusals=(400, 404),
        parameters=("path.flow",),
    ),
    *(
        Operation(
            method="POST",
            route="/v2/flowControl/{key...}",
            path=f"/v2/flowControl/{{key}}/{verb}",
            id=id_,
            tag="Flow control",
            summary=summary,
            answers=OK_EMPTY,
            refusals=refusals,
            parameters=("path.flow", *queries),
            stores=True,
        )
        for verb, id_, summary, queries, refusals in _STEERING
    ),
    Operation(
        method="GET",
        route="/v2/globalParallelism",
        id="getGlobalParallelism",
        tag="Flow control",
        summary="Say how many deliveries may be in flight in all, and how many are",
        answers={200: ref("GlobalParallelism")},
    ),
)

KEYS = (
    Operation(
        method="GET",
        route="/v2/keys",
        id="getSigningKeys",
        tag="Signing keys",
        summary="Show both signing keys",
        answers={200: ref("SigningKeys")},
        secret=True,
    ),
    *(
        Operation(
            method="POST",
            route=route,
            id=id_,
            tag="Signing keys",
            summary="Sign with the next key from now on, and make a new next one",
            answers={200: ref("SigningKeys")},
        )
        for route, id_ in (("/v2/keys/rotate", "rotateSigningKeys"), ("/v2/rotate", "rotate"))
    ),
)

OURS = (
    Operation(
        method="GET",
        route="/qtasks/v1/results/{id}",
        id="getResult",
        tag="Results",
        summary="Say where a task is or how it ended; of an id that nobody knows, that it is UNKNOWN",
        answers={200: ref("Result")},
        parameters=("path.task", "query.wait"),
        publishes=True,
    ),
    Operation(
        method="DELETE",
        route="/qtasks/v1/results/{id}",
        id="forgetResult",
        tag="Results",
        summary="Drop the value or error that is kept of a task; its state stays known",
        answers={200: ref("Forgotten")},
        parameters=("path.task",),
        publishes=True,
        stores=True,
    ),
    Operation(
        method="POST",
        route="/qtasks/v1/results/query",
        id="queryResults",
        tag="Results",
        summary="Say which of some tasks have finished, or are known to nobody",
        answers={200: ref("Settled")},
        refusals=(400, 412),
        parameters=("query.wait-any",),
        body="ResultQuery",
        is_body_required=True,
        publishes=True,
        reads=True,
    ),
    Operation(
        method="POST",
        route="/qtasks/v1/results/{id}/progress",
        id="reportProgress",
        tag="Results",
        summary="Note how far a task has come that is under way",
        answers=OK_EMPTY,
        refusals=(400, 404, 412),
        parameters=("path.unfinished-task",),
        body="Progress",
        is_body_required=True,
        publishes=True,
        stores=True,
    ),
    Operation(
        method="POST",
        route="/qtasks/v1/tasks/{id}/cancel",
        id="cancelTask",
        tag="Results",
        summary="Call a task off that is under way; of any other, nothing happens",
        answers={200: ref("Cancelled")},
        parameters=("path.unfinished-task",),
        publishes=True,
        stores=True,
    ),
    Operation(
        method="GET",
        route="/qtasks/v1/keys",
        id="keyStatus",
        tag="Signing keys",
        summary="Say by fingerprints which keys there are, when they were rotated, and which has signed",
        answers={200: ref("KeyStatus")},
    ),
    Operation(
        method="GET",
        route="/qtasks/v1/tokens",
        id="listTokens",
        tag="Tokens",
        summary="List the named tokens, without their values",
        answers={200: list_of(ref("Token"))},
        secret=True,
    ),
    Operation(
        method="POST",
        route="/qtasks/v1/tokens",
        id="makeToken",
        tag="Tokens",
        summary="Make a token, whose value only this answer shows",
        answers={201: ref("NewToken")},
        refusals=(400, 412),
        body="TokenSettings",
        is_body_required=True,
        stores=True,
    ),
    Operation(
        method="DELETE",
        route="/qtasks/v1/tokens/{name}",
        id="revokeToken",
        tag="Tokens",
        summary="End a token at once",
        answers=OK_EMPTY,
        refusals=(400, 404),
        parameters=("path.token",),
        stores=True,
    ),
    Operation(
        method="GET",
        route="/livez",
        id="livez",
        tag="Health",
        summary="Say whether the process answers at all",
        answers={200: ref("Up")},
        refusals=(),
        is_open=True,
    ),
    Operation(
        method="GET",
        route="/readyz",
        id="readyz",
        tag="Health",
        summary="Say whether messages are accepted and delivered now",
        answers={200: ref("Up"), 503: {"anyOf": [ref("Down"), ref("Error")]}},
        refusals=(),
        is_open=True,
    ),
    Operation(
        method="GET",
        route="/openapi.json",
        id="openapi",
        tag="Health",
        summary="Describe this API",
        answers={200: ref("Document")},
        refusals=(),
        is_open=True,
    ),
)

OPERATIONS = (*QUEUES, *SCHEDULES, *GROUPS, *FLOW, *KEYS, *OURS)
