"""`Context`: what a running task may know of its own call, and `current`, which finds it from anywhere.

It is made and set by `execution.py`, on the thread and in the context in which the task runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from qtasks.clock import Clock
from qtasks.errors import OutsideTask, Retry
from qtasks.protocol.durations import span_ms
from qtasks.protocol.results import ProgressReport
from qtasks.tasks.cancellation import Cancellation
from qtasks.tasks.inbox import Once
from qtasks.tasks.keys import Span
from qtasks.values import dataclass

ReportProgress = Callable[[str, ProgressReport], None]
"""Takes how far a task has come, by its id; must neither block nor raise."""


@dataclass(frozen=True, slots=True)
class Context:
    """One attempt of one call of a task. Instants are aware, in UTC."""

    task: str
    """The task's name."""
    task_id: str
    """The same over all attempts, and over replays."""
    message_id: str
    """The same over all attempts: an idempotency key."""
    retried: int
    """How many retries were made before this attempt, from 0."""
    queue: str | None
    """The queue that the call went to; None if an older version enqueued it."""
    enqueued_at: datetime
    scheduled_at: datetime | None
    """The instant of `countdown`, `eta` or a schedule; None for a call that was to run at once."""
    schedule: str | None
    """The name of the schedule that made the call, or its number; None if code made it."""
    deadline: datetime | None
    """When this attempt is given up, as `timeout` says."""
    headers: Mapping[str, str] = field(repr=False)
    """What came with the delivery, names in lower case."""
    _cancellation: Cancellation = field(repr=False)
    _ends_at: int | None = field(repr=False)
    _clock: Clock = field(repr=False)
    _report: ReportProgress | None = field(default=None, repr=False)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.retried + 1

    @property
    def is_replay(self) -> bool:
        """Whether a dead letter is being run again; only our own broker says so."""
        return "qtasks-replay-of" in self.headers

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was called off, or its broker no longer waits: a function should stop then.

        A coroutine need not ask, as it is cancelled where it waits.
        """
        return self._cancellation.is_cancelled

    def shield(self) -> AbstractContextManager[None]:
        """Put the cancellation of a coroutine off until the end of a block: `with context.shield(): ...`.

        There it is raised. The timeout, and the end of the process, are not put off.
        """
        return self._cancellation.shield()

    def remaining(self) -> float:
        """Say how many seconds are left until the deadline: 0 after it, infinity without one.

        A step of the wall clock does not change it.
        """
        if self._ends_at is None:
            return math.inf
        return max(0, self._ends_at - self._clock.monotonic()) / 1000

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far this task has come, for whoever holds its result: `progress(30, 100, "Importing")`.

        It costs next to nothing, and never waits for the broker or fails because of it: at most four
        times a second, what is newest is sent. Raises `InvalidValue` for what is no number or text.
        """
        report = ProgressReport.of(done, total, note)
        if self._report is not None:
            self._report(self.task_id, report)

    def once(self, connection: object, key: str = "") -> Once:
        """Have an effect happen once in this database, however often the task runs.

        `with context.once(connection) as fresh:`, or `async with`, inside the transaction of the effect,
        which commits both. `fresh` is false where an earlier run has committed, and `fresh.result` is then
        what that run had set it to. A task with several effects gives each a `key`.
        """
        return Once(connection, f"{self.task_id}:{key}" if key else self.task_id, self._clock.now())

    def retry(
        self,
        exc: BaseException | None = None,
        countdown: Span | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> NoReturn:
        """End this attempt and have the task run again, which spends a retry: raises `Retry`.

        It runs after `countdown`, else after the task's usual delay, and with `args` and `kwargs` in place
        of its arguments if one of them is given. `exc` is why: it shows in the error that is kept.
        """
        after = None if countdown is None else timedelta(milliseconds=span_ms(countdown))
        if exc is None:
            raise Retry(after=after, args=args, kwargs=kwargs)
        message = f"retry requested after {type(exc).__name__}: {exc}"
        raise Retry(message, after=after, args=args, kwargs=kwargs) from exc


CURRENT: ContextVar[Context | None] = ContextVar("qtasks_context", default=None)


def current() -> Context:
    """Give the context of the task that is running here: also in what it calls, awaits or starts.

    Raises `OutsideTask` if there is none.
    """
    found = CURRENT.get()
    if found is None:
        raise OutsideTask(
            "no task is running here, so there is no context; to call the function of a task with "
            "bind=True yourself, give it one: task.function(context, ...)"
        )
    return found


def make_context(
    task: str,
    task_id: str,
    message_id: str,
    *,
    retried: int,
    queue: str | None = None,
    enqueued_at: int,
    start_at: int | None = None,
    schedule: str | None = None,
    timeout_ms: int | None = None,
    headers: Mapping[str, str] | None = None,
    cancellation: Cancellation | None = None,
    clock: Clock,
    report: ReportProgress | None = None,
) -> Context:
    """Make the context of an attempt that starts now; instants are Unix milliseconds."""
    return Context(  # in the order of its fields, which is much quicker than by their names
        task,
        task_id,
        message_id,
        retried,
        queue,
        _instant(enqueued_at),
        None if start_at is None else _instant(start_at),
        schedule,
        None if timeout_ms is None else _instant(clock.now() + timeout_ms),
        headers or {},
        cancellation or Cancellation(),
        None if timeout_ms is None else clock.monotonic() + timeout_ms,
        clock,
        report,
    )


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
