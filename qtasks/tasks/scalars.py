"""Turns one scalar into JSON and back, equal and of equal type, or refuses it.

A `Converter` refuses by construction: what its `encode` returns, orjson writes and reads back exactly, so
nobody decodes in order to check. What contains others is in `converters`. Messages name types and show
numbers, never text: argument values must not reach a log.
"""

from __future__ import annotations

import ipaddress
import math
import pathlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import partial
from types import NoneType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from qtasks.errors import DecodeError, EncodeError

# Takes a value and the number of containers around it. The `path` of a refusal starts at the value; each
# container that it passes on its way out puts its own step before it.
Convert = Callable[[Any, int], Any]
Refusal = EncodeError | DecodeError

_LEAST_INT, _MOST_INT = -(2**63), 2**63 - 1
TEXT: frozenset[type] = frozenset({str})
_FOLD = "[fold=1]"
_SPAN = re.compile(r"(-?)PT([0-9]+)(?:\.([0-9]{6}))?S")


@dataclass(frozen=True, slots=True)
class Converter:
    """Both directions of one annotation.

    `types` are the exact Python types that `encode` takes, `forms` the exact JSON types that it makes: the
    members of a union share none. A record also says which names its objects always and ever have, and what
    the ones of few choices may be: records in a union are told apart by either.
    """

    label: str
    encode: Convert
    decode: Convert
    types: frozenset[type]
    forms: frozenset[type]
    required: frozenset[str] = frozenset()
    known: frozenset[str] | None = None
    tags: Mapping[str, frozenset[object]] = field(default_factory=dict)


def shown(value: object) -> str:
    """Describe a value for a message: its type, and itself only if it is a short number."""
    kind = type(value)
    if value is None:
        return "None"
    if isinstance(value, int) and kind is int and value.bit_length() > 64:
        return f"int of {value.bit_length()} bits"
    return f"{kind.__name__} {value!r}" if kind in (bool, int, float) else kind.__name__


def inside(error: Refusal, step: str) -> Refusal:
    """Say that what was refused lies at `step` of something."""
    error.path = step + error.path
    return error


def wrong(error: type[Refusal], label: str, value: object) -> Refusal:
    """Make the refusal of a value that is not what `label` names."""
    return error(f"expected {label}, got {shown(value)}")


def _exactly(error: type[Refusal], kind: type) -> Convert:
    label = kind.__name__.removesuffix("Type")  # of NoneType

    def convert(value: Any, depth: int) -> Any:
        if type(value) is not kind:
            raise wrong(error, label, value)
        return value

    return convert


def encode_str(value: Any, depth: int) -> Any:
    if type(value) is not str:
        raise wrong(EncodeError, "str", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise EncodeError("str holds a lone surrogate, which JSON cannot carry; pass bytes") from None
    return value


def _encode_int(value: Any, depth: int) -> Any:
    if type(value) is not int:
        raise wrong(EncodeError, "int", value)
    if not _LEAST_INT <= value <= _MOST_INT:
        raise EncodeError(f"{shown(value)} is outside -2**63 .. 2**63-1; pass a Decimal or a str")
    return value


def _encode_float(value: Any, depth: int) -> Any:
    if type(value) is not float:
        return _widened(EncodeError, value)
    if not math.isfinite(value):
        raise EncodeError(f"{shown(value)} has no form in JSON; pass None instead")
    return value


def _decode_float(value: Any, depth: int) -> Any:
    # Writers in other languages make no difference between 1 and 1.0.
    return value if type(value) is float else _widened(DecodeError, value)


def _widened(error: type[Refusal], value: Any) -> float:
    if type(value) is not int:
        raise wrong(error, "float", value)
    # The size comes first: float() of an int beyond the greatest float raises.
    if value.bit_length() <= 1023 and float(value) == value:
        return float(value)
    raise error(f"{shown(value)} has no equal float")


def check_key(key: object) -> None:
    """Refuse a dict key or keyword that JSON cannot carry."""
    if type(key) is not str:
        raise EncodeError(f"a key must be str, got {shown(key)}; convert the key with str()")
    encode_str(key, 0)


def carried(
    kind: type, write: Callable[[Any], Any], read: Callable[[Any], Any], forms: frozenset[type] = TEXT
) -> Converter:
    """Convert values of exactly `kind` that one JSON scalar stands for, by default a text."""

    def encode(value: Any, depth: int) -> Any:
        if type(value) is not kind:
            raise wrong(EncodeError, kind.__name__, value)
        try:
            return write(value)
        except LookupError:
            raise EncodeError(f"{kind.__name__} has no such member") from None

    def decode(value: Any, depth: int) -> Any:
        if type(value) not in forms:
            raise wrong(DecodeError, f"the form of a {kind.__name__}", value)
        try:
            return read(value)
        except (ValueError, ArithmeticError, LookupError):
            raise DecodeError(f"the {type(value).__name__} does not stand for a {kind.__name__}") from None

    return Converter(kind.__name__, encode, decode, frozenset({kind}), forms)


def _write_moment(value: datetime | time) -> str:
    if value.tzinfo is not None and value.tzinfo is not UTC:
        offset = value.utcoffset()
        # Python reads an offset below one second back as UTC.
        if offset is None or offset.microseconds:
            raise EncodeError(f"the {type(value).__name__} has no offset in whole seconds from its tzinfo")
        # The offset comes back, not the zone: to Python, such a datetime equals none of another zone.
        if type(value) is datetime and value.replace(fold=1 - value.fold).utcoffset() != offset:
            raise EncodeError("datetime in a skipped or repeated hour of its zone equals no other; pass UTC")
    return value.isoformat() + _FOLD if value.fold else value.isoformat()


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        moment = parse(text.removesuffix(_FOLD))
        return moment.replace(fold=1) if text.endswith(_FOLD) else moment

    return read


def _write_span(span: timedelta) -> str:
    microseconds = span // timedelta(microseconds=1)
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    return f"{'-' if microseconds < 0 else ''}PT{seconds}{f'.{rest:06d}' if rest else ''}S"


def _read_span(text: str) -> timedelta:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError("not a duration")
    microseconds = int(match[2]) * 1_000_000 + int(match[3] or 0)
    return timedelta(microseconds=-microseconds if match[1] else microseconds)


def _write_decimal(value: Decimal) -> str:
    if value.is_nan():
        raise EncodeError("Decimal NaN equals nothing, not even itself; pass None instead")
    return str(value)


def _read_decimal(text: str) -> Decimal:
    number = Decimal(text)
    if number.is_nan():  # also what a context without traps makes of bad text
        raise ValueError("not a number")
    return number


def is_plain(value: object) -> bool:
    """Tell whether a value is in JSON as it is, and no container."""
    convert = PLAIN.get(type(value))
    try:
        return convert is not None and convert(value, 0) is value
    except EncodeError:
        return False


def enumeration(cls: type[Enum]) -> Converter:
    """Convert the members of an enum: by value if all are str or int, else by name; flags by value."""
    if issubclass(cls, Flag):
        return carried(cls, lambda flags: _encode_int(flags.value, 0), cls, frozenset({int}))
    by_value = all(type(each.value) in (str, int) and is_plain(each.value) for each in cls)
    members = {each.value if by_value else each.name: each for each in cls}
    written = {each.name: key for key, each in members.items()}
    forms = frozenset(type(key) for key in members)
    return carried(cls, lambda each: written[each.name], members.__getitem__, forms)


PLAIN: dict[type, Convert] = {int: _encode_int, float: _encode_float, str: encode_str}
PLAIN |= {kind: _exactly(EncodeError, kind) for kind in (NoneType, bool)}


def _plain(kind: type, decode: Convert) -> Converter:
    return Converter(
        kind.__name__.removesuffix("Type"), PLAIN[kind], decode, frozenset({kind}), frozenset({kind})
    )


def _write_text(value: Any) -> str:
    text: str = encode_str(str(value), 0)
    # Not every path and address that can be made can be read: PureWindowsPath("./c:").
    if type(value)(text) != value:
        raise EncodeError(f"the {type(value).__name__} is not what its text reads as; pass a str")
    return text


def _write_zone(zone: ZoneInfo) -> str:
    # Zones are equal only if they are the same object, and a key leads to one alone.
    key: Any = zone.key
    if type(key) is not str or _zone_or_none(key) is not zone:
        raise EncodeError("ZoneInfo is not the one that its key leads to; make it with ZoneInfo(key)")
    return key


def _read_zone(key: str) -> ZoneInfo:
    zone = _zone_or_none(key)
    if zone is None:
        raise LookupError("no such zone here")
    return zone


def _zone_or_none(key: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(key)
    except (ValueError, LookupError, OSError):  # OSError: of "Europe", which is a folder
        return None


_PATHS = (
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.Path,
    type(pathlib.Path()),
)
_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)

TYPES: dict[type, Converter] = {
    **{kind: _plain(kind, _exactly(DecodeError, kind)) for kind in PLAIN},
    float: _plain(float, _decode_float),
    datetime: carried(datetime, _write_moment, _reader(datetime.fromisoformat)),
    date: carried(date, date.isoformat, date.fromisoformat),
    time: carried(time, _write_moment, _reader(time.fromisoformat)),
    timedelta: carried(timedelta, _write_span, _read_span),
    UUID: carried(UUID, str, UUID),
    Decimal: carried(Decimal, _write_decimal, _read_decimal),
    bytes: carried(bytes, lambda value: b64encode(value).decode(), partial(b64decode, validate=True)),
    ZoneInfo: carried(ZoneInfo, _write_zone, _read_zone),
    **{kind: carried(kind, _write_text, kind) for kind in _ADDRESSES},
    # Path() and PurePath() make one of this system.
    **{kind: carried(type(kind()), _write_text, kind) for kind in _PATHS},
}
