"""Compares a value with what arrives, for records whose making runs code that is not ours.

Only these are decoded in order to check them: Pydantic models, and structs with a `__post_init__`. All
others are equal by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass, replace
from datetime import datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from orjson import JSONEncodeError, dumps, loads

from qtasks.errors import DecodeError, EncodeError
from qtasks.tasks.scalars import Converter, inside


def checked(converter: Converter, hint: str) -> Converter:
    """Have `encode` read back what it writes and refuse what would arrive changed, for the reason `hint`."""

    def encode(value: Any, depth: int) -> Any:
        try:
            form = converter.encode(value, depth)
            arrives = converter.decode(loads(dumps(form)), depth)
            path = difference(value, arrives)
        except (DecodeError, JSONEncodeError) as error:
            raise EncodeError(f"{converter.label} would not be read: {error}") from error.__cause__
        except RecursionError:
            raise EncodeError(f"{converter.label} contains itself, perhaps in a private attribute") from None
        if path is not None:
            raise inside(EncodeError(f"would not arrive as it is: {hint}"), path)
        return form

    return replace(converter, encode=encode)


def difference(one: Any, other: Any) -> str | None:
    """Give the path to where two values differ in type or value, None if nowhere."""
    if type(one) is not type(other):
        return ""
    kind: Any = type(one)
    opened = opener(kind)
    if opened is None:
        return None if _are_equal(one, other) else ""
    parts, others = opened(one), opened(other)
    if len(parts) != len(others):
        return ""
    for at, each in enumerate(parts):
        found = difference(each, others[at])
        if found is not None:
            return _step(kind, at) + found
    return None


@lru_cache(1000)
def opener(kind: Any) -> Callable[[Any], list[Any]] | None:
    """Give what takes a value of this type apart, always in the same order; None if it is no container."""
    names = _members(kind)
    if names:
        return lambda value: [getattr(value, name, MISSING) for name in names]
    if issubclass(kind, Mapping):
        return lambda value: [part for pair in value.items() for part in pair]
    if issubclass(kind, Sequence) and not issubclass(kind, str | bytes | bytearray):
        return list
    return None


def _members(kind: Any) -> tuple[str, ...]:
    if hasattr(kind, "__pydantic_fields_set__"):
        return (*kind.model_fields, "model_extra", "model_fields_set", "__pydantic_private__")
    if is_dataclass(kind):
        return tuple(each.name for each in fields(kind))
    return getattr(kind, "__struct_fields__", ())


def _step(kind: type, at: int) -> str:
    if names := _members(kind):
        return f".{names[at]}"
    # Keys of a dict are parts as well, and may be secret: they are counted.
    return f".values()[{at // 2}]" if issubclass(kind, Mapping) else f"[{at}]"


def _are_equal(one: Any, other: Any) -> bool:
    kind: Any = type(one)
    exactly = _exactly(kind)
    return bool(one == other) and (exactly is None or exactly(one) == exactly(other))


@lru_cache(1000)
def _exactly(kind: type) -> Callable[[Any], object] | None:
    """Give what tells apart values of a type which are equal to Python."""
    if issubclass(kind, float):
        return repr
    if issubclass(kind, Decimal):
        return Decimal.as_tuple
    if issubclass(kind, datetime | time):
        return lambda value: (value.fold, value.utcoffset())
    if issubclass(kind, Set):
        return lambda value: {(type(each), str(each)) for each in value}
    return None
