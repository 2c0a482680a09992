"""Reads and writes the two flow-control headers: a key, and the limits of all that share it (contract 3.8).

How limits are kept, and what a pinned key does, is the broker's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from qtasks.errors import BadRequest, InvalidValue
from qtasks.protocol.durations import format_duration, parse_duration_ms
from qtasks.protocol.text import UNSENDABLE, quoted

FLOW_KEY = "Upstash-Flow-Control-Key"
FLOW_VALUE = "Upstash-Flow-Control-Value"
# An index entry of PostgreSQL holds less than 2,704 bytes, and the key stands in one.
MAX_FLOW_KEY_BYTES = 1024
MAX_PERIOD_MS = 7 * 86_400_000

_MALFORMED = (
    "Upstash-Flow-Control-Value should be either rate=X or parallelism=Y, or both as comma-separated values"
)
_COUNT = re.compile("0*([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """The limits of a flow-control key; one of `rate` and `parallelism` is given.

    At most `rate` deliveries start in each `period_ms`, and at most `parallelism` are in flight.
    """

    key: str
    rate: int | None = None
    parallelism: int | None = None
    period_ms: int = 1000

    @property
    def period_s(self) -> int:
        """The period in the seconds that the API shows."""
        return self.period_ms // 1000


def parse_flow(key: str, value: str) -> FlowSpec:
    """Read the key, and a value such as `rate=10, period=1m, parallelism=2`, in any order.

    Either may be empty for a missing header. Raises `BadRequest`, with QStash's text where the value
    is malformed.
    """
    if not key or not value:
        raise BadRequest(f"{FLOW_KEY} and {FLOW_VALUE} must be given together")
    check_flow_key(key)
    found: dict[str, Any] = {}
    for setting in value.split(","):
        name, equals, given = (part.strip(" \t") for part in setting.partition("="))
        if not equals or name in found or name not in ("rate", "parallelism", "period"):
            raise BadRequest(_MALFORMED)
        found[name] = _read_period(given) if name == "period" else _read_limit(given)
    period_ms = found.pop("period", 1000)
    if not found:
        raise BadRequest(_MALFORMED)
    return FlowSpec(key, period_ms=period_ms, **found)


def check_flow_key(key: str) -> None:
    """Refuse what cannot be a key; raises `BadRequest`."""
    if not key or len(key.encode()) > MAX_FLOW_KEY_BYTES:
        raise BadRequest(f"{FLOW_KEY}: must be 1 to {MAX_FLOW_KEY_BYTES} bytes long")
    if UNSENDABLE.search(key):
        raise BadRequest(f"{FLOW_KEY}: {quoted(key)} has control characters")


def parse_period(text: str) -> int:
    """Read the period of a rate, in whole seconds, as milliseconds; raises `InvalidValue`."""
    ms = parse_duration_ms(text)
    if not 1000 <= ms <= MAX_PERIOD_MS or ms % 1000:
        raise InvalidValue(f"the period must be whole seconds, 1s to 7d, not {quoted(text)}")
    return ms


def render_flow(flow: FlowSpec) -> str:
    """Write the value of `Upstash-Flow-Control-Value`; a period that is the default is left out."""
    settings = []
    if flow.parallelism is not None:
        settings.append(f"parallelism={flow.parallelism}")
    if flow.rate is not None:
        settings.append(f"rate={flow.rate}")
    if flow.period_ms != 1000:
        settings.append(f"period={format_duration(flow.period_ms)}")
    return ", ".join(settings)


def _read_limit(text: str) -> int:
    match = _COUNT.fullmatch(text)
    if match is None:
        raise BadRequest(_MALFORMED)
    return int(match[1])


def _read_period(text: str) -> int:
    try:
        return parse_period(text)
    except InvalidValue as error:
        raise BadRequest(f"{FLOW_VALUE}: {error}") from error
