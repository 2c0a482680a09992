"""The envelope: what a message's body carries for us, signed by the app for itself.

Plain JSON, so that it can be read in any dead letter queue. Its signature travels beside it in a
forwarded header, and covers everything that decides what runs, where and until when.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from itsdangerous import Signer
from itsdangerous.encoding import base64_encode

from qtasks.errors import DecodeError, SignatureError
from qtasks.values import dataclass

VERSION = 1
SIGNATURE_HEADER = "Qtasks-Signature"
SALT = "qtasks.envelope.v1"


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace, as W3C Trace Context writes it: `traceparent` and `tracestate`."""

    parent: str
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """One call of a task. Instants are Unix milliseconds, spans milliseconds."""

    task: str
    id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    destination: str
    """The only address at which it may be executed."""
    enqueued_at: int
    timeout_ms: int | None = None
    expires_at: int | None = None
    queue: str | None = None
    """Where it was enqueued, and from when on it was to run: for the task to read, not to obey."""
    start_at: int | None = None
    retries: int | None = None
    retry_delay: str | None = None
    """What the broker was told of retries, for the app to say what a failure comes to."""
    labels: tuple[str, ...] = ()
    result_ttl_ms: int | None = None
    number: int = 0
    """How many times the call was enqueued anew under its id, and how many retries were made till then."""
    spent: int = 0
    schedule: str | None = None
    """Of a call by the clock: which of the task's schedules makes it, and how long after its fire it
    expires. Until the fire is known, `id` is the schedule's: see `of_fire`."""
    expires_after_ms: int | None = None
    trace: Trace | None = None
    """Where in which trace it was called."""
    version: int = 1
    """Which version of the task's arguments these are."""


class EnvelopeSigner:
    """Signs with the first of the app's secrets and accepts all of them, so that they can be rotated."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_derive(each) for each in secrets]

    def sign(self, body: bytes) -> str:
        """Give the signature of a body: itsdangerous' own, by a shorter way, as every call needs one."""
        return _signature(self._keys[0], body).decode()

    def check(self, body: bytes, signature: str | None) -> None:
        """Raise `SignatureError` unless one of our secrets has signed the body."""
        if not signature:
            raise SignatureError(f"the task has no signature: header {SIGNATURE_HEADER} is missing")
        given = signature.encode()
        if not any(hmac.compare_digest(_signature(each, body), given) for each in self._keys):
            raise SignatureError("the task was not signed by this app, or was changed since")


def _derive(secret: str) -> bytes:
    """Derive once what itsdangerous would derive for every call."""
    return Signer(secret, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()


def _signature(key: bytes, body: bytes) -> bytes:
    return base64_encode(hmac.digest(key, body, "sha256"))


def pack(envelope: Envelope) -> bytes:
    """Write an envelope as JSON."""
    meta: dict[str, object] = {"destination": envelope.destination, "enqueuedAt": envelope.enqueued_at}
    if envelope.timeout_ms is not None:
        meta["timeout"] = envelope.timeout_ms
    if envelope.expires_at is not None:
        meta["expiresAt"] = envelope.expires_at
    if envelope.queue is not None:
        meta["queue"] = envelope.queue
    if envelope.start_at is not None:
        meta["startAt"] = envelope.start_at
    if envelope.retries is not None:
        meta["retries"] = envelope.retries
    if envelope.retry_delay is not None:
        meta["retryDelay"] = envelope.retry_delay
    if envelope.number:
        meta |= {"number": envelope.number, "spent": envelope.spent}
    if envelope.version != 1:
        meta["version"] = envelope.version
    if envelope.labels:
        meta["labels"] = envelope.labels
    if envelope.result_ttl_ms is not None:
        meta["resultTtl"] = envelope.result_ttl_ms
    if envelope.schedule is not None:
        meta["schedule"] = envelope.schedule
    if envelope.expires_after_ms is not None:
        meta["expiresAfter"] = envelope.expires_after_ms
    if envelope.trace is not None:
        meta["traceparent"] = envelope.trace.parent
        if envelope.trace.state is not None:
            meta["tracestate"] = envelope.trace.state
    return orjson.dumps(
        {
            "v": VERSION,
            "task": envelope.task,
            "id": envelope.id,
            "args": envelope.args,
            "kwargs": envelope.kwargs,
            "meta": meta,
        }
    )


def unpack(body: bytes) -> Envelope:
    """Read an envelope, whose signature has been checked before; raises `DecodeError`."""
    try:
        members = orjson.loads(body)
        version = members["v"]
        if version != VERSION:
            raise DecodeError(
                f"the task is in envelope version {version!r}, which this version does not know"
            )
        meta = members["meta"]
        get = meta.get
        return Envelope(  # in the order of its fields: giving all their names costs more than all the rest
            members["task"],
            members["id"],
            members["args"],
            members["kwargs"],
            meta["destination"],
            meta["enqueuedAt"],
            get("timeout"),
            get("expiresAt"),
            get("queue"),
            get("startAt"),
            get("retries"),
            get("retryDelay"),
            tuple(get("labels", ())),
            get("resultTtl"),
            get("number", 0),
            get("spent", 0),
            get("schedule"),
            get("expiresAfter"),
            Trace(meta["traceparent"], get("tracestate")) if "traceparent" in meta else None,
            get("version", 1),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DecodeError(f"the body is not the envelope of a task: {error!r}") from error


def of_fire(envelope: Envelope, fired_at: str | None, message_id: str, now: int) -> Envelope:
    """Complete the envelope of a schedule, which is the same for all its calls, for the call of one fire.

    `fired_at` is what the broker says of it, in Unix ms. That is not signed by us: when a schedule fires
    is for the broker to say. One that says nothing, as hosted QStash, makes the message the call's id.
    """
    if envelope.number:  # enqueued anew, by this app, and complete since then
        return envelope
    if fired_at is None or not (fired_at.isascii() and fired_at.isdecimal() and len(fired_at) < 15):
        return replace(envelope, id=message_id, enqueued_at=now)
    instant, after_ms = int(fired_at), envelope.expires_after_ms
    return replace(
        envelope,
        id=f"{envelope.id}.{instant}",
        enqueued_at=instant,
        start_at=instant,
        expires_at=None if after_ms is None else instant + after_ms,
    )
