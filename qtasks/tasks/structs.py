"""Carries a `msgspec.Struct` by its fields, under the names and with the tag that msgspec would write.

Loaded only where msgspec is. msgspec itself converts nothing here, as it takes subclasses and loses what is
beside the fields. What else a struct is told (`frozen`, `kw_only`, `omit_defaults` …) changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Any, Literal

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from qtasks.errors import DecodeError
from qtasks.tasks.checking import checked
from qtasks.tasks.converters import nothing_beside, structure
from qtasks.tasks.scalars import Converter


def is_struct(kind: type) -> bool:
    """Tell whether values of a type are structs."""
    return issubclass(kind, Struct)


def written_hints(kind: type[Struct], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Give the annotations of a struct by the names that they have in JSON, with that of its tag."""
    written = {each.encode_name: hints[each.name] for each in fields(kind)}
    config = kind.__struct_config__
    return written if config.tag_field is None else {config.tag_field: Literal[config.tag], **written}


def struct(
    kind: type[Struct], parts: Mapping[str, Converter], tags: Mapping[str, frozenset[object]]
) -> Converter:
    """Convert a struct; `parts` may be filled after this, before the first value.

    It is made by its constructor, which checks nothing, but runs `__post_init__`. A struct that has one is
    therefore read back at each call.
    """
    declared, config = fields(kind), kind.__struct_config__
    known = {each.encode_name for each in declared}
    if config.tag_field is not None:
        known.add(config.tag_field)
    required = {each.encode_name for each in declared if each.default is each.default_factory is NODEFAULT}
    check = nothing_beside(kind, frozenset(each.name for each in declared))

    def read(value: Any) -> Iterator[tuple[str, Any]]:
        check(value)
        if config.tag_field is not None:
            yield config.tag_field, config.tag
        for each in declared:
            yield each.encode_name, getattr(value, each.name, MISSING)

    def make(found: dict[str, Any]) -> Any:
        members = {each.name: found[each.encode_name] for each in declared if each.encode_name in found}
        try:
            return kind(**members)
        except Exception as error:  # a __post_init__ may raise anything
            raise DecodeError(f"{kind.__name__} cannot be made: {type(error).__name__}") from error

    converter = structure(
        kind,
        parts,
        required=frozenset(required),
        known=frozenset(known),
        tags=tags,
        read=read,
        make=make,
    )
    return checked(converter, "its __post_init__ changes it") if hasattr(kind, "__post_init__") else converter
