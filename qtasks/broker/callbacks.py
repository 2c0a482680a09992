"""Makes the messages that tell others what became of a message (contract 5).

A callback is told of every attempt that counts, a failure callback of the end in the dead letter queue.
They are messages of their own from then on; storing them together with the end is the store's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from qtasks.broker.intake import Intake
from qtasks.broker.store.records import Again, Claim, Dead, NewMessage, Reply, Settlement
from qtasks.broker.store.views import header_lists
from qtasks.protocol.headers import Callback
from qtasks.protocol.redact import Redaction
from qtasks.protocol.shapes import Outgoing

CallbacksOf = Callable[[Settlement], Sequence[NewMessage]]


def callbacks_of(settlement: Settlement, intake: Intake) -> Sequence[NewMessage]:
    """Make the callbacks of a settlement; none for an attempt that does not count."""
    claim, verdict = settlement.claim, settlement.verdict
    extras = claim.extras
    if not extras.has_callbacks or (isinstance(verdict, Again) and not verdict.counted):
        return ()
    made: list[NewMessage] = []
    report = _report(settlement)
    if extras.callback is not None:
        made.append(_message(settlement, extras.callback, report, intake))
    if extras.failure_callback is not None and isinstance(verdict, Dead):
        report["dlqId"] = f"{settlement.ended_at}-{claim.seq}"
        message = _message(settlement, extras.failure_callback, report, intake)
        made.append(replace(message, is_failure_callback=True))
    return made


def _message(
    settlement: Settlement, callback: Callback, report: dict[str, Any], intake: Intake
) -> NewMessage:
    claim, options = settlement.claim, callback.options
    options = replace(
        options,
        content_type=options.content_type or "application/json",
        retries=claim.max_retries if options.retries is None else options.retries,
        # What was to be hidden stands in the report as well.
        redact=_hidden(claim.extras.redact, options.redact),
    )
    outgoing = Outgoing(callback.url, orjson.dumps(report), options, caller_ip=claim.caller_ip)
    return replace(intake.make(outgoing, settlement.ended_at), source=claim.seq)


def _hidden(source: Redaction | None, own: Redaction | None) -> Redaction | None:
    if source is None or own is None:
        return own if source is None else replace(source, body=True)
    return Redaction(True, source.all_headers or own.all_headers, source.headers | own.headers)


def _report(settlement: Settlement) -> dict[str, Any]:
    """Make the JSON object that a callback is sent; what is empty is left out where it may be."""
    claim, reply = settlement.claim, settlement.reply
    report: dict[str, Any] = {
        "status": reply.status,
        "header": header_lists(reply.headers),
        "body": _base64(reply.body),
        "retried": claim.attempt - 1,
        "maxRetries": claim.max_retries,
        "sourceMessageId": claim.id,
        "url": claim.url,
        "method": claim.method,
        "sourceHeader": header_lists(claim.headers),
        "sourceBody": _base64(claim.body),
        "notBefore": claim.not_before,
        "createdAt": claim.created_at,
    }
    return report | {name: value for name, value in _optional(claim, reply).items() if value}


def _optional(claim: Claim, reply: Reply) -> dict[str, str | None]:
    return {
        "topicName": claim.extras.group,
        "endpointName": claim.extras.endpoint,
        "scheduleId": claim.extras.schedule_id,
        "callerIP": claim.caller_ip,
        "error": reply.error,
    }


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()
