"""Decides what one execution's failure comes to: whether it is tried again, and when.

Pure: no clock and no I/O. Whether is the app's to say; when and how often is the broker's, which this
tells by status and headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qtasks.errors import Reject, Retry, TaskTimeout, UnsupportedByBroker
from qtasks.protocol.durations import span_ms
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.ladder import ladder_ms
from qtasks.tasks.answers import NON_RETRYABLE
from qtasks.tasks.options import TaskOptions

DAY_MS = 86_400_000


class Ending(Enum):
    """How an attempt ended, for the hooks of its task."""

    DONE = "success"
    AGAIN = "retry"
    REFUSED = "failure"
    """It failed for good: the error is not one to try again."""
    EXHAUSTED = "exhausted"
    """It failed for good: no attempt is left."""
    CANCELLED = "cancelled"
    """It was called off while it ran, which is no failure of the task's."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What the broker is answered about a failed attempt, and what that means for the task."""

    status: int
    headers: tuple[tuple[str, str], ...]
    ending: Ending
    retry_in_ms: int | None = None
    """How long the broker will wait, if the task is tried again."""


def judge(
    error: BaseException,
    options: TaskOptions,
    *,
    retried: int,
    retries: int,
    retry_delay: str | None,
    fraction: float,
    spent: int = 0,
) -> Failure:
    """Say what becomes of a task that raised `error` in the attempt after `retried` of its `retries`.

    `retry_delay` is the expression that its broker has, and goes before a function that it declares;
    `fraction`, from 0 to 1, is where a delay with jitter falls.
    The broker does not know of the `spent` retries, which were made before the call was enqueued anew.
    """
    ending = Ending.AGAIN if retried < retries else Ending.EXHAUSTED
    if isinstance(error, Retry):
        status, wait_ms = 503, None if error.after_s is None else round(error.after_s * 1000)
    elif isinstance(error, Reject | UnsupportedByBroker) or not options.is_retried(error):
        return Failure(489, (NON_RETRYABLE,), Ending.REFUSED)
    else:
        status, wait_ms = 504 if isinstance(error, TaskTimeout) else 500, None
        if ending is Ending.AGAIN:
            wait_ms = _wait_ms(error, options, retried, retry_delay, fraction)
    retry_in_ms = None
    if ending is Ending.AGAIN:
        retry_in_ms = _usual_wait_ms(retry_delay, retried - spent) if wait_ms is None else max(0, wait_ms)
    return Failure(status, _after(wait_ms), ending, retry_in_ms)


def _wait_ms(
    error: BaseException, options: TaskOptions, retried: int, retry_delay: str | None, fraction: float
) -> int | None:
    """Say how long to wait, where the app knows better than the broker; None where it does not.

    What `retry_delay` itself raises, or gives that is no span, is as if it had said nothing.
    """
    if retry_delay is None and options.retry_delay_of is not None:
        try:
            wait_ms = span_ms(options.retry_delay_of(retried + 1, error))
        except Exception:  # their code: a bug in it must not hide the task's own error
            return None
    elif not options.retry_jitter:
        return None
    else:
        wait_ms = _usual_wait_ms(retry_delay, retried)
    return min(DAY_MS, round(wait_ms * (1 - options.retry_jitter * fraction)))


def _usual_wait_ms(retry_delay: str | None, retried: int) -> int:
    """Say how long the broker waits of its own accord."""
    return ladder_ms(retried) if retry_delay is None else parse_expression(retry_delay).delay_ms(retried)


def _after(wait_ms: int | None) -> tuple[tuple[str, str], ...]:
    if wait_ms is None:
        return ()
    return (("Retry-After", f"{max(0, wait_ms) / 1000:.3f}".rstrip("0").rstrip(".")),)
