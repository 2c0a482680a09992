"""`Queue`: how an app declares a queue, and what it says of the tasks in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from qtasks.errors import ConfigurationError
from qtasks.protocol.headers import QueueSpec
from qtasks.tasks.keys import Span
from qtasks.tasks.options import (
    DEFAULTS,
    Changes,
    Delay,
    FailureHook,
    Raised,
    SuccessHook,
    read_options,
)

UNDECLARED = QueueSpec(parallelism=16, ordered=False)
"""How a queue is made that nobody has declared."""


@dataclass(frozen=True, slots=True)
class Queue:
    """How a queue is made: how many of its tasks run at once, and whether strictly in order.

    An ordered queue starts its tasks in the order of their calls, and one that waits for its retry
    holds up those behind it. The other members are options of the tasks in this queue, where neither
    the task nor its call says otherwise.
    """

    parallelism: int | None = None
    """By default 16, or 1 if ordered."""
    ordered: bool = False
    _: KW_ONLY
    retries: int | None = None
    retry_delay: Delay | None = None
    retry_jitter: float | bool | None = None
    timeout: Span | None = None
    expires: Span | None = None
    result_ttl: Span | None = None
    dedup_window: Span | None = None
    label: str | Sequence[str] | None = None
    retry_on: Raised | None = None
    no_retry_on: Raised | None = None
    log_args: bool | None = None
    on_success: SuccessHook | None = None
    on_failure: FailureHook | None = None
    on_retry: FailureHook | None = None
    on_exhausted: FailureHook | None = None

    def __post_init__(self) -> None:
        if self.parallelism is not None and self.parallelism < 1:
            raise ConfigurationError(
                f"Queue(parallelism={self.parallelism}): at least 1 task must be able to run"
            )
        self.read()

    @property
    def spec(self) -> QueueSpec:
        """The declaration as it goes over the wire."""
        return QueueSpec(self.parallelism or (1 if self.ordered else 16), self.ordered)

    def read(self) -> Changes:
        """Give the options of this queue's tasks, converted; raises `ConfigurationError`."""
        written = {name: getattr(self, name) for name in DEFAULTS if name != "queue"}
        given = {name: value for name, value in written.items() if value is not None}
        return read_options(given, of="Queue()", known=DEFAULTS, error=ConfigurationError)
