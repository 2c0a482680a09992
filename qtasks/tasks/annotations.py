"""Finds the converter of each annotation, and refuses at once what has no exact form in JSON.

A `Compiler` lives as long as one signature is compiled, so records may contain themselves. Libraries that
define records of their own are asked only where they are loaded already: nothing here imports them.
"""

from __future__ import annotations

import collections.abc
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, fields, is_dataclass
from enum import Enum
from itertools import combinations
from typing import Any

from qtasks.errors import DecodeError, EncodeError, TaskDefinitionError
from qtasks.tasks import converters
from qtasks.tasks.converters import FORMS, JSON
from qtasks.tasks.scalars import TEXT, TYPES, Converter, enumeration, is_plain, wrong

_POSSIBLE = (
    "possible are None, bool, int, float, str, bytes, datetime, date, time, timedelta, UUID, Decimal, "
    "ZoneInfo, paths, IP addresses, enums, Literal, dataclasses, TypedDict, NamedTuple, msgspec.Struct, "
    "Pydantic models, list[T], dict[K, T], tuple, set, frozenset and unions of these; unannotated, a "
    "parameter takes plain JSON values"
)
_WRAPPERS = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final)
_CONTAINERS: dict[Any, type] = {
    **{kind: kind for kind in (list, tuple, set, frozenset, dict)},
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}


def resolved_hints(target: Any) -> dict[str, Any]:
    """Give the annotations of a function or class as objects; raises `TaskDefinitionError`."""
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, AttributeError) as error:  # AttributeError: of a module still being imported
        raise TaskDefinitionError(
            f"an annotation of {target.__qualname__} cannot be resolved: {error}; define or import the name "
            "at module level, and not only under TYPE_CHECKING"
        ) from NameError(str(error))
    except (TypeError, SyntaxError) as error:
        raise TaskDefinitionError(f"an annotation of {target.__qualname__} is wrong: {error}") from error


def text_of(annotation: Any) -> str:
    """Write an annotation as its author did."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


class Compiler:
    """Finds the converter of each annotation of one signature."""

    def __init__(self) -> None:
        self._records: dict[type, Converter] = {}
        self._aliases: list[Any] = []

    def converter(self, annotation: Any) -> Converter:
        """Give the converter of an annotation; raises `TaskDefinitionError` if there is none."""
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation in (Any, object):
            return JSON
        if annotation is None:
            return TYPES[types.NoneType]
        if origin in _WRAPPERS:
            return self.converter(args[0])
        if isinstance(annotation, typing.NewType):
            return self.converter(annotation.__supertype__)
        if type(annotation).__name__ == "TypeAliasType":  # not in the typing of Python 3.11
            return self._alias(annotation)
        if origin in (typing.Union, types.UnionType):
            return _union([self.converter(each) for each in args])
        if origin is typing.Literal:
            return self._literal(args, text_of(annotation))
        # By identity: what is written where a type should be need not have a hash.
        container = next((made for kind, made in _CONTAINERS.items() if kind is (origin or annotation)), None)
        if container is dict:
            return self._dict(args)
        if container is not None:
            return self._array(container, annotation, args)
        if isinstance(annotation, type):
            return self._type(annotation)
        raise self._unknown(annotation)

    def _unknown(self, annotation: Any) -> TaskDefinitionError:
        return TaskDefinitionError(f"{text_of(annotation)} has no exact form in JSON; {_POSSIBLE}")

    def _alias(self, alias: Any) -> Converter:
        if alias in self._aliases:
            raise TaskDefinitionError(f"{alias} contains itself, which only records such as dataclasses may")
        self._aliases.append(alias)
        try:
            return self.converter(alias.__value__)
        except NameError as error:
            raise TaskDefinitionError(f"{alias} cannot be resolved: {error}") from error
        finally:
            self._aliases.pop()

    def _literal(self, values: Sequence[Any], label: str) -> Converter:
        choices = []
        for value in values:
            if isinstance(value, Enum):
                choices.append((value, self.converter(type(value)).encode(value, 0)))
            elif is_plain(value):
                choices.append((value, value))
            else:
                raise TaskDefinitionError(f"a choice of {type(value).__name__} is not in JSON; {_POSSIBLE}")
        return converters.literal(choices, label)

    def _array(self, kind: type, annotation: Any, args: Sequence[Any]) -> Converter:
        if not args and annotation != tuple[()]:
            return converters.array(kind, [JSON], fixed=False)
        fixed = kind is tuple and args[1:] != (...,)
        return converters.array(kind, [self.converter(each) for each in args if each is not ...], fixed=fixed)

    def _dict(self, args: Sequence[Any]) -> Converter:
        key, item = args or (str, Any)
        if key in (str, Any):
            return converters.structure(dict, {}, other=self.converter(item))
        keys = self.converter(key)
        if keys.forms not in (TEXT, frozenset({int})):
            raise TaskDefinitionError(
                f"keys of a dict must be texts or integers in JSON, not {text_of(key)}; pass a list of pairs"
            )
        return converters.keyed(keys, self.converter(item))

    def _type(self, kind: type) -> Converter:
        if kind in TYPES:
            return TYPES[kind]
        if kind in self._records:
            return self._records[kind]
        if issubclass(kind, Enum):
            return enumeration(kind)
        if typing.is_typeddict(kind):
            return self._typed_dict(kind)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named_tuple(kind)
        if "pydantic" in sys.modules:
            from qtasks.tasks import pydantic_models

            if pydantic_models.is_model(kind):
                tags = _tags(pydantic_models.model_fields(kind))
                return self._records.setdefault(kind, pydantic_models.model(kind, tags))
        if "msgspec" in sys.modules:
            from qtasks.tasks import structs

            if structs.is_struct(kind):
                return self._struct(kind)
        if is_dataclass(kind):
            return self._dataclass(kind)
        raise self._unknown(kind)

    def _dataclass(self, kind: Any) -> Converter:
        hints, declared = resolved_hints(kind), fields(kind)
        unkept = [name for name, hint in hints.items() if isinstance(hint, InitVar)]
        unkept += [each.name for each in declared if not each.init]
        if unkept:
            raise TaskDefinitionError(f"{kind.__name__}.{unkept[0]} is an InitVar or has init=False")
        members = [it for base in kind.__mro__ for it in vars(base).values()]
        slots = {it.__name__ for it in members if isinstance(it, types.MemberDescriptorType)}
        if slots - {each.name for each in declared} or kind.__new__ is not object.__new__:
            raise TaskDefinitionError(f"{kind.__name__} keeps more than its fields, in slots or a base type")
        parts: dict[str, Converter] = {}
        return self._filled(
            kind, converters.record(kind, parts, _tags(hints, [each.name for each in declared])), parts, hints
        )

    def _typed_dict(self, kind: Any) -> Converter:
        hints = resolved_hints(kind)
        marks = {name: typing.get_origin(hint) for name, hint in hints.items()}
        # The class itself does not see the marks in annotations that are text.
        required = kind.__required_keys__ | {name for name in marks if marks[name] is typing.Required}
        required -= {name for name in marks if marks[name] is typing.NotRequired}
        tags = _tags(hints, required)
        parts: dict[str, Converter] = {}
        converter = converters.structure(dict, parts, required=required, known=frozenset(hints), tags=tags)
        return self._filled(kind, converter, parts, hints)

    def _named_tuple(self, kind: Any) -> Converter:
        hints = dict.fromkeys(kind._fields, Any) | resolved_hints(kind)  # of collections.namedtuple: none
        parts: dict[str, Converter] = {}
        return self._filled(
            kind, converters.named_tuple(kind, parts, _tags(hints, kind._fields)), parts, hints
        )

    def _struct(self, kind: Any) -> Converter:
        from qtasks.tasks import structs

        hints, parts = structs.written_hints(kind, resolved_hints(kind)), dict[str, Converter]()
        return self._filled(kind, structs.struct(kind, parts, _tags(hints)), parts, hints)

    def _filled(
        self, kind: type, converter: Converter, parts: dict[str, Converter], hints: Mapping[str, Any]
    ) -> Converter:
        # Known before it is filled, as it may contain itself.
        self._records[kind] = converter
        for name in sorted(converter.known or ()):
            try:
                parts[name] = self.converter(hints[name])
            except TaskDefinitionError as error:
                where = f"{kind.__name__}.{name}"
                raise TaskDefinitionError(f"{where} is {text_of(hints[name])}: {error}") from error.__cause__
        return converter


def _union(members: Sequence[Converter]) -> Converter:
    """Convert what is of one of several kinds that JSON keeps apart."""
    others = [each for each in members if each is not TYPES[types.NoneType]]
    if any(types.NoneType in each.types for each in others):
        members = others  # one of them takes None as well
    if len(members) == 1:
        return members[0]
    for one, other in combinations(members, 2):
        if one.types & other.types or (one.forms & other.forms and not _apart(one, other)):
            raise TaskDefinitionError(
                f"{one.label} and {other.label} look alike in JSON; give one of them a dataclass around it"
            )
    label = " | ".join(each.label for each in members)
    encoders = {kind: each.encode for each in members for kind in each.types}
    decoders = {form: [each for each in members if form in each.forms] for form in FORMS}
    if float in encoders:
        encoders.setdefault(int, encoders[float])
        decoders[int] = decoders[int] or decoders[float]

    def encode(value: Any, depth: int) -> Any:
        convert = encoders.get(type(value))
        if convert is None:
            raise wrong(EncodeError, label, value)
        return convert(value, depth)

    def decode(value: Any, depth: int) -> Any:
        found = decoders.get(type(value), ())
        for each in found:
            if len(found) == 1 or _fits(each, value):
                return each.decode(value, depth)
        raise wrong(DecodeError, label, value)

    forms = frozenset(form for form, found in decoders.items() if found)
    return Converter(label, encode, decode, frozenset(encoders), forms)


def _tags(hints: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, frozenset[object]]:
    """Find the members of a record, by default all, that take none but a few texts or integers."""
    found = {}
    for name in hints if names is None else names:
        hint = hints[name]
        while typing.get_origin(hint) in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if choices and all(type(each) in (str, int) for each in choices):
            found[name] = frozenset(choices)
    return found


def _apart(one: Converter, other: Converter) -> bool:
    """Tell whether two records are told apart: by what a tag says, or by a name that only one can have."""
    if any(one.tags[name].isdisjoint(other.tags[name]) for name in one.tags.keys() & other.tags.keys()):
        return True
    if one.known is None or other.known is None:
        return False
    return bool(one.required - other.known or other.required - one.known)


def _fits(record: Converter, value: Mapping[str, object]) -> bool:
    """Tell whether an object of JSON may be a record, as opposed to others that are apart from it."""
    if record.known is not None and not record.known >= value.keys() >= record.required:
        return False
    return converters.is_tagged(value, record.tags)
