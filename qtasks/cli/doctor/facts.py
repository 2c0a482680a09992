"""All that is known of a setup before it is judged: values only. What could not be had says why instead.

`gathering.py` finds them out, and the checks judge them. No secret is among the texts that they show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from qtasks.client.attempts import Answer
from qtasks.protocol.headers import QueueSpec
from qtasks.protocol.shapes import QueueView
from qtasks.settings import HomeKind, Settings
from qtasks.tasks.options import TaskOptions
from qtasks.tasks.periodic import Periodic


@dataclass(frozen=True, slots=True)
class KeysFacts:
    """The file of secrets beside a database; `error` is why it cannot be used."""

    path: Path
    made_at: int
    rotated_at: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A SQLite file and who owns it. `schema` is None where there is none, or `error` says why."""

    path: Path
    has_folder: bool
    may_write: bool
    newest_schema: int
    free_bytes: int
    wanted_bytes: int
    """Below which a broker accepts nothing more."""
    filesystem: str
    mode: int | None = None
    schema: int | None = None
    error: str | None = None
    is_held: bool = False
    has_owner: bool = False
    """Whether somebody owns it who listens to others."""
    keys: KeysFacts | None = None


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """A database that processes share. `shown` is its address without the password."""

    shown: str
    looks_pooled: bool
    has_pooler: bool
    newest_schema: int
    version: int | None = None
    """As PostgreSQL numbers itself: 160003 is 16.3."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    schema: int | None = None
    nodes: int | None = None
    """How many take part just now; None where that could not be asked, or there is no store yet."""
    error: str | None = None


class Trouble(Enum):
    """Why a broker did not answer what it was asked."""

    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A message of an ordered queue that waits for its retry, and holds up those behind it."""

    queue: str
    message_id: str
    waiting: int


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What a broker answered; `trouble` and `error` say why it did not."""

    name: str
    trouble: Trouble | None = None
    error: str | None = None
    skew_ms: int | None = None
    """How far this machine's clock is ahead of the broker's."""
    not_ready: str | None = None
    pair: tuple[str, str] | None = field(default=None, repr=False)
    """Current and next signing key."""
    rotated_at: int | None = None
    queues: tuple[QueueView, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class WebhookFacts:
    """What came back from the public address: without a signature, and with one of our keys.

    A text stands for an answer that did not come; `signed` is None where there is nothing to sign with.
    """

    url: str
    unsigned: Answer | str
    signed: Answer | str | None = None


@dataclass(frozen=True, slots=True)
class AppFacts:
    """What an app declares."""

    tasks: Mapping[str, TaskOptions]
    schedules: Mapping[str, tuple[Periodic, ...]]
    queues: Mapping[str, QueueSpec]
    concurrency: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One setup. `settings` are those of the app if one was named, else those of the environment."""

    environment: Mapping[str, str] = field(repr=False)
    """The variables that concern us."""
    now: int
    sqlite_version: tuple[int, ...]
    open_files: int
    settings: Settings | None = None
    settings_error: str | None = None
    home: HomeKind | None = None
    """None also where `broker_error` says that the URL of the broker is none."""
    broker_error: str | None = None
    is_for_hosted: bool = False
    app: AppFacts | None = None
    app_error: str | None = None
    file: FileFacts | None = None
    postgres: PostgresFacts | None = None
    broker: BrokerFacts | None = None
    webhook: WebhookFacts | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether the broker calls the app's webhook, as it is no part of the app."""
        return self.home in (HomeKind.HTTP, HomeKind.HOSTED)
