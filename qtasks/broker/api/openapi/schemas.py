"""JSON Schemas of what the API shows, found by writing the shapes themselves.

A shape is written with one attribute set at a time, and the members that then appear are that attribute's.
So the document says what `to_json` does, without a second table of fields to keep. What has no shape of
its own is in `bodies`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import orjson

Json = dict[str, Any]

TEXT = "text"
_BLANKS: dict[object, object] = {str: "", int: 0, float: 0.0, bool: False, bytes: b""}
_SAMPLES: dict[object, tuple[object, ...]] = {
    str: (TEXT,),
    int: (1,),
    float: (1.5,),
    bool: (True,),
    # The second is no UTF-8, so that it shows where such bytes go.
    bytes: (TEXT.encode(), b"\xff"),
}
_INSTANTS = ("time", "not_before", "next_delivery_time", "last_schedule_time", "next_schedule_time")


def ref(name: str) -> Json:
    """Point to a schema that has a name."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(items: Json) -> Json:
    """Describe an array."""
    return {"type": "array", "items": items}


def members(properties: Mapping[str, Json], *optional: str) -> Json:
    """Describe an object in which all members stand but the `optional` ones."""
    required = [each for each in properties if each not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def schema_of(shape: type[Any], *, omit: tuple[str, ...] = (), **known: Json) -> Json:
    """Describe the JSON object of a dataclass with `to_json`.

    `known` holds the schemas of members that a written value does not show; `omit` names attributes that
    are not written as such.
    """
    hints = get_type_hints(shape)
    blank = _blank(shape)
    always = _written(blank)
    found: dict[str, Json] = {}
    for each in fields(shape):
        hint = hints[each.name]
        if isinstance(hint, type) and is_dataclass(hint):  # written into the same object
            found |= schema_of(hint)["properties"]
        elif each.name not in omit:
            for sample in _samples(hint):
                written = _written(replace(blank, **{each.name: sample}))
                shown = {key: value for key, value in written.items() if always.get(key) != value}
                found |= {
                    key: _described(each.name, value) for key, value in shown.items() if key not in found
                }
    return {"type": "object", "properties": found | known, "required": list(always)}


def _written(value: Any) -> Json:
    written: Json = orjson.loads(orjson.dumps(value.to_json()))
    return written


def _blank(hint: Any) -> Any:
    """Give the value of a type that writes the least."""
    if isinstance(hint, UnionType):
        return None
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return next(iter(hint))
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{each.name: _blank(hints[each.name]) for each in fields(hint)})
    kind = get_origin(hint) or hint
    return () if kind is tuple else _BLANKS.get(kind, {})


def _samples(hint: Any) -> tuple[Any, ...]:
    """Give values of a type that differ from the blank one, and show all ways of writing it."""
    if isinstance(hint, UnionType):
        return _samples(next(each for each in get_args(hint) if each is not type(None)))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return (list(hint)[-1],)
    if is_dataclass(hint):
        return (_blank(hint),)
    kind, of = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        return ((_samples(of[0])[0],),)
    return _SAMPLES[kind] if kind in _SAMPLES else ({"X-Name": _samples(of[1])[0]},)


def _described(attribute: str, value: object) -> Json:
    schema = _schema_of_value(value)
    if value in (base64.b64encode(TEXT.encode()).decode(), base64.b64encode(b"\xff").decode()):
        schema |= {"contentEncoding": "base64"}
    unit = _unit(attribute)
    return schema | {"description": unit} if unit else schema


def _schema_of_value(value: object) -> Json:
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case list():
            return list_of(_schema_of_value(value[0]))
        case dict():
            return {"type": "object", "additionalProperties": _schema_of_value(next(iter(value.values())))}
    return {"type": "string"}


def _unit(attribute: str) -> str | None:
    """Say the unit that the name of an attribute ends in."""
    if attribute.endswith("_at") or attribute in _INSTANTS:
        return "Unix milliseconds"
    if attribute.endswith("_start_s"):
        return "Unix seconds"
    if attribute.endswith("_ms"):
        return "milliseconds"
    return "seconds" if attribute.endswith("_s") else None
