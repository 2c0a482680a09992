"""Finds the task that a message names and makes the message's arguments fit it, across versions of the app.

What does not fit yet may do so soon, as a roll-out may be under way: such a message waits for a while.
What will never fit is answered once and for all, with what is to be mended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from qtasks.clock import Clock
from qtasks.errors import ConfigurationError, DecodeError, InvalidValue
from qtasks.protocol.durations import span_ms
from qtasks.tasks.answers import NON_RETRYABLE, UNCOUNTED, Answer, describe, problem
from qtasks.tasks.envelope import Envelope
from qtasks.tasks.keys import Span
from qtasks.tasks.task import Task
from qtasks.values import dataclass

log = logging.getLogger("qtasks.task")

UNKNOWN_TASK = "unknown_task"
AFTER_S = 10
WINDOW_MS = 600_000
MOST_NAMES = 1000
SHOWN_NAMES = 10


@dataclass(frozen=True, slots=True)
class Fit:
    """A task and the arguments that it is to be called with; `envelope` is of the task's present version."""

    task: Task[..., Any, Any]
    envelope: Envelope
    args: tuple[object, ...]
    kwargs: Mapping[str, object]


class Fitter:
    """Fits messages to the tasks of an app, which `find` looks up and `names` lists.

    A message of a task or version that is not here is put off until it and its like have been seen here
    for `window_ms`. `redact` are secrets that must not leave in an error.
    """

    def __init__(
        self,
        find: Callable[[str], Task[..., Any, Any] | None],
        names: Callable[[], Iterable[str]],
        *,
        window_ms: int,
        clock: Clock,
        redact: Sequence[str],
    ) -> None:
        self._find = find
        self._names = names
        self._clock = clock
        self._redact = redact
        self._window_ms = window_ms
        self._unknown = _Sightings(window_ms)

    def fit(self, envelope: Envelope, message_id: str) -> Fit | Answer:
        """Give the task and its arguments, or what to answer where there is none that fits."""
        task = self._find(envelope.task)
        if task is None:
            text = _not_here(envelope.task, [*self._names()])
            return self._unknown_task(envelope, message_id, text)
        if envelope.version > task.version:
            return self._unknown_task(envelope, message_id, _too_new(envelope, task))
        try:
            upgraded = _upgraded(task, envelope)
        except DecodeError as error:
            if error.__cause__ is None:
                return problem(489, "DecodeError", str(error), NON_RETRYABLE)
            return Answer(489, describe(error, "DecodeError", self._redact), (NON_RETRYABLE,))
        try:
            return Fit(task, upgraded, *task.signature.decode(upgraded.args, upgraded.kwargs))
        except DecodeError as error:
            return problem(489, "DecodeError", _misfit(task, envelope, error), NON_RETRYABLE)

    def _unknown_task(self, envelope: Envelope, message_id: str, text: str) -> Answer:
        """Put a message off as long as its task may be on its way here; then refuse it.

        A fresh message has the whole window, whatever others have waited; and one that comes out of a long
        queue has it too, from the first that was seen.
        """
        now = self._clock.now()
        due_at = max(envelope.enqueued_at, envelope.start_at or 0)
        seen_ms = self._unknown.seen_for(f"{envelope.task}@{envelope.version}", self._clock.monotonic())
        if not seen_ms:
            facts = {"task": envelope.task, "task_id": envelope.id, "message_id": message_id}
            log.warning("task is not here, will retry", extra={**facts, "version": envelope.version})
        if min(seen_ms, now - due_at) < self._window_ms:
            put_off = (UNCOUNTED, UNKNOWN_TASK), ("Retry-After", str(AFTER_S))
            return problem(503, "UnknownTask", text, *put_off, reason=UNKNOWN_TASK)
        return problem(489, "UnknownTask", text, NON_RETRYABLE, reason=UNKNOWN_TASK)


class _Sightings:
    """Remembers since when unknown names have been asked for; a name unheard of for a window starts anew."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._first_and_last: dict[str, tuple[int, int]] = {}

    def seen_for(self, name: str, now: int) -> int:
        """Say for how long a name, which is asked for again now, has been; `now` is monotonic, in ms."""
        first, last = self._first_and_last.pop(name, (now, now))
        if now - last > self._window_ms:
            first = now
        while len(self._first_and_last) >= MOST_NAMES:  # the one that nobody asked for longest
            del self._first_and_last[next(iter(self._first_and_last))]
        self._first_and_last[name] = (first, now)
        return now - first


def read_window(window: Span) -> int:
    """Read how long messages of unknown tasks wait, in ms; raises `ConfigurationError`."""
    try:
        return span_ms(window)
    except (InvalidValue, TypeError) as error:
        raise ConfigurationError(f"QTasks(unknown_task_window={window!r}): {error}") from error


def _upgraded(task: Task[..., Any, Any], envelope: Envelope) -> Envelope:
    """Bring arguments from their version to the task's present one; raises `DecodeError`."""
    if envelope.version == task.version:
        return envelope
    args, kwargs = envelope.args, envelope.kwargs
    for version in range(envelope.version, task.version):
        upgrade = task.upgrades.get(version)
        if upgrade is None:
            raise DecodeError(
                f"task {task.name} was enqueued with arguments of version {envelope.version}, which is now "
                f"{task.version}; no function converts them from version {version}: write one with "
                f"@{task.__name__}.upgrade(from_version={version})"
            )
        what = f"the upgrade of task {task.name} from version {version}"
        try:
            converted = upgrade(*args, **kwargs)
        except Exception as error:  # their code: it may be mended, and the dead letter run again
            raise DecodeError(f"{what} raised {type(error).__name__}: {error}") from error
        if not isinstance(converted, Mapping):
            raise DecodeError(
                f"{what} gave {type(converted).__name__}; it is to give a dict of the new arguments by name"
            )
        args, kwargs = (), converted
    return replace(envelope, args=args, kwargs=kwargs, version=task.version)


def _not_here(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 3, 0.7)
    if near:
        known = f"near it: {', '.join(map(repr, near))}"
    elif names:
        more = ", …" if len(names) > SHOWN_NAMES else ""
        known = f"known: {', '.join(map(repr, sorted(names)[:SHOWN_NAMES]))}{more}"
    else:
        known = "there are none at all"
    return (
        f"no task is named {name!r} here ({known}); is the module that defines it imported? "
        "A task that was renamed keeps its old name with aliases=[...]"
    )


def _too_new(envelope: Envelope, task: Task[..., Any, Any]) -> str:
    return (
        f"task {task.name} was enqueued with arguments of version {envelope.version}, but here it is at "
        f"version {task.version}; is a newer version of the app being rolled out, or was it rolled back?"
    )


def _misfit(task: Task[..., Any, Any], envelope: Envelope, error: DecodeError) -> str:
    since = "" if envelope.version == task.version else f" and upgraded from version {envelope.version}"
    return (
        f"task {task.name} was enqueued{since} with arguments that its present signature does not take: "
        f"{error}; give a new parameter a default, or raise the task's version and convert with "
        f"@{task.__name__}.upgrade(from_version={task.version})"
    )
