"""The named schemas of the document: those of the shapes, and what goes in or comes out without one."""

from __future__ import annotations

from qtasks.broker.api import dead_letters, filters, messages
from qtasks.broker.api.openapi.schemas import Json, list_of, members, ref, schema_of
from qtasks.broker.tokens import Scope
from qtasks.protocol.resources import Endpoint, FlowControlView, RunState, ScheduleView, UrlGroup
from qtasks.protocol.results import FINAL_STATES, MOST_IDS, ProgressReport, ResultView
from qtasks.protocol.shapes import DeadLetter, Enqueued, LogEntry, MessageView, QueueView, State

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
_GIVEN: Json = {"type": "string", "minLength": 1}
URL: Json = {"type": "string", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"}
NAME: Json = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
AMOUNT: Json = {"type": "number"}
INSTANT: Json = {"type": "integer", "description": "Unix milliseconds"}
DEAD_CURSOR = "^[0-9]{1,18}-[0-9]{1,18}$"
CURSOR: Json = {"type": "string", "description": "where the next page begins; absent after the last"}
HEADERS: Json = {
    "type": "object",
    "description": "a value, or a list of values, for each header",
    "additionalProperties": {"anyOf": [TEXT, list_of(TEXT)]},
}
_WORD: Json = {"type": ["string", "integer"], "minLength": 1, "minimum": -(2**63), "maximum": 2**63 - 1}
_STATUS: Json = {"type": ["integer", "string"], "minimum": 0, "maximum": 999, "pattern": "^[0-9]{1,3}$"}
_DATE: Json = {"type": ["integer", "string"], "minimum": 0, "maximum": 10**15 - 1, "pattern": "^[0-9]{1,15}$"}
_SINGLE: dict[str, Json] = {
    **dict.fromkeys(filters.DATES, _DATE),
    "count": {"type": "integer", "minimum": 1, "maximum": 10**9 - 1},
    "cursor": {"type": "string", "pattern": DEAD_CURSOR},
}
LOGGED = [each.value for each in State if each is not State.IN_PROGRESS]
RESULT_STATES = ["UNKNOWN", "SCHEDULED", "QUEUED", "RUNNING", "RETRYING", *sorted(FINAL_STATES)]

SHAPES: dict[str, Json] = {
    "Enqueued": schema_of(Enqueued),
    "Message": schema_of(MessageView),
    "DeadLetter": schema_of(DeadLetter),
    "LogEntry": schema_of(LogEntry, state={"type": "string", "enum": LOGGED}),
    "Queue": schema_of(QueueView),
    "Schedule": schema_of(
        ScheduleView,
        lastScheduleStates={
            "type": "object",
            "description": "what became of the messages of the last run, by their ids",
            "additionalProperties": {"type": "string", "enum": list(RunState)},
        },
    ),
    "Endpoint": schema_of(Endpoint),
    "UrlGroup": schema_of(UrlGroup, endpoints=list_of(ref("Endpoint"))),
    "FlowControl": schema_of(FlowControlView),
    "Result": schema_of(
        ResultView,
        omit=("value", "error", "progress"),
        state={"type": "string", "enum": RESULT_STATES},
        result={"description": "what the task returned; absent where no result is kept"},
        error={
            "description": "why the task failed: an object with `type`, `message` and `traceback`; or what "
            "stood under `error` in the answer of a destination that is none of ours"
        },
        progress=schema_of(ProgressReport),
    ),
}

ANSWERS: dict[str, Json] = {
    "Error": members({"error": {"type": "string", "description": "what was wrong, and what to do"}}),
    "EnqueuedMany": {**list_of(ref("Enqueued")), "description": "of a URL group: one for each endpoint"},
    "ScheduleId": members({"scheduleId": TEXT}),
    "Cancelled": members({"cancelled": COUNT}),
    "Forgotten": members({"forgotten": COUNT}),
    "Settled": members({"settled": {**list_of(TEXT), "description": "ids of tasks"}}),
    "MessagePage": members({"messages": list_of(ref("DeadLetter")), "cursor": CURSOR}, "cursor"),
    "Deleted": members({"deleted": COUNT, "cursor": CURSOR}, "cursor"),
    "Replayed": members({"responses": list_of(ref("Enqueued")), "cursor": CURSOR}, "cursor"),
    "LogPage": members({"logs": list_of(ref("LogEntry")), "cursor": CURSOR}, "cursor"),
    "EventPage": members({"events": list_of(ref("LogEntry")), "cursor": CURSOR}, "cursor"),
    "GlobalParallelism": members({"parallelismMax": COUNT, "parallelismCount": COUNT}),
    "SigningKeys": members({"current": TEXT, "next": TEXT}),
    "KeyStatus": members(
        {
            "current": TEXT,
            "next": TEXT,
            "canRotate": {"type": "boolean"},
            "rotatedAt": INSTANT,
            "signed": list_of(members({"key": TEXT, "attempts": {"type": "integer"}, "lastAt": INSTANT})),
        },
        "rotatedAt",
    ),
    "Token": members({"name": TEXT, "scope": {"type": "string", "enum": list(Scope)}, "createdAt": INSTANT}),
    "NewToken": members(
        {
            "name": TEXT,
            "scope": {"type": "string", "enum": list(Scope)},
            "createdAt": INSTANT,
            "token": {"type": "string", "description": "the token itself, which is shown only here"},
        }
    ),
    "Up": members({"status": {"const": "ok"}}),
    "Ready": members({"status": {"const": "ok"}, "risks": {"type": "array", "items": TEXT}}, "risks"),
    "Down": members({"status": {"const": "unavailable"}, "error": TEXT}),
    "Document": {"type": "object", "description": "this document"},
}


def _open(schema: Json) -> Json:
    """Let an object have members that mean nothing."""
    return schema | {"additionalProperties": True}


def _filters(known: tuple[str, ...]) -> Json:
    """Describe the body of a bulk operation: the filters that its query takes as well."""
    found: dict[str, Json] = {}
    for name in known:
        if name in _SINGLE:
            found[name] = _SINGLE[name]
        else:
            one = _STATUS if name == "responseStatus" else _WORD
            may_be_empty = name.lower() in filters.MAY_BE_EMPTY
            found[name] = {"anyOf": [one, {**list_of(one), "minItems": 0 if may_be_empty else 1}]}
    return {"type": "object", "properties": found, "additionalProperties": False}


REQUESTS: dict[str, Json] = {
    "BatchItem": _open(
        members(
            {
                "destination": {"type": "string", "examples": ["https://app.example/hook"]},
                "headers": HEADERS,
                "body": {"type": ["string", "null"]},
                "queue": {
                    "type": ["string", "null"],
                    "pattern": "^[A-Za-z0-9._-]{0,128}$",
                    "description": "enqueue; if there is none, publish",
                },
            },
            "headers",
            "body",
            "queue",
        )
    ),
    "Batch": list_of(ref("BatchItem")),
    "MessageFilters": _filters(("count", messages.TASK, *filters.NAMES)),
    "DeadLetterFilters": _filters(dead_letters.KNOWN),
    "QueueSettings": {
        **members(
            {
                "queueName": NAME,
                "parallelism": {"type": "integer", "minimum": 1, "default": 1},
                "paused": {"type": ["boolean", "null"], "description": "absent: as it is"},
            },
            "parallelism",
            "paused",
        ),
        "additionalProperties": False,
    },
    "NewEndpoints": _open(members({"endpoints": {**list_of(ref("NewEndpoint")), "minItems": 1}})),
    "NewEndpoint": _open(members({"url": URL, "name": {"type": ["string", "null"]}}, "name")),
    "OldEndpoints": _open(members({"endpoints": {**list_of(ref("OldEndpoint")), "minItems": 1}})),
    "OldEndpoint": {
        "description": "a url, a name, or both, which must then both match",
        "anyOf": [
            _open(members({"url": _GIVEN, "name": {"type": ["string", "null"]}}, "name")),
            _open(members({"name": _GIVEN, "url": {"type": ["string", "null"]}}, "url")),
        ],
    },
    "GroupHeaders": _open(members({"headers": HEADERS})),
    "ResultQuery": _open(members({"ids": {**list_of(TEXT), "maxItems": MOST_IDS}})),
    "Progress": _open(
        members(
            {
                "done": AMOUNT,
                "total": {"type": ["number", "null"], "description": "absent: not known"},
                "note": {
                    "type": ["string", "null"],
                    "description": "what it is about; cut off if long",
                },
            },
            "total",
            "note",
        )
    ),
    "TokenSettings": _open(
        members(
            {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
                "scope": {"enum": [*Scope, "", None], "default": Scope.FULL.value},
            },
            "scope",
        )
    ),
}

SCHEMAS: dict[str, Json] = SHAPES | ANSWERS | REQUESTS
