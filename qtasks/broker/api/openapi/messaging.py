"""The operations on messages: publish, enqueue, batch, look, call off; the log and the dead letters."""

from __future__ import annotations

from collections.abc import Mapping

from qtasks.broker.api import dead_letters, filters, logs, messages
from qtasks.broker.api.openapi import parameters
from qtasks.broker.api.openapi.operation import OK_EMPTY, Operation
from qtasks.broker.api.openapi.schemas import Json, list_of, ref

_STORED: Json = {"anyOf": [ref("Enqueued"), ref("EnqueuedMany")]}
_DUPLICATE: Mapping[int, Json | None] = {202: _STORED}
_TO_REFUSE = (400, 404, 412)


def _queries(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"query.{each}" for each in names)


def _publish(method: str, id_: str, summary: str) -> Operation:
    return Operation(
        method=method,
        route="/v2/publish/{destination...}",
        id=id_,
        tag="Messages",
        summary=summary,
        # With Upstash-Cron it makes a schedule, and answers with its id.
        answers={200: {"anyOf": [ref("Enqueued"), ref("EnqueuedMany"), ref("ScheduleId")]}, **_DUPLICATE},
        refusals=_TO_REFUSE,
        parameters=("path.destination", *parameters.PUBLISH),
        body="any",
        stores=True,
        secret=True,
        publishes=True,
        extra=method != "POST",
    )


SENDING = (
    _publish("POST", "publish", "Accept a message for a destination, or make a schedule with `Upstash-Cron`"),
    *(
        _publish(method, f"publishBy{method.title()}", "The same, for senders of webhooks")
        for method in ("GET", "PUT", "PATCH", "DELETE")
    ),
    Operation(
        method="POST",
        route="/v2/enqueue/{queue}/{destination...}",
        id="enqueue",
        tag="Messages",
        summary="Accept a message for a queue, which is made if it is missing",
        answers={200: _STORED, **_DUPLICATE},
        refusals=_TO_REFUSE,
        parameters=("path.queue", "path.destination", *parameters.ENQUEUE),
        body="any",
        stores=True,
        publishes=True,
    ),
    Operation(
        method="POST",
        route="/v2/batch",
        id="batch",
        tag="Messages",
        summary="Accept messages, all of them or none; each has the headers that publish or enqueue takes",
        answers={200: list_of(_STORED)},
        refusals=_TO_REFUSE,
        body="Batch",
        is_body_required=True,
        stores=True,
        publishes=True,
    ),
)

KNOWN = (
    Operation(
        method="GET",
        route="/v2/messages/{id}",
        id="getMessage",
        tag="Messages",
        summary="Show a message that is pending or has just ended",
        answers={200: ref("Message")},
        refusals=(400, 404),
        parameters=("path.message",),
    ),
    Operation(
        method="DELETE",
        route="/v2/messages/{id}",
        id="cancelMessage",
        tag="Messages",
        summary="Call a message off",
        answers={200: ref("Cancelled")},
        refusals=(400, 404),
        parameters=("path.message",),
        stores=True,
    ),
    Operation(
        method="DELETE",
        route="/v2/messages",
        id="cancelMessages",
        tag="Messages",
        summary="Call off the messages of a list or a filter; without either, all of them",
        answers={200: ref("Cancelled")},
        refusals=(400, 412),
        parameters=_queries(("count", messages.TASK, *filters.NAMES)),
        body="MessageFilters",
        stores=True,
    ),
    *(
        Operation(
            method="GET",
            route=f"/v2/{name}",
            id=f"list{name.title()}",
            tag="Log",
            summary=f"List what befell messages, newest first, at most {most} entries to a page",
            answers={200: ref(page)},
            parameters=_queries(("place", *(each for each in logs.KNOWN if each != "cursor"))),
        )
        for name, page, most in (("logs", "LogPage", 100), ("events", "EventPage", 1000))
    ),
)

DEAD = (
    Operation(
        method="GET",
        route="/v2/dlq",
        id="listDeadLetters",
        tag="Dead letters",
        summary="List dead letters, newest first",
        answers={200: ref("MessagePage")},
        parameters=_queries(dead_letters.KNOWN),
    ),
    Operation(
        method="DELETE",
        route="/v2/dlq",
        id="deleteDeadLetters",
        tag="Dead letters",
        summary="Delete dead letters, a page at a time; without ids or filters, any",
        answers={200: ref("Deleted")},
        refusals=(400, 412),
        parameters=_queries(dead_letters.KNOWN),
        body="DeadLetterFilters",
        stores=True,
    ),
    Operation(
        method="POST",
        route="/v2/dlq/retry",
        id="retryDeadLetters",
        tag="Dead letters",
        summary="Run dead letters again, a page at a time; headers go before the stored settings",
        answers={201: ref("Replayed")},
        refusals=_TO_REFUSE,
        parameters=(*_queries(dead_letters.KNOWN), *parameters.REPLAY),
        body="DeadLetterFilters",
        stores=True,
    ),
    Operation(
        method="POST",
        route="/v2/dlq/retry/{id}",
        id="retryDeadLetter",
        tag="Dead letters",
        summary="Run a dead letter again as a new message; headers go before the stored settings",
        answers={201: ref("Enqueued")},
        refusals=_TO_REFUSE,
        parameters=("path.dead", *parameters.REPLAY),
        stores=True,
    ),
    Operation(
        method="GET",
        route="/v2/dlq/{id}",
        id="getDeadLetter",
        tag="Dead letters",
        summary="Show a dead letter",
        answers={200: ref("DeadLetter")},
        refusals=(400, 404),
        parameters=("path.dead",),
    ),
    Operation(
        method="DELETE",
        route="/v2/dlq/{id}",
        id="deleteDeadLetter",
        tag="Dead letters",
        summary="Delete a dead letter",
        answers=OK_EMPTY,
        refusals=(400, 404),
        parameters=("path.dead",),
        stores=True,
    ),
)

OPERATIONS = (*SENDING, *KNOWN, *DEAD)
