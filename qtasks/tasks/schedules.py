"""What an app's code wants of schedules, and how that compares with what its broker has.

Pure: brokers are asked and told in `home/`. A schedule of ours bears a mark in a forwarded header, which
says how it was made; nothing without one is ever touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qtasks.errors import ConfigurationError, SignatureError
from qtasks.protocol.headers import render_options
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import Outgoing
from qtasks.tasks.envelope import SIGNATURE_HEADER, EnvelopeSigner
from qtasks.tasks.periodic import Periodic
from qtasks.tasks.task import Task

MARK = "Qtasks-Schedule"
LONGEST_ID = 100  # a result's id adds an instant to it, and 128 characters are the most
PAUSED, RUNNING = "paused", "running"

AnyTask = Task[..., Any, Any]
Pack = Callable[[AnyTask, Periodic, str], Outgoing]
"""Makes the message of a schedule's calls, under the id of the schedule."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What to tell a broker: schedules to save, those of them to pause after that, and those to delete."""

    saved: Sequence[Outgoing] = ()
    paused: frozenset[str] = frozenset()
    gone: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Timetable:
    """The schedules of an app as its code has them, by id; `destination` is the app's own address."""

    app: str
    destination: str
    signer: EnvelopeSigner
    wanted: Mapping[str, Outgoing]

    def changes(self, found: Iterable[ScheduleView]) -> Changes:
        """Compare with the schedules of a broker, where others may have theirs.

        What is as the code has it stays untouched, and so do its next fire and its last run. A pause stays
        even where a schedule changes, unless the code itself begins or ends it. Raises
        `ConfigurationError` if another app has a schedule of the same id.
        """
        prefix = _prefix(self.app)
        there = {each.schedule_id: each for each in found if each.schedule_id.startswith(prefix)}
        saved: list[Outgoing] = []
        paused: set[str] = set()
        for id_, message in self.wanted.items():
            mark = _mark(message)
            view = there.get(id_)
            if view is None:
                is_paused = mark.is_paused
            elif not self._is_ours(view):
                raise ConfigurationError(
                    f"the broker has a schedule {id_} already, which is not this app's; "
                    f"give this app a name of its own: QTasks(name=...) instead of {self.app!r}"
                )
            elif (known := _mark_of(view)) == mark:
                continue
            else:
                is_paused = view.is_paused if known.is_paused == mark.is_paused else mark.is_paused
            saved.append(message)
            paused.update([id_] if is_paused else ())
        gone = [id_ for id_, view in there.items() if id_ not in self.wanted and self._is_ours(view)]
        return Changes(saved, frozenset(paused), gone)

    def _is_ours(self, view: ScheduleView) -> bool:
        """Whether this app made it: it comes to our address, or bears our signature from an earlier one."""
        if MARK not in view.header:
            return False
        if view.destination == self.destination:
            return True
        try:
            self.signer.check(view.body, "".join(view.header.get(SIGNATURE_HEADER, ())))
        except SignatureError:
            return False
        return True


def make_timetable(
    app: str, destination: str, signer: EnvelopeSigner, tasks: Iterable[AnyTask], pack: Pack
) -> Timetable:
    """Collect the schedules of tasks; raises `ConfigurationError` if two of them have one id."""
    wanted: dict[str, Outgoing] = {}
    owners: dict[str, str] = {}
    for task in tasks:
        for periodic in task.schedules:
            id_ = schedule_id(app, task.name, str(periodic.name))
            if id_ in wanted:
                raise ConfigurationError(
                    f"tasks {owners[id_]} and {task.name} both have a schedule {id_}; "
                    "give one of the schedules another name"
                )
            owners[id_] = task.name
            wanted[id_] = _marked(pack(task, periodic, id_), periodic)
    return Timetable(app, destination, signer, wanted)


def schedule_id(app: str, task: str, name: str) -> str:
    """Give the id of a task's schedule: readable, and unlike any other also where that takes a digest.

    >>> schedule_id("app", "shop.report", "1")
    'qt.app.shop.report.1'
    """
    full = f"{_prefix(app)}{task}.{name}"
    plain = re.sub("[^A-Za-z0-9._-]", "_", full)
    if plain == full and len(full) <= LONGEST_ID:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:16]
    return f"{plain[: LONGEST_ID - len(digest) - 1]}-{digest}"


def _prefix(app: str) -> str:
    return f"qt.{app}."


@dataclass(frozen=True, slots=True)
class _Mark:
    """How a schedule was made: the digest of what the broker was told, and whether the code paused it."""

    digest: str
    is_paused: bool


def _marked(message: Outgoing, periodic: Periodic) -> Outgoing:
    told = hashlib.sha256(message.destination.encode())
    for name, value in render_options(message.options):
        told.update(f"\n{name}: {value}".encode())
    told.update(b"\n\n" + message.body)
    mark = f"{told.hexdigest()[:32]} {PAUSED if periodic.paused else RUNNING}"
    options = message.options
    return replace(message, options=replace(options, forward=(*options.forward, (MARK, mark))))


def _mark(message: Outgoing) -> _Mark:
    return _read_mark(dict(message.options.forward)[MARK])


def _mark_of(view: ScheduleView) -> _Mark:
    return _read_mark("".join(view.header[MARK]))


def _read_mark(text: str) -> _Mark:
    digest, _, state = text.partition(" ")
    return _Mark(digest, state == PAUSED)
