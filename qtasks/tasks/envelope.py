"""The envelope: what a message's body carries for us, signed by the app for itself.

Plain JSON, so that it can be read in any dead letter queue. Its signature travels beside it in a
forwarded header, and covers everything that decides what runs, where and until when.
"""

from __future__ import annotations

import hashlib
import hmac
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from itsdangerous import Signer

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
        self._keys = [_Key(each) for each in secrets]

    def sign(self, body: bytes) -> str:
        """Give the signature of a body: itsdangerous' own, by a shorter way, as every call needs one."""
        return self._keys[0].signature(body).decode()

    def check(self, body: bytes, signature: str | None) -> None:
        """Raise `SignatureError` unless one of our secrets has signed the body."""
        if not signature:
            raise SignatureError(f"the task has no signature: header {SIGNATURE_HEADER} is missing")
        given = signature.encode()
        if not any(hmac.compare_digest(each.signature(body), given) for each in self._keys):
            raise SignatureError("the task was not signed by this app, or was changed since")


class _Key:
    """A secret, made ready once: what itsdangerous would derive from it, and both ends of HMAC-SHA-256.

    `hmac.digest` begins anew for each body, which takes longer than all the rest of signing.
    """

    def __init__(self, secret: str) -> None:
        signer = Signer(secret, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha256)
        key = signer.derive_key().ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(each ^ 0x36 for each in key))
        self._outer = hashlib.sha256(bytes(each ^ 0x5C for each in key))

    def signature(self, body: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False).translate(_URL_SAFE, b"=")


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Form:
    """The envelope of many calls, written but for what differs from one to the next.

    Of the envelope it is made of, `id`, arguments, instants and trace do not count.
    """

    __slots__ = ("_head", "_meta", "_tail")

    def __init__(self, envelope: Envelope) -> None:
        self._head = b'{"v":%d,"task":%b,"id":' % (VERSION, orjson.dumps(envelope.task))
        self._meta = b',"meta":{"destination":%b,"enqueuedAt":' % orjson.dumps(envelope.destination)
        self._tail = orjson.dumps(_in_common(envelope))[1:-1]
        if self._tail:
            self._tail = b"," + self._tail

    def fill(
        self,
        id: str,
        args: bytes,
        kwargs: bytes,
        enqueued_at: int,
        start_at: int | None = None,
        expires_at: int | None = None,
        trace: Trace | None = None,
    ) -> bytes:
        """Write the envelope of one call, whose arguments are JSON already."""
        tail = self._tail
        if start_at is not None or expires_at is not None or trace is not None:
            tail += b"," + orjson.dumps(_of_one(start_at, expires_at, trace))[1:-1]
        return b'%b%b,"args":%b,"kwargs":%b%b%d%b}}' % (
            self._head,
            orjson.dumps(id),
            args,
            kwargs,
            self._meta,
            enqueued_at,
            tail,
        )


def _in_common(envelope: Envelope) -> dict[str, object]:
    """Give those members of `meta` in which the calls of a task are alike."""
    meta: dict[str, object] = {}
    if envelope.timeout_ms is not None:
        meta["timeout"] = envelope.timeout_ms
    if envelope.queue is not None:
        meta["queue"] = envelope.queue
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
    return meta


def _of_one(start_at: int | None, expires_at: int | None, trace: Trace | None) -> dict[str, object]:
    """Give those that each call has for itself."""
    meta: dict[str, object] = {}
    if expires_at is not None:
        meta["expiresAt"] = expires_at
    if start_at is not None:
        meta["startAt"] = start_at
    if trace is not None:
        meta["traceparent"] = trace.parent
        if trace.state is not None:
            meta["tracestate"] = trace.state
    return meta


def pack(envelope: Envelope) -> bytes:
    """Write an envelope as JSON."""
    return Form(envelope).fill(
        envelope.id,
        orjson.dumps(envelope.args),
        orjson.dumps(envelope.kwargs),
        envelope.enqueued_at,
        envelope.start_at,
        envelope.expires_at,
        envelope.trace,
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
