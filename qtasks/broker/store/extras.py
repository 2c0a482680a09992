"""What few messages have, kept together in one column so that all others pay nothing for it.

Options are written as the headers that stand for them on the wire: their one grammar.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import orjson

from qtasks.protocol.flow import FlowSpec
from qtasks.protocol.headers import Callback, Options, parse_options, render_options
from qtasks.protocol.redact import Redaction

PLAIN = ("group", "endpoint", "schedule_id", "api", "fired_at", "expires_at", "batch", "kind")
OPTIONS = ("flow", "redact", "callback", "failure_callback")


@dataclass(frozen=True, slots=True)
class Extras:
    """Where a message comes from and what beyond its delivery it asks for.

    `group` and `endpoint` name the URL group and the endpoint in it, `api` the API whose key it is
    sent with. `fired_at` is the instant of the schedule's fire. From `expires_at` on, no attempt starts
    any more. Both are Unix ms.
    """

    group: str | None = None
    endpoint: str | None = None
    schedule_id: str | None = None
    api: str | None = None
    fired_at: int | None = None
    expires_at: int | None = None
    batch: int | None = None
    """With how many others, at most, its destination takes it in one request."""
    kind: str | None = None
    """A name for work of its sort, if its sender gave one."""
    flow: FlowSpec | None = None
    redact: Redaction | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None

    @property
    def has_callbacks(self) -> bool:
        """Whether anybody is to be told what became of the message."""
        return self.callback is not None or self.failure_callback is not None


NO_EXTRAS = Extras()


def pack_extras(extras: Extras) -> bytes | None:
    """Write extras as they are stored; None if there are none."""
    if extras is NO_EXTRAS or extras == NO_EXTRAS:  # nearly always, and comparing costs
        return None
    return _packed(extras)


@lru_cache(maxsize=256)  # the messages of one sender mostly have the same
def _packed(extras: Extras) -> bytes:
    members: dict[str, object] = {name: getattr(extras, name) for name in PLAIN if getattr(extras, name)}
    options = render_options(Options(**{name: getattr(extras, name) for name in OPTIONS}))
    if options:
        members["options"] = options
    return orjson.dumps(members)


@lru_cache(maxsize=256)  # the messages of one sender mostly have the same
def _unpacked(packed: bytes) -> Extras:
    members = orjson.loads(packed)
    options = parse_options([(name, value) for name, value in members.pop("options", ())])
    return Extras(**members, **{name: getattr(options, name) for name in OPTIONS})


def unpack_extras(packed: bytes | None) -> Extras:
    """The inverse of `pack_extras`."""
    return NO_EXTRAS if packed is None else _unpacked(packed)
