"""Makes the attempt that takes a dead letter to an app on this machine, as a broker here would make it.

It is signed with this environment's keys and secret, never with those of where the letter died; what its
sender has hidden stays hidden.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from qtasks.broker.delivery_headers import RESERVED, USER_AGENT
from qtasks.broker.intake import REPLAY_OF
from qtasks.clock import Clock
from qtasks.errors import ArgumentsError, DecodeError, InvalidValue
from qtasks.ids import Ids
from qtasks.protocol.redact import is_marker
from qtasks.protocol.shapes import DeadLetter
from qtasks.protocol.signature import sign
from qtasks.settings import Settings
from qtasks.tasks.envelope import SIGNATURE_HEADER, EnvelopeSigner, pack, unpack


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP request."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def target_of(to: str, url: str) -> str:
    """Say where on this machine a message to `url` goes: `to`, with the message's own path if it has none.

    Raises `InvalidValue` for what is no URL on this machine: the message was meant for nobody else.

    >>> target_of("http://localhost:8000", "https://app.example.com/qtasks/run?x=1")
    'http://localhost:8000/qtasks/run?x=1'
    """
    parts = urlsplit(to)
    if parts.scheme not in ("http", "https") or not _is_here(parts.hostname or ""):
        raise InvalidValue(f"--to {to!r} must be an app on this machine, such as http://localhost:8000")
    if parts.path.strip("/") or parts.query:
        return to
    wanted = urlsplit(url)
    if not wanted.path.strip("/"):
        raise InvalidValue(
            f"--to {to!r} needs the path of the webhook, as the message has none: http://localhost:8000/qtasks/run"
        )
    return wanted._replace(scheme=parts.scheme, netloc=parts.netloc, fragment="").geturl()


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def attempt_of(letter: DeadLetter, to: str, settings: Settings, clock: Clock, ids: Ids) -> Attempt:
    """Make the attempt; raises `ArgumentsError` for a letter that cannot be delivered here.

    The envelope of a task is sealed anew for the address that it goes to. Headers whose values are hidden
    are left out.
    """
    message = letter.message
    url = target_of(to, message.url)
    if is_marker(message.body.decode(errors="replace")):
        raise ArgumentsError(f"dead letter {letter.dlq_id} has a body that its sender hides: it stays hidden")
    forwarded = {
        name: ", ".join(values)
        for name, values in message.header.items()
        if name not in RESERVED and not any(is_marker(each) for each in values)
    }
    body = message.body
    if SIGNATURE_HEADER in message.header:
        body, forwarded[SIGNATURE_HEADER] = _sealed(letter, url, settings)
        forwarded[REPLAY_OF] = message.message_id
    told = {"User-Agent": USER_AGENT, "Upstash-Message-Id": message.message_id, "Upstash-Retried": "0"}
    if settings.signing_keys:
        key, jti = settings.signing_keys[0], ids.token_id()
        told["Upstash-Signature"] = sign(url, body, key=key, now=clock.now(), jti=jti)
    return Attempt(message.method, url, tuple((forwarded | told).items()), body)


def _sealed(letter: DeadLetter, url: str, settings: Settings) -> tuple[bytes, str]:
    if not settings.secrets:
        raise ArgumentsError(
            f"dead letter {letter.dlq_id} calls a task, so it must be signed as the app here does it: set "
            "QTASKS_SECRET to that app's"
        )
    try:
        envelope = unpack(letter.message.body)
    except DecodeError as error:
        raise ArgumentsError(f"dead letter {letter.dlq_id} cannot be read: {error}") from error
    body = pack(replace(envelope, destination=url, expires_at=None))
    return body, EnvelopeSigner(settings.secrets).sign(body)
