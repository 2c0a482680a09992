"""The values that pass between policy and the store's verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from enum import IntEnum

from qtasks.broker.store.extras import NO_EXTRAS, Extras
from qtasks.values import dataclass

Headers = tuple[tuple[str, str], ...]
Lease = tuple[int, int]
"""The sequence number of a message, and the number of the lease of it."""


# In flight at one crash is bad luck. From the second in a row on, a message runs alone, so that one
# which kills its process does not spend the attempts of its neighbours.
SUSPECT_AFTER = 2


class Stage(IntEnum):
    """Where a pending message is. From WAITING on, it waits for its `due_at`."""

    READY = 0
    ACTIVE = 1
    WAITING = 2
    HELD = 3
    """Waits for its retry and keeps its place in an ordered queue (contract 1.5)."""


class LogKind(IntEnum):
    """How an attempt ended; which entries of the log that makes is said in `logs.py`."""

    DELIVERED = 1
    RETRY = 2
    FAILED = 3
    RETURNED = 4
    """Handed back without spending an attempt."""
    CANCELLED = 5
    """Called off while it waited; no attempt belongs to this row."""
    ENDED_CANCELLED = 6
    """The attempt failed, and no other follows because the message was called off meanwhile."""
    EXPIRED = 7
    """Called off because it was too late to start; no attempt belongs to this row."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that has passed every check, ready to be stored."""

    id: str
    queue: str
    """The queue's name; "" for a message that was published without one. A flow-control key, which is in
    `extras`, makes a queue of its own."""
    parallelism: int
    ordered: bool
    """How to make the queue if it is missing; an existing one is not changed."""
    url: str
    method: str
    headers: Headers
    body: bytes
    created_at: int
    start_at: int | None
    """Not to be delivered before this instant; None for at once."""
    max_retries: int
    timeout_ms: int
    retry_delay: str | None = None
    labels: tuple[str, ...] = ()
    task_id: str | None = None
    result_ttl_ms: int | None = None
    dedup_key: str | None = None
    dedup_until: int = 0
    app: str | None = None
    """The app that must run it in process; None for a delivery over HTTP."""
    caller_ip: str | None = None
    extras: Extras = NO_EXTRAS
    source: int | None = None
    """Of a callback: the sequence number of the message that it reports on."""
    is_failure_callback: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A message leased to this node, with what one delivery attempt needs."""

    seq: int
    id: str
    queue: str | None
    app: str | None
    url: str
    method: str
    headers: Headers
    body: bytes
    created_at: int
    attempt: int
    """Counts from 1; this attempt included."""
    lease_epoch: int
    lease_until: int
    started_at: int
    max_retries: int
    timeout_ms: int
    retry_delay: str | None
    task_id: str | None
    result_ttl_ms: int | None
    caller_ip: str | None
    queue_id: int
    ordered: bool
    interrupted: int
    """How many times in a row it was in flight when its broker died."""
    guard_until: int | None
    """Until then an earlier attempt may still be running in the app."""
    not_before: int = 0
    extras: Extras = NO_EXTRAS
    source: int | None = None
    """Of a callback: the sequence number of the message that it reports on."""

    @property
    def lease(self) -> Lease:
        """What tells this attempt from all others of the message."""
        return self.seq, self.lease_epoch

    @property
    def is_suspect(self) -> bool:
        """Whether it may have killed its broker."""
        return self.interrupted >= SUSPECT_AFTER


class Trouble(IntEnum):
    """Why there was no answer, where that says something about the destination."""

    UNREACHABLE = 1
    """No connection came about."""
    SILENT = 2
    """It did not answer in time, or broke off."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a destination answered, or its absence: `status` 0 with `error` set."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    error: str | None = None
    truncated: bool = False
    """The answer was longer than we keep; `body` is its beginning."""
    is_alone_next: bool = False
    """It was lost among others, and may have broken them off: the next attempt goes alone."""
    hold: object = field(default=None, repr=False, compare=False)
    """What gives back the room that the body takes, once nobody has the reply any more."""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The message is done."""


DELIVERED = Delivered()
"""The one that all share: another for each would be one more for the garbage collector to look at."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt follows at `at` (Unix ms), or as soon as there is a slot if None."""

    at: int | None
    counted: bool = True
    """False: this attempt is not spent (promise P17, and redelivery of what still runs)."""
    interrupted: bool = False
    """It was in flight when its broker died: perhaps it killed it, perhaps it still runs."""


@dataclass(frozen=True, slots=True)
class Dead:
    """No attempt remains, or none is wanted: to the dead letter queue."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The attempt failed, and the message was called off meanwhile: that is all (contract 1.9)."""


Verdict = Delivered | Again | Dead | Cancelled


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claim, to be recorded."""

    claim: Claim
    reply: Reply
    verdict: Verdict
    ended_at: int
    cancel_at: int | None = None
    """When it was called off during the attempt; found by the store."""
    callbacks: Sequence[NewMessage] = ()
    """The messages that tell others of it; they are stored with it, or not at all (promise P14)."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim brought: the leases, and when the next waiting message falls due."""

    claims: Sequence[Claim]
    next_due_at: int | None
    ended: Sequence[str] = ()
    """The tasks that turned out to have expired."""
    is_all: bool = False
    """Nothing that may start is left; what comes later is announced."""
    turned_away: Sequence[tuple[int, str]] = ()
    """The queues whose destination has no room, and which that is."""


NOTHING = Claimed((), None)
