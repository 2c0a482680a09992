"""The parameters of the document: headers that set up a message, segments of paths, queries.

The headers are those of `protocol.headers.ROWS`; here each gets a schema and a sentence.
"""

from __future__ import annotations

from qtasks.broker.api import filters, messages
from qtasks.broker.api.flow_control import MOST
from qtasks.broker.api.openapi.bodies import DEAD_CURSOR, LOGGED, NAME, URL
from qtasks.broker.api.openapi.schemas import Json, list_of
from qtasks.protocol.flow import FLOW_KEY, FLOW_VALUE, MAX_FLOW_KEY_BYTES
from qtasks.protocol.header_values import (
    CATCH_UP,
    MAX_DEDUP_ID_BYTES,
    MAX_KIND_BYTES,
    METHODS,
    MOST_IN_BATCH,
    OVERLAP,
    UNIQUE,
)
from qtasks.protocol.headers import ROWS
from qtasks.protocol.shapes import State

_MOST = 10**15 - 1
_WHOLE: Json = {"type": "integer", "minimum": 0, "maximum": _MOST}
_SECONDS: Json = {**_WHOLE, "description": "seconds"}
_LIMIT: Json = {"type": "integer", "minimum": 1, "maximum": MOST}
_FLAG: Json = {"type": "string", "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$"}
_DURATION: Json = {
    "type": "string",
    "pattern": r"^([0-9]{1,12}|([0-9]{1,12}[smhdSMHD]|[0-9]{1,12}\.[0-9]{1,9}[sS])+)$",
    "maxLength": 64,
}
_SCHEDULED = "Only with a schedule."

# By field of `Options`: schema, example, what it does.
_SETTINGS: dict[str, tuple[Json, object, str]] = {
    "method": ({"type": "string", "enum": list(METHODS)}, "POST", "The method of the delivery."),
    "timeout_ms": (_DURATION, "90s", "How long the destination may take to answer."),
    "retries": (_WHOLE, 3, "How often a failed delivery is repeated."),
    "retry_delay": (
        {"type": "string", "maxLength": 256},
        "1000 * (1 + retried)",
        "An expression in `retried`: the delay before the next attempt, in milliseconds.",
    ),
    "delay_ms": (_DURATION, "10s", "Deliver no sooner than after this."),
    "not_before": (_SECONDS, 1_700_000_060, "Deliver no sooner than at this Unix time; wins over a delay."),
    "labels": ({"type": "string"}, "import,night", "Labels, separated by commas."),
    "dedup_id": (
        {"type": "string", "pattern": "^[^:]+$", "maxLength": MAX_DEDUP_ID_BYTES},
        "order-7",
        "A second message of the same id is not accepted; the answer is the first one's id, with 202.",
    ),
    "content_dedup": (_FLAG, "true", "Let queue, destination, body and forwarded headers be the id."),
    "task_id": (NAME, "tsk_1", "The id under which the result of the delivery is kept."),
    "start_at": (_WHOLE, 1_700_000_060_000, "Start no sooner than at this Unix millisecond."),
    "expires_at": (
        {"type": "integer", "minimum": 1_700_000_000_000, "maximum": 9_999_999_999_999},
        9_000_000_000_000,
        "The Unix millisecond after which it is not started any more, but `CANCELED` as expired.",
    ),
    "dedup_window_ms": (_SECONDS, 3600, "How long its deduplication id holds."),
    "unique": (
        {"type": "string", "enum": list(UNIQUE)},
        "finished",
        "Its deduplication id holds until the message has started, or finished, and no longer.",
    ),
    "result_ttl_ms": (_SECONDS, 3600, "How long the answer of the destination is kept as a result."),
    "queue": (
        {"type": "string"},
        "parallelism=16; ordered=false",
        "How to make the queue if it does not exist yet.",
    ),
    "redact": (
        {"type": "string"},
        "body,header[Authorization]",
        "What no reading operation shows: `body`, `header`, or `header[Name]`, separated by commas.",
    ),
    "cron": (
        {"type": "string"},
        "CRON_TZ=Europe/Berlin 0 4 * * *",
        "When the schedule fires: five fields, or a name such as `@daily`.",
    ),
    "schedule_id": (NAME, "nightly", "The id of the schedule; one that exists is replaced."),
    "schedule_queue": (NAME, "mail", "The queue that the schedule puts its messages into."),
    "every": (
        _DURATION,
        "30s",
        "How often the schedule fires, from 1s to 366d, counted from 1970; wins over `Upstash-Cron`.",
    ),
    "catch_up": (
        {"type": "string", "enum": list(CATCH_UP)},
        "latest",
        "Which fires that were missed are made up for.",
    ),
    "overlap": (
        {"type": "string", "enum": list(OVERLAP)},
        "skip",
        "Whether a fire is left out while the messages of the one before have not finished.",
    ),
    "expires_after_ms": (
        _DURATION,
        "10m",
        "How long after its fire a message may still start.",
    ),
    "batch": (
        {"type": "integer", "minimum": 1, "maximum": MOST_IN_BATCH},
        100,
        "How many messages at most the destination takes in one request.",
    ),
    "kind": (
        {"type": "string", "maxLength": MAX_KIND_BYTES},
        "shop.send_email",
        "A name for work of its sort: messages of a kind that is quick share such requests.",
    ),
}
# OpenAPI describes the content type with the body.
_LEFT_OUT = ("content_type",)
_MORE: tuple[tuple[str, Json, object, str], ...] = (
    (
        FLOW_KEY,
        {"type": "string", "minLength": 1, "maxLength": MAX_FLOW_KEY_BYTES},
        "tenant-42",
        f"All messages of a key share its limits; goes with `{FLOW_VALUE}`.",
    ),
    (
        FLOW_VALUE,
        {"type": "string"},
        "rate=10, period=1m, parallelism=2",
        f"The limits of the key; goes with `{FLOW_KEY}`.",
    ),
    (
        "Upstash-Callback",
        URL,
        "https://app.example/callback",
        "Who is told of each attempt; `Upstash-Callback-*` sets up that message as `Upstash-*` does this.",
    ),
    (
        "Upstash-Failure-Callback",
        URL,
        "https://app.example/failed",
        "Who is told once no attempt is left; `Upstash-Failure-Callback-*` sets up that message.",
    ),
    ("Upstash-Header-Forward", _FLAG, "true", "Forward plain headers too, those of a webhook."),
)

_SCHEDULE_ONLY = (
    "Upstash-Schedule-Id",
    "Upstash-Queue-Name",
    "Qtasks-Every",
    "Qtasks-Catch-Up",
    "Qtasks-Overlap",
    "Qtasks-Expires-After",
)
_DELAYS = ("Upstash-Delay", "Upstash-Not-Before")
_DEDUPLICATION = (
    "Upstash-Deduplication-Id",
    "Upstash-Content-Based-Deduplication",
    "Qtasks-Dedup-Window",
    "Qtasks-Unique",
)


def _header(name: str, schema: Json, example: object, about: str) -> Json:
    return {"name": name, "in": "header", "description": about, "schema": schema, "example": example}


def _headers() -> dict[str, Json]:
    found = {
        row.header: _header(row.header, *_SETTINGS[row.field]) for row in ROWS if row.field not in _LEFT_OUT
    }
    for name in _SCHEDULE_ONLY:
        found[name]["description"] += f" {_SCHEDULED}"
    return found | {name: _header(name, schema, example, about) for name, schema, example, about in _MORE}


def _path(name: str, schema: Json, example: str, about: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": about,
        "schema": schema,
        "example": example,
    }


def _query(name: str, schema: Json, about: str) -> Json:
    found: Json = {"name": name, "in": "query", "description": about, "schema": schema}
    return found | {"style": "form", "explode": True} if schema.get("type") == "array" else found


_SEGMENT: Json = {"type": "string", "minLength": 1}
_DESTINATION: Json = {"type": "string", "minLength": 1, "maxLength": 8192}
_ABOUT_DESTINATION = (
    "Where it goes: an absolute http(s) URL, the name of a URL group, or `api/llm` or `api/email`. A URL "
    "stands in the path as it is, slashes and all (`…/https://app.example/hook?order=7`); encoded as a whole "
    "it is understood too, so that generated clients work. The query belongs to the URL, except for "
    "`qstash_token` and settings, which may stand there in lower case (`upstash-retries=0`)."
)

PATHS: dict[str, Json] = {
    "path.destination": _path(
        "destination", _DESTINATION, "https://app.example/hook?order=7", _ABOUT_DESTINATION
    ),
    "path.scheduled": _path(
        "id", _DESTINATION, "https://app.example/hook", f"Here no id. {_ABOUT_DESTINATION}"
    ),
    "path.queue": _path("queue", NAME, "mail", "The name of a queue."),
    "path.message": _path("id", _SEGMENT, "msg_7YoJxFpwk1", "The id of a message."),
    "path.schedule": _path("id", _SEGMENT, "nightly", "The id of a schedule."),
    "path.group": _path("name", NAME, "orders", "The name of a URL group."),
    "path.flow": _path(
        "key",
        {"type": "string", "minLength": 1, "maxLength": MAX_FLOW_KEY_BYTES},
        "tenant-42",
        "A flow-control key. It may hold slashes, and need not be encoded.",
    ),
    "path.dead": _path("id", _SEGMENT, "1754000123456-0", "The id of a dead letter."),
    "path.task": _path("id", _SEGMENT, "tsk_1", "The id of a task, from `Qtasks-Task-Id`."),
    "path.unfinished-task": _path("id", _SEGMENT, "tsk_1", "The id of a task that has not finished."),
    "path.token": _path("name", _SEGMENT, "dashboard", "The name of a token."),
}

_ABOUT_CURSOR = "What the page before said; absent for the first."
_ALTERNATIVES = "Several are alternatives: repeat it, or separate them by commas."
_ABOUT_FILTERS = {
    "messageId": "The same as `messageIds`.",
    "host": "The host of the destination, with its port if the URL has one.",
    "path": "The path of the destination.",
    "topicName": "The name of a URL group.",
    "callerIp": "The address that published it.",
    "task": "The name of the task that it calls: ours, not QStash's.",
}

QUERIES: dict[str, Json] = {
    **{
        f"query.{name}": _query(
            name,
            list_of({"type": "string", "minLength": 1}),
            f"{_ABOUT_FILTERS[name]} {_ALTERNATIVES}" if name in _ABOUT_FILTERS else _ALTERNATIVES,
        )
        for name in (*filters.FIELDS, messages.TASK, "dlqIds")
    },
    **{f"query.{name}": _query(name, _WHOLE, "Unix milliseconds, inclusive.") for name in filters.DATES},
    "query.cursor": _query("cursor", {"type": "string", "pattern": DEAD_CURSOR}, _ABOUT_CURSOR),
    "query.place": _query(
        "cursor",
        {"type": "string", "pattern": "^[0-9]{1,18}(-[0-9]{1,18}){0,2}$"},
        f"{_ABOUT_CURSOR} Unix milliseconds stand for all that is older.",
    ),
    "query.count": _query(
        "count", {"type": "integer", "minimum": 1, "maximum": 10**9 - 1}, "How many at most."
    ),
    "query.state": _query(
        "state",
        list_of({"type": "string", "enum": [*LOGGED, "CANCELLED", State.IN_PROGRESS.value]}),
        f"{State.IN_PROGRESS.value} stands for ACTIVE, RETRY and ERROR. {_ALTERNATIVES}",
    ),
    "query.trimBody": _query(
        "trimBody",
        {"type": "integer", "minimum": -1, "maximum": 10**9 - 1},
        "Show no more than so many bytes of each body; -1 for none of them.",
    ),
    "query.groupBy": _query("groupBy", {"type": "string"}, "Means nothing here."),
    "query.responseStatus": _query(
        "responseStatus", list_of({"type": "integer", "minimum": 0, "maximum": 999}), _ALTERNATIVES
    ),
    "query.search": _query("search", {"type": "string"}, "Only keys that contain this."),
    "query.parallelism": _query("parallelism", _LIMIT, "In flight at once."),
    "query.rate": _query("rate", _LIMIT, "Started in each period."),
    "query.period": _query("period", _DURATION, "Whole seconds, 1s to 7d; the default is 1s."),
    "query.free-parallelism": _query("parallelism", _FLAG, "Whether to unpin the parallelism."),
    "query.free-rate": _query("rate", _FLAG, "Whether to unpin the rate."),
    "query.wait": _query("wait", _DURATION, "How long to wait for the end of the task; at most a minute."),
    "query.wait-any": _query(
        "wait", _DURATION, "How long to wait for the end of the first of the tasks; at most a minute."
    ),
}

HEADERS = _headers()
PARAMETERS: dict[str, Json] = HEADERS | PATHS | QUERIES

PUBLISH = tuple(HEADERS)
_NOW = tuple(each for each in PUBLISH if each not in (*_SCHEDULE_ONLY, "Upstash-Cron"))
ENQUEUE = tuple(each for each in _NOW if each not in (*_DELAYS, FLOW_KEY, FLOW_VALUE))
REPLAY = tuple(each for each in _NOW if each not in _DEDUPLICATION)
_ONE_CALL = (*_DEDUPLICATION, "Upstash-Not-Before", "Qtasks-Task-Id", "Qtasks-Expires")
SCHEDULE = tuple(each for each in PUBLISH if each not in _ONE_CALL)
