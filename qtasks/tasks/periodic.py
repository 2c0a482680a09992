"""When the clock calls a task: `cron` and `every`, as `@task(schedule=...)` takes them.

These are values of the code. What a broker is told of them, and when, is in `schedules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from qtasks.errors import ArgumentsError, EncodeError, InvalidValue, TaskDefinitionError
from qtasks.protocol.cron import parse_cron
from qtasks.protocol.every import LONGEST_MS, SHORTEST_MS, Every, Timing
from qtasks.protocol.header_values import CATCH_UP, OVERLAP
from qtasks.tasks.codec import Signature

Overlap = Literal["allow", "skip"]
CatchUp = Literal["latest", "all", "none"]

_NAME = re.compile("[A-Za-z0-9._-]{1,64}")
_FIELDS_WITH_SECONDS = 6


@dataclass(frozen=True, slots=True)
class Periodic:
    """Calls of a task that the broker makes by the clock; `cron` and `every` make it.

    `name` tells the schedules of a task apart. Without one it is their number, from 1.
    """

    timing: Timing
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    overlap: Overlap = "allow"
    catch_up: CatchUp = "latest"
    name: str | None = None
    paused: bool = False


def cron(
    expression: str,
    *,
    tz: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    overlap: Overlap = "allow",
    catch_up: CatchUp = "latest",
    name: str | None = None,
    paused: bool = False,
) -> Periodic:
    """Have a task called when a cron expression says so: `cron("0 9 * * mon-fri", tz="Europe/Paris")`.

    Five fields (minute, hour, day of month, month, day of week) or a nickname such as `@daily`; `tz` is an
    IANA time zone, UTC by default. `args` and `kwargs` are those of the calls. With `overlap="skip"` no
    call is made while the one before has not finished. `catch_up` says which calls are made up for that
    no broker was there to make: the `latest`, `all` or `none`. `paused` makes none until it is resumed.
    Raises `TaskDefinitionError`.
    """
    of = f"cron({expression!r})" if tz is None else f"cron({expression!r}, tz={tz!r})"
    try:
        timing = parse_cron(f"{expression}" if tz is None else f"CRON_TZ={tz} {expression}")
    except InvalidValue as error:
        has_seconds = len(str(expression).split()) == _FIELDS_WITH_SECONDS
        hint = "; seconds have no field, but there is every(seconds=...)" if has_seconds else ""
        raise TaskDefinitionError(f"{of}: {error}{hint}") from error
    return _periodic(of, timing, args, kwargs, overlap, catch_up, name, paused)


def every(
    *,
    seconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    days: float = 0,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    overlap: Overlap = "allow",
    catch_up: CatchUp = "latest",
    name: str | None = None,
    paused: bool = False,
) -> Periodic:
    """Have a task called every so often: `every(minutes=5)`, from one second up to 366 days.

    It is called at each multiple of the interval since 1970, in UTC, so a restart does not shift it:
    `every(hours=1)` is on the hour. The rest is as `cron` has it. Raises `TaskDefinitionError`.
    """
    given = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days}
    of = f"every({', '.join(f'{unit}={count!r}' for unit, count in given.items() if count != 0)})"
    try:
        interval_ms = round(timedelta(**given) / timedelta(milliseconds=1))
    except (OverflowError, TypeError, ValueError) as error:
        raise TaskDefinitionError(f"{of}: this is no interval: {error}") from error
    if not SHORTEST_MS <= interval_ms <= LONGEST_MS:
        raise TaskDefinitionError(f"{of}: an interval is at least one second and at most 366 days")
    return _periodic(of, Every(interval_ms), args, kwargs, overlap, catch_up, name, paused)


def _periodic(
    of: str,
    timing: Timing,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    overlap: Overlap,
    catch_up: CatchUp,
    name: str | None,
    paused: bool,
) -> Periodic:
    if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
        raise TaskDefinitionError(f"{of}: args={args!r} is not possible; it is a tuple or list of arguments")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TaskDefinitionError(f"{of}: kwargs={kwargs!r} is not possible; it is a dict of arguments")
    for option, value, choices in (("overlap", overlap, OVERLAP), ("catch_up", catch_up, CATCH_UP)):
        if value not in choices:
            raise TaskDefinitionError(f"{of}: {option}={value!r} is none of {', '.join(choices)}")
    if name is not None and not _NAME.fullmatch(str(name)):
        raise TaskDefinitionError(
            f'{of}: name={name!r} is not possible; it is up to 64 letters, digits, ".", "_" or "-"'
        )
    if not isinstance(paused, bool):
        raise TaskDefinitionError(f"{of}: paused={paused!r} is not possible; it is True or False")
    return Periodic(timing, tuple(args), dict(kwargs or {}), overlap, catch_up, name, paused)


def read_schedules(written: object, signature: Signature) -> tuple[Periodic, ...]:
    """Read the `schedule` of a task, naming those without a name by their number.

    Raises `TaskDefinitionError`, also if the task cannot be called with the arguments of one of them.
    """
    task = signature.name
    found = (written,) if isinstance(written, Periodic) else written
    if not isinstance(found, (list, tuple)):
        found = (found,)
    named: dict[str, Periodic] = {}
    for number, each in enumerate(found, 1):
        if not isinstance(each, Periodic):
            raise TaskDefinitionError(
                f"task {task}: schedule={each!r} is not possible; "
                "it is cron(...), every(...) or a list of them"
            )
        each = replace(each, name=each.name or str(number))
        assert each.name is not None
        if each.name in named:
            raise TaskDefinitionError(
                f"task {task}: two of its schedules are named {each.name!r}; give each a name of its own"
            )
        _check_arguments(each, signature)
        named[each.name] = each
    return tuple(named.values())


def _check_arguments(periodic: Periodic, signature: Signature) -> None:
    try:
        signature.encode(periodic.args, periodic.kwargs)
    except (ArgumentsError, EncodeError) as error:
        hint = (
            "; give its arguments as args=(...) or kwargs={...}" if isinstance(error, ArgumentsError) else ""
        )
        raise TaskDefinitionError(
            f"task {signature.name}, schedule {periodic.name!r} ({periodic.timing.text}): {error}{hint}"
        ) from error
    except TaskDefinitionError as error:
        # An annotation names what is defined further down; the app looks again when it starts.
        if not isinstance(error.__cause__, NameError):
            raise
