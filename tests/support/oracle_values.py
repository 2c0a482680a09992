"""What the oracle remembers: messages, queues, keys, dead letters, schedules.

How they change is in `oracle.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Protocol

Entry = tuple[str, int, int | None]
"""A state in the log, its instant, and the next delivery that it announces."""

CALLBACK = "https://app.example/callback"
FAILURE_CALLBACK = "https://app.example/failed"
CALLER = "203.0.113.9"
DEFAULT_RETRIES = 3
LADDER_MS = (12_000, 148_000, 1_808_000)
DEDUP_WINDOW_MS = 600_000
READABLE_MS = 60_000
SUSPECT_AFTER = 2
ALONE_MS = 500
EXPRESSIONS: dict[str, Callable[[int], int]] = {
    "0": lambda retried: 0,
    "1000 * (1 + retried)": lambda retried: 1000 * (1 + retried),
    "pow(2, retried) * 700": lambda retried: 700 * 2**retried,
    "max(500, pow(retried, 2) * 1500)": lambda retried: max(500, 1500 * retried**2),
}


class Stage(Enum):
    """Where a message is: in exactly one of these places."""

    READY = "may start as soon as its limits allow"
    WAITING = "waits for an instant"
    ACTIVE = "is in flight"
    DONE = "is delivered, failed or cancelled"


class _Printer(Protocol):
    def text(self, text: str) -> None: ...


class Terse:
    """Shows only what differs from the defaults, so that a failure of many steps can be read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _terse(self)

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:
        """Be shown by hypothesis just so."""
        printer.text(_terse(self))


def _terse(value: Any) -> str:
    members = ((each.name, getattr(value, each.name), each.default) for each in fields(value))
    shown = (f"{name}={member!r}" for name, member, default in members if member != default)
    return f"{type(value).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False)
class Limits(Terse):
    """What a message says of its flow-control key."""

    key: str
    rate: int | None = None
    parallelism: int | None = None
    period_s: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class Settings(Terse):
    """What a message asks for, beside where it goes."""

    retries: int | None = None
    expression: str | None = None
    labels: tuple[str, ...] = ()
    callback: bool = False
    failure_callback: bool = False
    callback_retries: int | None = None
    forwarded: str | None = None
    dedup_id: str | None = None
    content_dedup: bool = False
    delay_s: int | None = None
    not_before_s: int | None = None
    limits: Limits | None = None

    @property
    def max_retries(self) -> int:
        """How many attempts may follow the first."""
        return DEFAULT_RETRIES if self.retries is None else self.retries


@dataclass(frozen=True, slots=True, repr=False)
class Wanted(Terse):
    """A message as it is asked for."""

    url: str
    body: bytes = b""
    settings: Settings = Settings()
    queue: str | None = None
    group: str | None = None
    endpoint: str | None = None
    schedule: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Outcome(Terse):
    """How an attempt ends; status 0 is no answer at all."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    hint_ms: int | None = None
    """When its headers ask for the next attempt."""
    is_final: bool = False
    """Its headers ask for no further attempt."""


NO_ANSWER = Outcome(0)


@dataclass(slots=True)
class Queue:
    """An ordered queue. One that is made again after its deletion is another."""

    name: str
    parallelism: int = 1
    is_paused: bool = False


@dataclass(slots=True)
class Key:
    """A flow-control key."""

    name: str
    parallelism: int | None = None
    rate: int | None = None
    period_s: int = 1
    window_at: int = 0
    count: int = 0
    pins_parallelism: bool = False
    pins_rate: bool = False
    is_paused: bool = False

    def begin_window(self, now: int) -> None:
        """Count from nothing, from the beginning of this second."""
        self.window_at, self.count = now - now % 1000, 0

    def ends_at(self) -> int:
        """Say when the last window ends."""
        return self.window_at + 1000 * self.period_s

    def started(self, now: int) -> int:
        """Say how many attempts have started in the window that `now` is in."""
        return self.count if now < self.ends_at() else 0


@dataclass(eq=False, slots=True)
class Message:
    """An accepted message, and everything that befell it."""

    wanted: Wanted
    created_at: int
    not_before: int
    queue: Queue | None
    key: Key | None
    stage: Stage
    due_at: int
    log: list[Entry]
    id: str = ""
    place: int = -1
    """Its number in the order of acceptance."""
    attempts: int = 0
    interruptions: int = 0
    """How many crashes in a row it was in flight at."""
    started_at: int = 0
    is_cancelled: bool = False
    """A cancel was asked for."""
    callbacks: list[Message] = field(default_factory=list)
    report: dict[str, Any] | None = None
    """What a callback must say."""
    source: Message | None = None
    """Of a callback: the message that it reports on."""
    told_letter_id: str | None = None
    """The id of its dead letter, as its failure callback told it."""
    keeps_slot: bool = False
    """Finished in its queue, where its callbacks hold its slot until they have finished too."""

    @property
    def is_done(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.stage is Stage.DONE

    @property
    def is_suspect(self) -> bool:
        """Whether it may have killed its broker."""
        return self.interruptions >= SUSPECT_AFTER

    def is_due(self, now: int) -> bool:
        """Say whether time at least lets its next attempt start."""
        return self.stage is Stage.READY or (self.stage is Stage.WAITING and self.due_at <= now)

    def holds_slot(self, now: int) -> bool:
        """Say whether it takes up a slot of its queue, other than by starting now (contract 1.5)."""
        if self.stage is Stage.DONE:
            return self.keeps_slot and not all(each.is_done for each in self.callbacks)
        return self.stage is Stage.ACTIVE or (self.attempts > 0 and not self.is_due(now))


@dataclass(eq=False, slots=True)
class Letter:
    """An entry of the dead letter queue."""

    message: Message
    died_at: int
    outcome: Outcome
    id: str | None = None
    """What the broker calls it, once that is known."""


@dataclass(eq=False, slots=True)
class Schedule:
    """A schedule that fires every so many minutes of the hour from its first, and its last run."""

    wanted: Wanted
    first: int
    minutes: int
    next_at: int = 0
    is_paused: bool = False
    last_at: int | None = None
    last_run: list[Message] = field(default_factory=list)
    error: str | None = None

    def following(self, now: int) -> int:
        """Say when it fires next after an instant."""
        period_ms = 60_000 * self.minutes
        return now - (now - 60_000 * self.first) % period_ms + period_ms
