"""Hears that a broker has given a message up, and writes down that its task has failed.

Needed where the app keeps results itself: a task that takes its process down never answers its last
attempt, and would be taken for running until it is forgotten.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from qtasks.clock import Clock
from qtasks.errors import DecodeError, SignatureError
from qtasks.tasks.answers import NON_RETRYABLE, Answer, problem
from qtasks.tasks.envelope import SIGNATURE_HEADER, EnvelopeSigner, unpack
from qtasks.tasks.recording import ResultBackend, ended

REFUSED = 489  # as an attempt that ends a task at once


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failure callback tells (contract 5.2): the message that died, and how it went in the end."""

    body: bytes
    signature: str | None
    retried: int
    document: bytes


def read_failure(report: bytes) -> Failure:
    """Read the body of a failure callback; raises `DecodeError`."""
    try:
        members = orjson.loads(report)
        retried = int(members["retried"])
        return Failure(
            body=b64decode(members["sourceBody"]),
            signature=_single((members.get("sourceHeader") or {}).get(SIGNATURE_HEADER)),
            retried=retried,
            document=_document(b64decode(members.get("body") or ""), int(members["status"]), retried + 1),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DecodeError(f"the body is not a failure callback: {error!r}") from error


class Failures:
    """Takes failure callbacks, whose delivery the webhook has checked."""

    def __init__(
        self,
        results: ResultBackend,
        *,
        signer: Callable[[], EnvelopeSigner],
        destination: str,
        clock: Clock,
    ) -> None:
        self._results = results
        self._signer = signer
        self._destination = destination
        self._clock = clock

    async def __call__(self, report: bytes) -> Answer:
        """Write down the end of a task of this app; what was known of its end already is not changed."""
        try:
            failure = read_failure(report)
            self._signer().check(failure.body, failure.signature)
            envelope = unpack(failure.body)
        except SignatureError as error:
            return problem(403, "SignatureError", str(error))
        except DecodeError as error:
            return problem(REFUSED, "DecodeError", str(error), NON_RETRYABLE)
        if envelope.destination != self._destination:
            return problem(403, "SignatureError", f"the task was signed for {envelope.destination}")
        record = ended(envelope, failure.retried, Answer(REFUSED, failure.document), self._clock.now())
        await asyncio.to_thread(self._results.store, [record])
        return Answer(200, b"null")


def _document(answer: bytes, status: int, attempts: int) -> bytes:
    """Give the error document that a task of ours answered with, or one that says what came instead."""
    try:
        members: Any = orjson.loads(answer)
        members["error"]["type"]
        return answer
    except (orjson.JSONDecodeError, KeyError, TypeError):
        how = f"was answered with {status}, and not by the task" if status else "got no answer"
        message = f"the last of {attempts} attempts {how}; the broker has given the task up"
        return problem(status, "DeliveryFailed", message).body


def _single(value: Any) -> str | None:
    """A header's value, which the documentation shows as a text and the service sends as a list."""
    return value[0] if isinstance(value, list) and value else value if isinstance(value, str) else None
