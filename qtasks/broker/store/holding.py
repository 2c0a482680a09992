"""What a claim may take while some destinations are held back: the messages of others, past theirs.

A claim looks at the front of a queue, however long it is. In an unordered queue, what is in the way there
goes behind what comes in the next minutes; it stays ready, and is taken as soon as its destination can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.queues import QueueRow
from qtasks.broker.store.records import SUSPECT_AFTER

LOOK = 256
"""How far a claim looks into a queue."""
BEHIND_MS = 600_000
"""What is in the way goes behind what becomes ready within that."""
AGAIN_MS = 100
APART_MS = 10
"""A queue that was turned away is looked at again after `AGAIN_MS`, and `APART_MS` for each before it."""

IN_PROCESS = ""
"""Names no destination but this process."""

SEQ, URL, APP, INTERRUPTED, DUE_AT = range(5)  # columns of `claim_ahead`


@dataclass(frozen=True, slots=True)
class Held:
    """How many more attempts may begin, by destination."""

    rooms: Mapping[str, int]
    place_of: Callable[[str], str]
    """Names the destination of a URL."""
    others: int | None = None
    """How many for each destination that is not in `rooms`; None for any number."""
    in_process: int | None = None
    """The same for what runs in this process."""
    may_put_back: bool = True
    """Whether it is time to move what is in the way."""

    def room(self, place: str, most: int) -> int:
        """Say how much room a destination has, up to `most`."""
        room = self.in_process if place == IN_PROCESS else self.rooms.get(place, self.others)
        return most if room is None else min(room, most)


class Rooms:
    """What is left of the rooms during one claim, and how many queues it has turned away."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._left = dict(held.rooms)
        self._in_process = held.in_process
        self.turned_away: list[tuple[int, str]] = []
        """The queues that were, and for which destination's sake."""
        self.may_put_back = held.may_put_back

    def place_of(self, row: Row) -> str:
        """Name the destination of the message of a row."""
        return IN_PROCESS if row[APP] is not None else self._held.place_of(row[URL])

    def take(self, row: Row) -> bool:
        """Take room for the message of a row; False if there is none."""
        if row[APP] is not None:
            if self._in_process is None:
                return True
            self._in_process -= 1
            return self._in_process >= 0
        place = self._held.place_of(row[URL])
        left = self._left.get(place, self._held.others)
        if left is None:
            return True
        self._left[place] = left - 1
        return left > 0

    def turn_away(self, queue: int, place: str, now: int) -> int:
        """Note that a queue waits for a destination; say when to look whether it has something for others."""
        self.turned_away.append((queue, place))
        return now + AGAIN_MS + APART_MS * (len(self.turned_away) - 1)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What may be taken of a queue: the messages `allowed`, which are all among its first `depth`."""

    allowed: frozenset[int]
    depth: int
    held_by: str | None
    """The destination for whose sake more is not allowed."""


def look_ahead(
    session: Session, queue: QueueRow, app: str | None, rooms: Rooms, *, count: int, skips: bool, now: int
) -> Ahead:
    """Find up to `count` messages that may start. With `skips`, those under suspicion are left out.

    An ordered queue ends at the first that may not.
    """
    wanted = {"queue": queue.id, "app": app}
    rows = session.all("claim_ahead", {**wanted, "count": count})
    allowed, held = _sort_out(rows, queue, rooms, count=count, skips=skips)
    if held and not queue.ordered and len(rows) == count < LOOK:
        rows = session.all("claim_ahead", {**wanted, "count": LOOK})
        others = _sort_out(rows[count:], queue, rooms, count=count - len(allowed), skips=skips)
        allowed, held = allowed + others[0], held + others[1]
    moved: set[int] = set()
    if not queue.ordered and len(rows) >= LOOK and len(allowed) < count and rooms.may_put_back:
        moved = _put_back(session, held, now)
    held_by = rooms.place_of(held[0]) if held and len(allowed) < count else None
    return Ahead(frozenset(allowed), _depth(rows, allowed, moved), held_by)


def _sort_out(
    rows: Sequence[Row], queue: QueueRow, rooms: Rooms, *, count: int, skips: bool
) -> tuple[list[int], list[Row]]:
    """Give which of the messages may start, up to `count`, and which of those before have no room."""
    allowed: list[int] = []
    held: list[Row] = []
    for row in rows:
        if len(allowed) == count or (held and queue.ordered):
            break
        if skips and row[INTERRUPTED] >= SUSPECT_AFTER:
            continue
        if rooms.take(row):
            allowed.append(row[SEQ])
        else:
            held.append(row)
    return allowed, held


def _put_back(session: Session, held: Sequence[Row], now: int) -> set[int]:
    """Move what is held behind what comes, unless it has been of late."""
    late = [each[SEQ] for each in held if each[DUE_AT] < now + BEHIND_MS // 2]
    session.update_many("pending_put_back", [{"seq": seq, "due_at": now + BEHIND_MS} for seq in late])
    return set(late)


def _depth(rows: Sequence[Row], allowed: Sequence[int], moved: set[int]) -> int:
    """Say how many that are ready must be read, for all that are allowed to be among them."""
    if not allowed:
        return 0
    last = next(at for at, row in enumerate(rows) if row[SEQ] == allowed[-1])
    return sum(row[SEQ] not in moved for row in rows[: last + 1])
