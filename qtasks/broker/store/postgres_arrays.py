"""Columns of rows as PostgreSQL takes them in binary: an array for each.

psycopg's own dumper of lists is Python too, and asks of each value anew what it is: twice the time for many
rows, four times for a few.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any

from qtasks.values import dataclass

_HEAD = Struct(">iiIii")  # dimensions, whether there are nulls, type, length, first index
_LENGTH = Struct(">i").pack
_NUMBER = Struct(">iq").pack
_NULL = _LENGTH(-1)
_PARAMETER = re.compile(r"CAST\(:(\w+) AS (\w+)\[\]\)")


def _number(value: int) -> bytes:
    return _NUMBER(8, value)


def _text(value: str) -> bytes:
    """Write a text, in which PostgreSQL can have no NUL."""
    encoded = (value.replace("\0", "\ufffd") if "\0" in value else value).encode()
    return _LENGTH(len(encoded)) + encoded


def _bytes(value: bytes) -> bytes:
    return _LENGTH(len(value)) + value


@dataclass(frozen=True, slots=True)
class Element:
    """A type of PostgreSQL, by its number, and how a value of it is written."""

    oid: int
    write: Callable[[Any], bytes]

    def column(self, values: Sequence[Any]) -> bytes:
        """Write all values of a column, of which there is one at least; None is NULL.

        >>> ELEMENTS["BIGINT"].column([7, None]).hex(" ", 4)
        '00000001 00000001 00000014 00000002 00000001 00000008 00000000 00000007 ffffffff'
        """
        count, first = len(values), values[0]
        head, write = _HEAD.pack(1, 1, self.oid, count, 1), self.write
        if values.count(first) == count:  # as most columns of calls of one task are
            return head + (_NULL if first is None else write(first)) * count
        return head + b"".join([_NULL if each is None else write(each) for each in values])


ELEMENTS = {"BIGINT": Element(20, _number), "TEXT": Element(25, _text), "BYTEA": Element(17, _bytes)}


def columns_of(text: str) -> Mapping[str, Element]:
    """Find the parameters of a statement that are arrays, and of what.

    >>> {name: each.oid for name, each in columns_of("SELECT unnest(CAST(:ids AS TEXT[])), :now").items()}
    {'ids': 25}
    """
    return {name: ELEMENTS[kind] for name, kind in _PARAMETER.findall(text)}
