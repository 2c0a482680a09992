"""`Call`: one operation of the API as a value, and how its answer is read. Nothing here does I/O.

The operations themselves stand in one module for each resource beside this one, and all in `calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

import orjson

from qtasks.errors import DecodeError
from qtasks.values import dataclass

T = TypeVar("T")

JSON = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One operation. `target` is path and query; `read` makes the result of a 2xx answer's body."""

    method: str
    target: str
    read: Callable[[bytes], T]
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing; `cursor` asks for the next, and is None at the end."""

    items: Sequence[T]
    cursor: str | None


def following(call: Call[Page[T]], cursor: str) -> Call[Page[T]]:
    """Give the call for the page that a cursor leads to."""
    path, _, query = call.target.partition("?")
    pairs = [pair for pair in parse_qsl(query) if pair[0] != "cursor"]
    return replace(call, target=f"{path}?{urlencode([*pairs, ('cursor', cursor)])}")


def segment(text: str) -> str:
    """Write a name as one segment of a path."""
    return quote(text, safe="")


def query(**values: str | int | None) -> str:
    """Write a query, leaving out what is None."""
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def wait(wait_ms: int) -> str:
    """Write the query that asks an operation to wait."""
    return query(wait=f"{wait_ms / 1000:g}s" if wait_ms else None)


def read_nothing(body: bytes) -> None:
    """Some answers have a body that nobody needs."""


def read_one(read: Callable[[Mapping[str, object]], T]) -> Callable[[bytes], T]:
    """Read an answer that is one object."""
    return lambda body: read(read_object(body))


def read_list(read: Callable[[Mapping[str, object]], T]) -> Callable[[bytes], list[T]]:
    """Read an answer that is a list of objects."""

    def read_all(body: bytes) -> list[T]:
        items = read_json(body)
        if not isinstance(items, list):
            raise DecodeError("the answer is not a list")
        return [read(check_object(each)) for each in items]

    return read_all


def read_member(key: str, make: Callable[[Any], T]) -> Callable[[bytes], T]:
    """Read one member of an answer that is an object."""

    def read(body: bytes) -> T:
        members = read_object(body)
        if key not in members:
            raise DecodeError(f"the answer has no {key}", path=key)
        return make(members[key])

    return read


def read_count(key: str) -> Callable[[bytes], int]:
    """Read how many an operation was about."""

    def count(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise DecodeError(f"{key} is {value!r:.40}, no number", path=key)
        return value

    return read_member(key, count)


def read_page(key: str, read: Callable[[Mapping[str, object]], T]) -> Callable[[bytes], Page[T]]:
    """Read a page of a listing, whose items stand in a member of the answer."""

    def read_all(body: bytes) -> Page[T]:
        members = read_object(body)
        items: Any = members.get(key, ())
        cursor: Any = members.get("cursor")
        return Page([read(each) for each in items], cursor or None)

    return read_all


def read_object(body: bytes) -> Mapping[str, object]:
    """Read an answer that is a JSON object; raises `DecodeError`."""
    return check_object(read_json(body))


def check_object(found: object) -> Mapping[str, object]:
    """Refuse what is no JSON object; raises `DecodeError`."""
    if not isinstance(found, dict):
        raise DecodeError("the answer is not a JSON object")
    return found


def read_json(body: bytes) -> object:
    """Read an answer that is JSON; raises `DecodeError`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"the answer is not JSON: {error}") from error
