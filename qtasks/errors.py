"""Every exception that qtasks raises, one class for each thing a caller can do about it.

QTasksError
  +-- ConfigurationError        mend a setting, then start again
  +-- TaskDefinitionError       mend a decorator
  +-- ArgumentsError            mend the call: arguments do not fit the task's signature
  +-- UnsupportedByBroker       choose another broker, or do without: this one cannot do it
  +-- EncodeError               mend a value: it would not come back equal
  +-- DecodeError               stored bytes that this version cannot read back
  +-- TaskTimeout               a task that was given up after its `timeout`
  +-- OutsideTask               mend the code: there is no task here to ask about
  +-- InvalidValue              text that a parser of the wire refuses
  +-- SignatureError            a token or body that nobody with the key has signed
  +-- RequestError              the broker refused a request (4xx): nothing happened
  |     +-- BadRequest                400
  |     +-- Unauthorized              401
  |     +-- Forbidden                 403
  |     +-- NotFound                  404
  |     +-- MethodNotAllowed          405
  |     +-- QuotaExceeded             412
  |     +-- TooManyRequests           429
  +-- BrokerError               the broker could not answer: repeat, later
  |     +-- BrokerUnreachable         no answer; `repeat()` sends the same task again
  |     +-- BrokerUnavailable         it answered 5xx or is shutting down
  |     +-- BrokerFailed              its store failed; it has stopped for good
  |     +-- StoreError                the database file or server
  |           +-- StoreUnusable             not ours, not writable, damaged
  |           +-- StoreTooNew               made by a newer version
  |           +-- StoreBusy                 somebody else holds its lock
  |           +-- StoreFull                 no room
  |           +-- StoreUnreachable          its server does not answer; it may again
  +-- ResultError               what waiting for a result can end in
  |     +-- TaskFailed                the task failed for good, or was cancelled
  |     +-- ResultTimeout             it has not finished in time
  |     +-- WaitRefused               waiting here would never end
  |     +-- ResultsUnavailable        this broker keeps no results: give it a place for them
  +-- KitError                  mend the test: the testing kit cannot do that
  +-- ControlFlow               raised by a task on purpose
        +-- Retry                     run it again later
        +-- Reject                    never run it again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any


class QTasksError(Exception):
    """The root of everything that qtasks raises."""


class ConfigurationError(QTasksError):
    """A setting is missing, unsafe or contradicts another."""


class TaskDefinitionError(QTasksError):
    """A function cannot become a task as it is decorated."""


class ArgumentsError(QTasksError, TypeError):
    """The arguments of a call do not fit the task's signature; nothing was sent."""


class UnsupportedByBroker(QTasksError):
    """The broker cannot do what a task, queue or call asks for; nothing was sent.

    `option` is what was asked for, as people write it.
    """

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class EncodeError(QTasksError, ValueError):
    """A value would not come back equal from JSON; nothing was sent.

    `path` leads to the value from the call, such as `order.lines[2].price`.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DecodeError(QTasksError, ValueError):
    """Stored bytes cannot be read back as what they should be; `path` leads to the place."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class TaskTimeout(QTasksError, TimeoutError):
    """A task was given up after its `timeout`: what hooks and `no_retry_on` see of it."""


class OutsideTask(QTasksError, RuntimeError):
    """The context of a task was asked for where none is running."""


class InvalidValue(QTasksError, ValueError):
    """A text does not follow the grammar of the wire; the message quotes it."""


class SignatureError(QTasksError):
    """A signature is missing, forged, expired, or belongs to something else."""


class RequestError(QTasksError):
    """The broker refused a request; nothing happened. `status` is the HTTP status, 4xx."""

    status = 400


class BadRequest(RequestError):
    """Something in the request is malformed or contradicts itself (400)."""

    status = 400


class Unauthorized(RequestError):
    """The bearer token is missing or unknown (401)."""

    status = 401


class Forbidden(RequestError):
    """The token is known but may not do this (403)."""

    status = 403


class NotFound(RequestError):
    """There is nothing of that name or id (404)."""

    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method (405); `allowed` are those it has."""

    status = 405

    def __init__(self, message: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class QuotaExceeded(RequestError):
    """A limit of the broker is exceeded (412)."""

    status = 412


class TooManyRequests(RequestError):
    """Requests come faster than the broker allows (429).

    `limit` is how many a second are allowed, `reset_at` the Unix second from which on there is room again.
    """

    status = 429

    def __init__(self, message: str, *, limit: int | None = None, reset_at: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.reset_at = reset_at


OF_THE_SENDER = (Unauthorized, Forbidden, MethodNotAllowed, TooManyRequests)
"""Refusals that are about who asks, and how: each part of the same request would meet them as well."""

REFUSALS: dict[int, type[RequestError]] = {
    each.status: each
    for each in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        QuotaExceeded,
        TooManyRequests,
    )
}


def refusal(status: int, message: str) -> RequestError:
    """Make the exception that stands for a 4xx answer."""
    error = REFUSALS.get(status, RequestError)(message)
    error.status = status
    return error


class BrokerError(QTasksError):
    """The broker could not do what was asked; repeating later may help."""


class BrokerUnreachable(BrokerError):
    """No answer came from the broker within the budget.

    Whether the task was accepted is unknown. `repeat()` sends the same task again, under the same
    `task_id`, so that it runs once even if the first call did arrive; it returns what the first
    call would have returned.
    """

    def __init__(
        self,
        message: str,
        *,
        task_id: str | None = None,
        repeat: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.task_id = task_id
        self._repeat = repeat

    def repeat(self) -> Any:
        """Send the same task once more; raises `BrokerUnreachable` again if that fails too."""
        if self._repeat is None:
            raise self
        return self._repeat()


class BrokerUnavailable(BrokerError):
    """The broker answers, but cannot serve now; `retry_after` is in seconds, if it said so."""

    def __init__(self, message: str, *, status: int = 503, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class BrokerFailed(BrokerError):
    """The broker's store failed beneath it and it has stopped; restart the process."""


class StoreError(BrokerError):
    """The broker's database cannot be used as it is."""


class StoreUnusable(StoreError):
    """The database is not one of ours, cannot be written, or is damaged."""


class StoreTooNew(StoreError):
    """The database was made by a newer version of qtasks."""


class StoreBusy(StoreError):
    """Somebody else holds the database's lock for longer than we wait."""


class StoreFull(StoreError):
    """There is no room left; nothing was stored."""


class StoreUnreachable(StoreError):
    """The database's server does not answer, or has ended the connection; whether it stored is unknown."""


class ResultError(QTasksError):
    """Waiting for a result ended without one."""


class TaskFailed(ResultError):
    """The task failed for good.

    `type`, `message` and `traceback` are those of the exception where it ran, as text;
    `state` is the task's final state.
    """

    def __init__(self, *, task_id: str, state: str, type: str, message: str, traceback: str | None) -> None:
        super().__init__(f"task {task_id} is {state}: {type}: {message}")
        self.task_id = task_id
        self.state = state
        self.type = type
        self.message = message
        self.traceback = traceback
        if traceback:  # printed with this exception, if nobody catches it
            self.add_note(f"where it ran:\n{traceback.rstrip()}")


class ResultTimeout(ResultError, TimeoutError):
    """The task has not finished within the time given; it goes on."""


class WaitRefused(ResultError, RuntimeError):
    """Waiting here would block what the task needs in order to run."""


class ResultsUnavailable(ResultError):
    """The broker that the tasks go to keeps no results, so there is nothing to ask."""


class KitError(QTasksError, RuntimeError):
    """A test asked something of the testing kit that it cannot do, or that would never end."""


class ControlFlow(QTasksError):
    """Raised by a task to say what should become of it; not a failure of its code."""


class Retry(ControlFlow):
    """Run this task again after `after` (seconds or a timedelta); spends one retry.

    Without `after` the task's usual delay applies. With `args` or `kwargs` it runs with these instead,
    and, as after more than a day, it is enqueued anew under the same task id.
    """

    def __init__(
        self,
        message: str = "retry requested",
        *,
        after: float | timedelta | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.after_s = after.total_seconds() if isinstance(after, timedelta) else after
        if self.after_s is not None and not 0 <= self.after_s <= 366 * 86_400:
            raise ValueError(f"Retry(after={after!r}): a retry may wait from 0 seconds up to 366 days")
        self.new_args = args
        self.new_kwargs = kwargs

    @property
    def is_anew(self) -> bool:
        """Whether it takes another message: a broker repeats one as it is, within a day."""
        is_changed = self.new_args is not None or self.new_kwargs is not None
        return is_changed or (self.after_s is not None and self.after_s > 86_400)


class Reject(ControlFlow):
    """Never run this task again: it goes to the dead letter queue at once."""
