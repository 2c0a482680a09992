"""Values as PostgreSQL takes them in binary, for statements that say of each what it is: `CAST(:id AS TEXT)`.

psycopg asks of each value anew what it is, and of a list by Python of its own: twice the time for many rows,
four times for a few.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any

from qtasks.values import dataclass

Write = Callable[[Any], bytes | None]

FRAME_BYTES, VALUE_BYTES = 64, 12
"""What the protocol adds to a statement, and to each of its values, at most."""

_HEAD = Struct(">iiIii")  # dimensions, whether there are nulls, type, length, first index
_LENGTH = Struct(">i").pack
_NUMBER = Struct(">q").pack
_NULL = _LENGTH(-1)
_PARAMETER = re.compile(r"CAST\(:(\w+) AS (BIGINT|TEXT|BYTEA)(\[\])?\)")


@dataclass(frozen=True, slots=True)
class Type:
    """A type of PostgreSQL, by its number, and how a value of it is written that is not None."""

    oid: int
    write: Callable[[Any], bytes]

    def scalar(self, value: Any) -> bytes | None:
        """Write one value; None is NULL."""
        return None if value is None else self.write(value)

    def column(self, values: Sequence[Any]) -> bytes:
        """Write all values of a column, of which there is one at least, as an array.

        >>> TYPES["BIGINT"].column([7, None]).hex(" ", 4)
        '00000001 00000001 00000014 00000002 00000001 00000008 00000000 00000007 ffffffff'
        """
        count, first = len(values), values[0]
        head = _HEAD.pack(1, 1, self.oid, count, 1)
        if values.count(first) == count:  # as most columns of calls of one task are
            return head + self._item(first) * count
        return head + b"".join([self._item(each) for each in values])

    def _item(self, value: Any) -> bytes:
        if value is None:
            return _NULL
        written = self.write(value)
        return _LENGTH(len(written)) + written


def _text(value: str) -> bytes:
    """Write a text, in which PostgreSQL can have no NUL."""
    return (value.replace("\0", "\ufffd") if "\0" in value else value).encode()


TYPES = {"BIGINT": Type(20, _NUMBER), "TEXT": Type(25, _text), "BYTEA": Type(17, bytes)}


def writers_of(text: str) -> Mapping[str, Write]:
    """Find the parameters of which a statement says what they are, and how each is written.

    >>> writers_of("SELECT unnest(CAST(:ids AS TEXT[])), :now").keys()
    dict_keys(['ids'])
    """
    found = _PARAMETER.findall(text)
    return {name: TYPES[kind].column if is_array else TYPES[kind].scalar for name, kind, is_array in found}
