"""How one field of a value stands in a JSON object, read in both directions.

`shapes` lists its fields with the kinds made here; nothing here knows any particular shape. A field
may have several keys: all of them are written, the first one present is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from qtasks.errors import DecodeError

_T = TypeVar("_T")

LARGE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Field:
    """One attribute's way into JSON and back.

    `write` makes the members for a value, none for what JSON leaves out; `read` finds the value in
    an object and gives `None` where it is missing. A `required` one must be found.
    """

    name: str
    write: Callable[[Any], Mapping[str, object]]
    read: Callable[[Mapping[str, object]], object | None]
    required: bool = False


def write_fields(value: object, fields: Iterable[Field]) -> dict[str, object]:
    """Make the JSON object of a value, its members in the order of `fields`."""
    members: dict[str, object] = {}
    for each in fields:
        members.update(each.write(getattr(value, each.name)))
    return members


def read_fields(members: Mapping[str, object], fields: Iterable[Field]) -> dict[str, Any]:
    """Find the attributes of a value in a JSON object; those that are missing are left out.

    Raises `DecodeError`, with the key as its path, where one is required or of another type.
    """
    found: dict[str, Any] = {}
    for each in fields:
        value = each.read(members)
        if value is not None:
            found[each.name] = value
        elif each.required:
            raise DecodeError(f"the answer has no {each.name}", path=each.name)
    return found


def text(name: str, *keys: str, required: bool = False) -> Field:
    """A string; an empty one is left out unless required."""
    return _plain(name, keys, str, required=required)


def number(name: str, *keys: str, required: bool = False, always: bool = False) -> Field:
    """An integer, 0 included; `None` is left out."""
    return _plain(name, keys, int, required=required, always=always)


def quantity(name: str, key: str, *, required: bool = False) -> Field:
    """A number that need not be whole, 0 included; `None` is left out."""

    def write(value: float | None) -> dict[str, object]:
        return {} if value is None else {key: value}

    def read(members: Mapping[str, object]) -> object | None:
        value = members.get(key)
        if value is None or type(value) in (int, float):
            return value
        raise DecodeError(f"{key} is {value!r:.100}, not a number", path=key)

    return Field(name, write, read, required)


def flag(name: str, *keys: str, required: bool = False, always: bool = False) -> Field:
    """A boolean; false is left out unless it is required or always written."""
    return _plain(name, keys, bool, required=required, always=always)


def header_map(name: str, *keys: str, always: bool = False) -> Field:
    """Header names, each with the list of its values; no headers are left out unless always written."""

    def write(headers: Mapping[str, Iterable[str]]) -> dict[str, object]:
        if not headers and not always:
            return {}
        lists = {each: list(values) for each, values in headers.items()}
        return dict.fromkeys(keys, lists)

    def read(members: Mapping[str, object]) -> object | None:
        key, headers = _first(members, keys, dict)
        return None if headers is None else {each: _strings(key, values) for each, values in headers.items()}

    return Field(name, write, read)


def text_or_base64(name: str, text_key: str, base64_key: str) -> Field:
    """Bytes, as text where they are UTF-8 and as base64 under another key where not."""

    def write(body: bytes) -> dict[str, object]:
        if not body:
            return {}
        try:
            return {text_key: body.decode()}
        except UnicodeDecodeError:
            return {base64_key: base64.b64encode(body).decode()}

    def read(members: Mapping[str, object]) -> object | None:
        _, body = _first(members, (text_key,), str)
        return _decoded(members, base64_key) if body is None else body.encode()

    return Field(name, write, read)


def base64_bytes(name: str, key: str) -> Field:
    """Bytes in standard base64; empty ones are left out.

    Large ones are written as they will stand in the text, which spares copies of them.
    """

    def write(body: bytes) -> dict[str, object]:
        if len(body) > LARGE_BYTES:
            return {key: orjson.Fragment(b'"%s"' % base64.b64encode(body))}
        return {key: base64.b64encode(body).decode()} if body else {}

    return Field(name, write, lambda members: _decoded(members, key))


def labels(name: str) -> Field:
    """All labels under `labels`, and the first under the older `label`."""

    def write(values: tuple[str, ...]) -> dict[str, object]:
        return {"label": values[0], "labels": list(values)} if values else {}

    def read(members: Mapping[str, object]) -> object | None:
        if members.get("labels") is not None:
            return _strings("labels", members["labels"])
        _, single = _first(members, ("label",), str)
        return None if single is None else (single,)

    return Field(name, write, read)


def _plain(
    name: str, keys: tuple[str, ...], kind: type[str | int | bool], *, required: bool, always: bool = False
) -> Field:
    # An empty text and an unset flag say nothing; 0 retries or status 0 do.
    left_out = (None,) if kind is int else (None, kind())

    def write(value: object) -> dict[str, object]:
        if value in left_out and not (required or always):
            return {}
        return dict.fromkeys(keys, value)

    return Field(name, write, lambda members: _first(members, keys, kind)[1], required)


def _first(members: Mapping[str, object], keys: tuple[str, ...], kind: type[_T]) -> tuple[str, _T | None]:
    for key in keys:
        value = members.get(key)
        if value is None:
            continue
        # A bool is an int to `isinstance`, and never to JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DecodeError(f"{key} is {value!r:.100}, not of type {kind.__name__}", path=key)
        return key, value
    return keys[0], None


def _strings(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise DecodeError(f"{key} is {value!r:.100}, not a list of strings", path=key)


def _decoded(members: Mapping[str, object], key: str) -> bytes | None:
    _, encoded = _first(members, (key,), str)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"{key} is not base64: {error}", path=key) from error
