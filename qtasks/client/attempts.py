"""Makes one plain HTTP request, as a broker makes an attempt: for tools that deliver something by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from qtasks.errors import BrokerUnreachable


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination answered; names of headers are in small letters."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def send_attempt(
    method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, *, timeout: float
) -> Answer:
    """Make the request, following no redirect; raises `BrokerUnreachable` if nobody answers."""
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    try:
        with httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout) as http:
            answer = http.request(method, url, headers=pairs, content=body)
    except httpx.TransportError as error:
        raise BrokerUnreachable(f"{url} does not answer ({str(error) or type(error).__name__})") from error
    return Answer(answer.status_code, answer.content, dict(answer.headers))
