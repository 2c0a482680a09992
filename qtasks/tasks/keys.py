"""Keys made of a call's arguments: which calls are the same one, and which must not run together.

`Unique` and `Flow` are how people ask for it; `KeyTemplate` is what makes the keys. What a key does is
the broker's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from string import Formatter
from typing import Any

import orjson

from qtasks.errors import InvalidValue
from qtasks.protocol.durations import format_duration, span_ms
from qtasks.protocol.flow import FlowSpec, parse_period

Span = float | timedelta | str
FINISHED, STARTED = "finished", "started"


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A text such as `tenant:{tenant_id}`, filled in with the arguments of a call."""

    text: str
    names: tuple[str, ...]

    def fill(self, arguments: Mapping[str, object]) -> str:
        """Give the key of a call; `arguments` are JSON values by parameter, defaults included."""
        return self.text.format_map({name: _plain(arguments.get(name)) for name in self.names})


def read_template(text: str) -> KeyTemplate:
    """Read a template; raises `InvalidValue` for anything but plain names in its braces."""
    names: list[str] = []
    try:
        parts = [*Formatter().parse(text)]
    except ValueError as error:
        raise InvalidValue(f"{text!r} is no template: {error}") from error
    for _, name, format_spec, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or format_spec or conversion:
            raise InvalidValue(
                f"{text!r}: {{{name}}} is not the plain name of a parameter, as in 'tenant:{{tenant_id}}'"
            )
        names.append(name)
    if not text:
        raise InvalidValue("a key cannot be empty")
    return KeyTemplate(text, tuple(dict.fromkeys(names)))


@dataclass(frozen=True, slots=True)
class Unique:
    """Which calls of a task count as one: those with an equal `key`, as long as the first is not over.

    `key` is a template such as `"{user_id}"`, by default all arguments. `until` says what over means:
    "finished" (the first has ended, whichever way), "started" (it has begun), or a span since it was
    called. A call that is not unique gives the handle of the first.
    """

    key: str | None = None
    until: Span = FINISHED

    def __post_init__(self) -> None:
        read_template("x" if self.key is None else self.key)
        if self.until not in (FINISHED, STARTED) and self.window_ms < 1000:
            raise InvalidValue(f"until={self.until!r}: a window has at least a second")

    @property
    def window_ms(self) -> int:
        """The window, where `until` is a span."""
        try:
            return span_ms(self.until)
        except (InvalidValue, TypeError) as error:
            raise InvalidValue(f'until={self.until!r} is none of "finished", "started" or a span') from error

    @property
    def template(self) -> KeyTemplate | None:
        """The key's template; None for all arguments."""
        return None if self.key is None else read_template(self.key)


@dataclass(frozen=True, slots=True)
class Flow:
    """How fast, or how many at once, calls with an equal `key` run, in whichever task they are.

    At most `rate` start in each `period` (whole seconds, 1 s by default), and at most `parallelism` run
    at once. `key` is a template such as `"tenant:{tenant_id}"`, by default the task's name. Calls wait
    at their key, not in a queue.
    """

    rate: int | None = None
    period: Span = 1
    parallelism: int | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        self.spec("")
        read_template("x" if self.key is None else self.key)

    def spec(self, key: str) -> FlowSpec:
        """Give the limits as they go over the wire; raises `InvalidValue`."""
        if self.rate is None and self.parallelism is None:
            raise InvalidValue("a flow limits something: give rate, parallelism or both")
        for name, value in (("rate", self.rate), ("parallelism", self.parallelism)):
            if value is not None and (type(value) is not int or not 1 <= value < 10**9):
                raise InvalidValue(f"{name}={value!r} is not possible; it is an integer from 1")
        ms = span_ms(self.period)
        return FlowSpec(key, self.rate, self.parallelism, parse_period(format_duration(ms)))

    @property
    def template(self) -> KeyTemplate | None:
        """The key's template; None for the task's name."""
        return None if self.key is None else read_template(self.key)


@dataclass(frozen=True, slots=True)
class Exclusive:
    """One call of the task at a time, or one for each key."""

    template: KeyTemplate | None = None


def read_unique(value: Any) -> Unique | None:
    """Read the option `unique`: True, a template or a `Unique`; False for none."""
    if value is True:
        return Unique()
    if value is False or isinstance(value, Unique):
        return value or None
    if isinstance(value, str):
        return Unique(value)
    raise InvalidValue('it is True, a key such as "{user_id}", or a Unique(...)')


def read_exclusive(value: Any) -> Exclusive | None:
    """Read the option `exclusive`: True, or a template; False for none."""
    if isinstance(value, bool):
        return Exclusive() if value else None
    if isinstance(value, str):
        return Exclusive(read_template(value))
    raise InvalidValue('it is True, or a key such as "{account_id}"')


def read_flow(value: Any) -> Flow:
    """Read the option `flow`."""
    if isinstance(value, Flow):
        return value
    raise InvalidValue('it is a Flow(...), such as Flow(rate=10, period="1m", key="tenant:{tenant_id}")')


def unknown_names(templates: Iterable[KeyTemplate | None], parameters: Iterable[str]) -> list[str]:
    """Give the names in templates that are no parameters of the task."""
    known = set(parameters)
    return [name for each in templates if each is not None for name in each.names if name not in known]


def unique_id(task: str, template: KeyTemplate | None, arguments: Mapping[str, object]) -> str:
    """Make the deduplication id of a call: a digest, as arguments do not belong into ids that are shown."""
    key = (
        orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
        if template is None
        else template.fill(arguments).encode()
    )
    return f"unq_{hashlib.sha256(task.encode() + bytes(1) + key).hexdigest()}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
