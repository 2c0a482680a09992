"""Which calls PostgreSQL stores in one round trip, by a statement that finds itself what storing must know.

It stores nothing unless all of their queues stand in line for claims, so that nobody must be told of them.
It is tried where that was so the last time (decision 030).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from qtasks.broker.store.group import Ticket
from qtasks.broker.store.postgres_values import FRAME_BYTES, VALUE_BYTES
from qtasks.values import dataclass

if TYPE_CHECKING:
    from qtasks.broker.store.postgres_pipeline import Query

Rows = Sequence[Mapping[str, Any]]

ROOM_BYTES = 7_400
"""What is left of 8 KiB beside what takes the turn to write, and what commits."""
ROW_BYTES = 130
"""What the numbers of a row take, and the lengths of all of its values."""
MOST_QUEUES = 1_000
MOST_WEIGHED = 100
"""So many rows are too large together however little each has."""


class Appendable(Protocol):
    """A work that may be done so."""

    @property
    def appends_to(self) -> Set[str] | None:
        """The queues that must stand in line; None if it can never be done so."""
        ...

    @property
    def answers(self) -> Any:
        """What it gives if it was."""
        ...

    def rows_to_append(self) -> Rows:
        """Give what it stores: rows with the same names in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class Appended:
    """The statement that stores all rows, or none of them, and what it is given."""

    query: Query
    params: Mapping[str, Any]
    size: int
    """Bytes, at most, of what it is given."""
    first_id: str
    """The id of one of the messages."""

    @property
    def is_small(self) -> bool:
        """Whether it can leave in one piece with what takes the turn to write and what commits."""
        query = self.query
        return len(query.text) + self.size + FRAME_BYTES + VALUE_BYTES * len(query.names) <= ROOM_BYTES

    @classmethod
    def of(cls, rows: Rows, queries: Mapping[str, Query]) -> Appended:
        """Make it of one row or more."""
        size, first = sum(map(_size, rows[:MOST_WEIGHED])), rows[0]
        if len(rows) == 1:
            return cls(queries["message_append"], first, size, first["id"])
        columns = dict(zip(first, zip(*[row.values() for row in rows], strict=True), strict=True))
        return cls(queries["message_append_many"], columns, size, first["id"])


def _size(row: Mapping[str, Any]) -> int:
    contents = sum([len(each) for each in _CONTENTS(row) if each])
    texts = sum([len(each) if each.isascii() else 4 * len(each) for each in _TEXTS(row) if each])
    return ROW_BYTES + contents + texts


_CONTENTS = itemgetter("headers", "body", "extras")
_TEXTS = itemgetter("id", "task_id", "queue", "url", "method", "retry_delay", "labels", "caller_ip", "app")


class Appending:
    """What is known of queues by the works before."""

    def __init__(self, queries: Mapping[str, Query]) -> None:
        self._queries = queries
        self._in_line: set[str] = set()
        self.have_company = False
        """Whether the last of these works shared a commit, so that it is worth waiting for others."""

    def find(self, group: Sequence[Ticket]) -> Appended | None:
        """Give what stores all of these works; None if one of them had better be done in the usual way."""
        rows: list[Mapping[str, Any]] = []
        for ticket in group:
            work: Any = ticket.work
            names = getattr(work, "appends_to", None)
            if not names or not names <= self._in_line:
                return None
            rows += work.rows_to_append()
        return Appended.of(rows, self._queries)

    def find_small(self, group: Sequence[Ticket]) -> Appended | None:
        """Give the same if it is small."""
        found = self.find(group)
        return found if found is not None and found.is_small else None

    def learn(self, group: Sequence[Ticket], *, in_line: bool) -> None:
        """Take note whether the queues of these works, done in the usual way, stood in line, all of them."""
        names = _queues(_appendable(group))
        if not names:
            return
        self.have_company = len(group) > 1
        self._in_line -= names
        if in_line and len(self._in_line) + len(names) <= MOST_QUEUES:
            self._in_line |= names

    def tried(self, group: Sequence[Ticket], *, is_stored: bool) -> None:
        """Take note whether what was found was stored."""
        self.have_company = len(group) > 1
        if not is_stored:
            self._in_line -= _queues(_appendable(group))


def answer(group: Sequence[Ticket]) -> bool:
    """Tell those who wait, of whose works all were appended, that their messages are stored."""
    for ticket in group:
        work: Any = ticket.work
        ticket.result = work.answers
    return True


def _appendable(group: Sequence[Ticket]) -> Sequence[Appendable]:
    """Give the works of a group if all of them may be done so; else none."""
    works: list[Any] = [each.work for each in group]
    return works if all(getattr(each, "appends_to", None) is not None for each in works) else ()


def _queues(works: Sequence[Appendable]) -> set[str]:
    return {name for each in works for name in each.appends_to or ()}
