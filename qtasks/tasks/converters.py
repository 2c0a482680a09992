"""Turns what contains other values into JSON and back: arrays, objects, records, and any JSON value.

How scalars are converted is in `scalars`, and which annotation gets which converter is decided in
`annotations`. Nothing is decoded in order to check what was encoded, but where `checking` does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from functools import cached_property
from itertools import combinations, repeat
from typing import Any

from qtasks.errors import DecodeError, EncodeError, TaskDefinitionError
from qtasks.tasks.scalars import (
    PLAIN,
    TYPES,
    Convert,
    Converter,
    Refusal,
    check_key,
    inside,
    shown,
    wrong,
)

MAX_DEPTH = 100
NO_TAGS: Mapping[str, frozenset[object]] = {}
FORMS = frozenset({*PLAIN, list, dict})
OBJECT: frozenset[type] = frozenset({dict})
_RECORDS = ("__dataclass_fields__", "__struct_fields__", "__pydantic_fields_set__", "_fields")
_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")


def _enter(error: type[Refusal], kind: type, label: str, value: object, depth: int) -> None:
    if type(value) is not kind:
        raise wrong(error, label, value)
    if depth >= MAX_DEPTH:
        raise error(f"nested deeper than {MAX_DEPTH} levels")


def _encode_json(value: Any, depth: int) -> Any:
    convert = _JSON.get(type(value))
    if convert is None:
        raise EncodeError(f"expected a JSON value, got {shown(value)}; {_advice(value)}")
    return convert(value, depth)


def _advice(value: object) -> str:
    kind = type(value)
    is_known = kind in TYPES or kind in (tuple, set, frozenset) or isinstance(value, Enum)
    if is_known or any(hasattr(kind, mark) for mark in _RECORDS):
        return f"annotate it as {kind.__name__}, or convert it"
    base = next((each for each in _JSON if isinstance(value, each)), None)
    return f"convert it with {base.__name__}()" if base else "convert it to what JSON knows"


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
    tags: Mapping[str, frozenset[object]] = NO_TAGS,
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

    return Converter(label, encode, decode, frozenset({kind}), OBJECT, required, known, tags)


def is_tagged(value: Mapping[str, object], tags: Mapping[str, frozenset[object]]) -> bool:
    """Tell whether an object of JSON has, in each of these members, one of the choices."""
    found = ((value.get(name), choices) for name, choices in tags.items())
    return all(type(tag) in (str, int) and tag in choices for tag, choices in found)


def keyed(keys: Converter, items: Converter) -> Converter:
    """Convert a dict whose keys are no str, but are texts or integers in JSON."""
    is_text = str in keys.forms

    def encode(value: Any, depth: int) -> Any:
        _enter(EncodeError, dict, "dict", value, depth)
        out: dict[str, Any] = {}
        for key, each in value.items():
            try:
                form = keys.encode(key, depth + 1)
                out[form if is_text else str(form)] = items.encode(each, depth + 1)
            except EncodeError as refusal:
                raise inside(refusal, f".values()[{len(out)}]") from refusal.__cause__
        return out

    def decode(value: Any, depth: int) -> Any:
        _enter(DecodeError, dict, "the object of a dict", value, depth)
        out: dict[Any, Any] = {}
        for form, each in value.items():
            try:
                key = keys.decode(form if is_text else _integer(form), depth + 1)
                if key in out:
                    raise DecodeError("a key is twice in the dict")
                out[key] = items.decode(each, depth + 1)
            except DecodeError as refusal:
                raise inside(refusal, f".values()[{len(out)}]") from refusal.__cause__
        return out

    return Converter("dict", encode, decode, frozenset({dict}), OBJECT)


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise DecodeError("the key does not stand for an int")
    return int(text)


def record(kind: type, parts: Mapping[str, Converter], tags: Mapping[str, frozenset[object]]) -> Converter:
    """Convert a dataclass by its fields; neither way runs its `__init__`, so nothing can change a value.

    `parts` may be filled after this, before the first value.
    """
    declared = fields(kind)
    names = frozenset(each.name for each in declared)
    required = frozenset(each.name for each in declared if each.default is each.default_factory is MISSING)
    check = nothing_beside(kind, names)

    def read(value: Any) -> list[tuple[str, Any]]:
        check(value)
        return [(each.name, getattr(value, each.name, MISSING)) for each in declared]

    def make(found: dict[str, Any]) -> Any:
        made: Any = object.__new__(kind)
        for each in declared:
            object.__setattr__(made, each.name, found[each.name] if each.name in found else _default(each))
        return made

    return structure(kind, parts, required=required, known=names, tags=tags, read=read, make=make)


def named_tuple(
    kind: Any, parts: Mapping[str, Converter], tags: Mapping[str, frozenset[object]]
) -> Converter:
    """Convert a named tuple by its fields, as a record; its `__new__` is not run."""
    names: tuple[str, ...] = kind._fields
    defaults: Mapping[str, Any] = kind._field_defaults
    check = nothing_beside(kind, frozenset())

    def read(value: Any) -> Iterable[tuple[str, Any]]:
        check(value)
        if len(value) != len(names):
            raise EncodeError(f"{kind.__name__} has {len(names)} fields, and {len(value)} items")
        return zip(names, value, strict=True)

    def make(found: dict[str, Any]) -> Any:
        return tuple.__new__(kind, [found[name] if name in found else defaults[name] for name in names])

    required = frozenset(names).difference(defaults)
    known = frozenset(names)
    return structure(kind, parts, required=required, known=known, tags=tags, read=read, make=make)


def nothing_beside(kind: type, names: frozenset[str]) -> Callable[[object], None]:
    """Give a check that an object keeps nothing but its fields: what else it keeps would be lost."""
    kept = names | {n for base in kind.__mro__ for n, it in vars(base).items() if type(it) is cached_property}

    def check(value: object) -> None:
        if lost := getattr(value, "__dict__", {}).keys() - kept:
            raise EncodeError(f"{kind.__name__} keeps {min(lost)!r} beside its fields, which would be lost")

    return check


def _default(field: Any) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


JSON = Converter("a JSON value", _encode_json, lambda value, depth: value, FORMS, FORMS)
_JSON: dict[type, Convert] = {
    **PLAIN,
    list: array(list, [JSON], fixed=False).encode,
    dict: structure(dict, {}, other=JSON).encode,
}
