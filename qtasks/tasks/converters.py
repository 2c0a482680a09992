"""Turns one kind of value into JSON and back, equal and of equal type, or refuses it.

A `Converter` refuses by construction: what its `encode` returns, orjson writes and reads back exactly, so
nobody decodes in order to check. Which annotation gets which converter is decided in `codec`. Messages
name types and show numbers, never text: argument values must not reach a log.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property, partial
from itertools import combinations, repeat
from types import NoneType
from typing import Any
from uuid import UUID

from qtasks.errors import DecodeError, EncodeError, TaskDefinitionError

# Takes a value and the number of containers around it. The `path` of a refusal starts at the value; each
# container that it passes on its way out puts its own step before it.
Convert = Callable[[Any, int], Any]
Refusal = EncodeError | DecodeError

MAX_DEPTH = 100
_LEAST_INT, _MOST_INT = -(2**63), 2**63 - 1
_TEXT: frozenset[type] = frozenset({str})
_FOLD = "[fold=1]"
_SPAN = re.compile(r"(-?)PT([0-9]+)(?:\.([0-9]{6}))?S")


@dataclass(frozen=True, slots=True)
class Converter:
    """Both directions of one annotation.

    `types` are the exact Python types that `encode` takes, `forms` the exact JSON types that it makes: the
    members of a union share none. A record also says which names its objects always and ever have.
    """

    label: str
    encode: Convert
    decode: Convert
    types: frozenset[type]
    forms: frozenset[type]
    required: frozenset[str] = frozenset()
    known: frozenset[str] | None = None


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


def _enter(error: type[Refusal], kind: type, label: str, value: object, depth: int) -> None:
    if type(value) is not kind:
        raise wrong(error, label, value)
    if depth >= MAX_DEPTH:
        raise error(f"nested deeper than {MAX_DEPTH} levels")


def _exactly(error: type[Refusal], kind: type) -> Convert:
    label = kind.__name__.removesuffix("Type")  # of NoneType

    def convert(value: Any, depth: int) -> Any:
        if type(value) is not kind:
            raise wrong(error, label, value)
        return value

    return convert


def _encode_str(value: Any, depth: int) -> Any:
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
    _encode_str(key, 0)


def _encode_json(value: Any, depth: int) -> Any:
    convert = _JSON.get(type(value))
    if convert is None:
        raise EncodeError(f"expected a JSON value, got {shown(value)}; {_advice(value)}")
    return convert(value, depth)


def is_plain(value: object) -> bool:
    """Tell whether a value that is no container is in JSON as it is."""
    try:
        return type(value) in FORMS and _encode_json(value, 0) is value
    except EncodeError:
        return False


def _advice(value: object) -> str:
    kind = type(value)
    if kind in TYPES or kind in (tuple, set, frozenset) or isinstance(value, Enum) or is_dataclass(value):
        return f"annotate it as {kind.__name__}, or convert it"
    base = next((each for each in _JSON if isinstance(value, each)), None)
    return f"convert it with {base.__name__}()" if base else "convert it to what JSON knows"


def carried(
    kind: type, write: Callable[[Any], Any], read: Callable[[Any], Any], forms: frozenset[type] = _TEXT
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


def enumeration(cls: type[Enum]) -> Converter:
    """Convert the members of an enum: by value if all are str or int, else by name; flags by value."""
    if issubclass(cls, Flag):
        return carried(cls, lambda flags: _encode_int(flags.value, 0), cls, frozenset({int}))
    by_value = all(type(each.value) in (str, int) and is_plain(each.value) for each in cls)
    members = {each.value if by_value else each.name: each for each in cls}
    written = {each.name: key for key, each in members.items()}
    forms = frozenset(type(key) for key in members)
    return carried(cls, lambda each: written[each.name], members.__getitem__, forms)


def literal(choices: Sequence[tuple[object, object]], label: str) -> Converter:
    """Convert exactly these values; each choice is the value and its JSON form."""
    for (_, one), (_, other) in combinations(choices, 2):
        if type(one) is type(other) and one == other:
            raise TaskDefinitionError(f"two choices of {label} are the same in JSON")
    encode = _lookup(choices, EncodeError, label)
    decode = _lookup([(form, choice) for choice, form in choices], DecodeError, label)
    types = frozenset(type(choice) for choice, _ in choices)
    return Converter(label, encode, decode, types, frozenset(type(form) for _, form in choices))


def _lookup(pairs: Sequence[tuple[object, object]], error: type[Refusal], label: str) -> Convert:
    def convert(value: Any, depth: int) -> Any:
        for one, other in pairs:
            if type(one) is type(value) and one == value:
                return other
        raise wrong(error, label, value)

    return convert


def array(kind: type, items: Sequence[Converter], *, fixed: bool) -> Converter:
    """Convert a list, tuple, set or frozenset: of one kind of item, or `fixed` with one item of each."""
    encoders = [each.encode for each in items] if fixed else repeat(items[0].encode)
    decoders = [each.decode for each in items] if fixed else repeat(items[0].decode)

    def convert(error: type[Refusal], value: Any, ways: Iterable[Convert], depth: int) -> list[Any]:
        if fixed and len(value) != len(items):
            raise error(f"expected {len(items)} items, got {len(value)}")
        out: list[Any] = []
        try:
            for each, way in zip(value, ways, strict=False):
                out.append(way(each, depth + 1))
        except (EncodeError, DecodeError) as refusal:
            raise inside(refusal, f"[{len(out)}]") from refusal.__cause__
        return out

    def encode(value: Any, depth: int) -> Any:
        _enter(EncodeError, kind, kind.__name__, value, depth)
        return convert(EncodeError, value, encoders, depth)

    def decode(value: Any, depth: int) -> Any:
        _enter(DecodeError, list, f"the array of a {kind.__name__}", value, depth)
        found = convert(DecodeError, value, decoders, depth)
        try:
            made = kind(found)
        except TypeError:
            raise DecodeError(f"an item cannot be in a {kind.__name__}") from None
        if len(made) != len(found):
            raise DecodeError(f"an item is twice in the {kind.__name__}")
        return made

    return Converter(kind.__name__, encode, decode, frozenset({kind}), frozenset({list}))


def structure(
    kind: type,
    parts: Mapping[str, Converter],
    *,
    other: Converter | None = None,
    required: frozenset[str] = frozenset(),
    known: frozenset[str] | None = None,
    read: Callable[[Any], Iterable[tuple[Any, Any]]] = dict.items,
    make: Callable[[dict[str, Any]], Any] = dict,
) -> Converter:
    """Convert what is an object in JSON: names in `parts` each in its way, any others as `other`."""
    label = kind.__name__

    def convert(error: type[Refusal], entries: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, each in entries:
            try:
                if error is EncodeError:
                    check_key(key)
                part = parts.get(key, other)
                if part is None:
                    raise error(f"{label} has no such key")
                out[key] = (part.encode if error is EncodeError else part.decode)(each, depth + 1)
            except (EncodeError, DecodeError) as refusal:
                # A key that no annotation names is a value, and may be secret: the path counts it.
                step = f".{key}" if key in parts else f".values()[{len(out)}]"
                raise inside(refusal, step) from refusal.__cause__
        if missing := required.difference(out):
            raise error(f"{label} lacks {min(missing)!r}")
        return out

    def encode(value: Any, depth: int) -> Any:
        _enter(EncodeError, kind, label, value, depth)
        return convert(EncodeError, read(value), depth)

    def decode(value: Any, depth: int) -> Any:
        _enter(DecodeError, dict, f"the object of a {label}", value, depth)
        return make(convert(DecodeError, value.items(), depth))

    return Converter(label, encode, decode, frozenset({kind}), frozenset({dict}), required, known)


def record(kind: type, parts: Mapping[str, Converter]) -> Converter:
    """Convert a dataclass by its fields; neither way runs its `__init__`, so nothing can change a value.

    `parts` may be filled after this, before the first value.
    """
    declared = fields(kind)
    names = frozenset(each.name for each in declared)
    required = frozenset(each.name for each in declared if each.default is each.default_factory is MISSING)
    kept = names | {n for base in kind.__mro__ for n, it in vars(base).items() if type(it) is cached_property}

    def read(value: Any) -> list[tuple[str, Any]]:
        if lost := getattr(value, "__dict__", {}).keys() - kept:
            raise EncodeError(f"{kind.__name__} keeps {min(lost)!r} beside its fields, which would be lost")
        return [(each.name, getattr(value, each.name, MISSING)) for each in declared]

    def make(found: dict[str, Any]) -> Any:
        made: Any = object.__new__(kind)
        for each in declared:
            object.__setattr__(made, each.name, found[each.name] if each.name in found else _default(each))
        return made

    return structure(kind, parts, required=required, known=names, read=read, make=make)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


_PLAIN: dict[type, Convert] = {int: _encode_int, float: _encode_float, str: _encode_str}
_PLAIN |= {kind: _exactly(EncodeError, kind) for kind in (NoneType, bool)}
FORMS = frozenset({*_PLAIN, list, dict})
JSON = Converter("a JSON value", _encode_json, lambda value, depth: value, FORMS, FORMS)
_JSON: dict[type, Convert] = {
    **_PLAIN,
    list: array(list, [JSON], fixed=False).encode,
    dict: structure(dict, {}, other=JSON).encode,
}


def _plain(kind: type, decode: Convert) -> Converter:
    return Converter(
        kind.__name__.removesuffix("Type"), _PLAIN[kind], decode, frozenset({kind}), frozenset({kind})
    )


TYPES: dict[type, Converter] = {
    **{kind: _plain(kind, _exactly(DecodeError, kind)) for kind in _PLAIN},
    float: _plain(float, _decode_float),
    datetime: carried(datetime, _write_moment, _reader(datetime.fromisoformat)),
    date: carried(date, date.isoformat, date.fromisoformat),
    time: carried(time, _write_moment, _reader(time.fromisoformat)),
    timedelta: carried(timedelta, _write_span, _read_span),
    UUID: carried(UUID, str, UUID),
    Decimal: carried(Decimal, _write_decimal, _read_decimal),
    bytes: carried(bytes, lambda value: b64encode(value).decode(), partial(b64decode, validate=True)),
}
