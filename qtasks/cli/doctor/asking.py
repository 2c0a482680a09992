"""Asks the broker of a setup, and its webhook from outside. What goes wrong is a fact like any other."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TypeVar

from qtasks.cli.connection import Connection
from qtasks.cli.doctor.facts import Blocked, BrokerFacts, Trouble, WebhookFacts
from qtasks.cli.doctor.settings_checks import is_sendable
from qtasks.client import calls
from qtasks.client.attempts import Answer, send_attempt
from qtasks.client.call import Call
from qtasks.client.filters import Filter
from qtasks.clock import Clock
from qtasks.errors import (
    BrokerUnavailable,
    BrokerUnreachable,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    QTasksError,
    Unauthorized,
)
from qtasks.ids import Ids
from qtasks.protocol.shapes import QueueView, State
from qtasks.protocol.signature import sign
from qtasks.settings import HomeKind, Settings
from qtasks.tasks.envelope import SIGNATURE_HEADER, EnvelopeSigner
from qtasks.tasks.webhook import RUN

T = TypeVar("T")

PATIENCE_S = 5
MOST_QUEUES = 50
"""Ordered queues in which something waits, whose logs are read."""
MOST_ENTRIES = 100
MOST_LETTERS = 100
HALF_SECOND_MS = 500
"""A `Date` is cut off to its second: on average that much is missing."""
NO_TASK = b'{"qtasks":"doctor"}'
"""A delivery that runs nothing: an app that takes it finds no task in it, and says so."""


def ask_broker(settings: Settings, clock: Clock, *, is_running: bool) -> BrokerFacts:
    """Ask a broker all that the checks want to know; where none `is_running`, its store is opened for it."""
    connection = Connection(settings=settings, timeout_s=PATIENCE_S)
    is_elsewhere = settings.home in (HomeKind.HTTP, HomeKind.HOSTED)
    name = f"the broker at {settings.address}" if is_elsewhere else "the broker"
    try:
        skew = skew_ms(settings.address, clock) if is_elsewhere else None
        if is_elsewhere and (settings.token is None or not is_sendable(settings.token)):
            return BrokerFacts(name, skew_ms=skew)
        queues = connection.ask(calls.queues())
        status = _if_known(connection, calls.key_status())
        pair = _if_known(connection, calls.signing_keys())
        letters = connection.ask(calls.dead_letters(count=MOST_LETTERS))
        return BrokerFacts(
            name,
            skew_ms=skew,
            not_ready=_not_ready(connection) if is_running and settings.home is not HomeKind.HOSTED else None,
            pair=None if pair is None else (pair.current, pair.next),
            rotated_at=None if status is None else status.rotated_at,
            queues=tuple(queues),
            blocked=tuple(_blocked(connection, queues)),
            dead_letters=len(letters.items),
        )
    except QTasksError as error:
        return BrokerFacts(name, _trouble(error), _cause(error))
    finally:
        connection.close()


def _trouble(error: QTasksError) -> Trouble:
    if isinstance(error, BrokerUnreachable):
        return Trouble.UNREACHABLE
    return Trouble.REFUSED if isinstance(error, Unauthorized | Forbidden) else Trouble.UNAVAILABLE


def _cause(error: QTasksError) -> str:
    """Give the error itself, without the advice that commands add to it."""
    cause = error.__cause__
    return str(cause if isinstance(cause, BrokerUnreachable) else error)


def _if_known(connection: Connection, call: Call[T]) -> T | None:
    """Ask what hosted QStash does not know, or a token that may only read may not."""
    try:
        return connection.ask(call)
    except (NotFound, MethodNotAllowed, Forbidden):
        return None


def _not_ready(connection: Connection) -> str | None:
    try:
        connection.ask(calls.readyz())
    except BrokerUnavailable as error:
        return str(error)
    return None


def skew_ms(address: str, clock: Clock) -> int | None:
    """Say how far the clock here is ahead of that of a server; None if it says no time.

    Raises `BrokerUnreachable` if nobody answers.
    """
    before = clock.now()
    answer = send_attempt("GET", f"{address.rstrip('/')}/livez", (), b"", timeout=PATIENCE_S)
    here = (before + clock.now()) // 2
    try:
        there = round(parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return None
    return here - (there + HALF_SECOND_MS)


def _blocked(connection: Connection, queues: list[QueueView]) -> Iterator[Blocked]:
    waiting = [each for each in queues if each.ordered and each.lag > 1 and not each.paused]
    for queue in waiting[:MOST_QUEUES]:
        log = connection.ask(calls.log(Filter(queues=(queue.name,)), count=MOST_ENTRIES, trim_bytes=-1))
        seen: set[str] = set()
        for entry in log.items:  # the newest first
            is_newest = entry.message_id not in seen
            seen.add(entry.message_id)
            if is_newest and entry.state in (State.ERROR, State.RETRY):
                yield Blocked(queue.name, entry.message_id, queue.lag - 1)
                break


def ask_webhook(settings: Settings, home: HomeKind, clock: Clock) -> WebhookFacts | None:
    """Deliver to the public address as a broker elsewhere would: without a signature, and with one."""
    if home not in (HomeKind.HTTP, HomeKind.HOSTED) or settings.public_url is None:
        return None
    url = f"{settings.public_url}/{RUN}"
    unsigned = _deliver(url, ())
    if isinstance(unsigned, str) or not settings.signing_keys or not settings.secrets:
        return WebhookFacts(url, unsigned)
    headers = (
        (
            "Upstash-Signature",
            sign(url, NO_TASK, key=settings.signing_keys[0], now=clock.now(), jti=Ids().token_id()),
        ),
        (SIGNATURE_HEADER, EnvelopeSigner(settings.secrets).sign(NO_TASK)),
    )
    return WebhookFacts(url, unsigned, _deliver(url, headers))


def _deliver(url: str, headers: tuple[tuple[str, str], ...]) -> Answer | str:
    try:
        return send_attempt(
            "POST", url, (("Content-Type", "application/json"), *headers), NO_TASK, timeout=PATIENCE_S
        )
    except BrokerUnreachable as error:
        return str(error)
