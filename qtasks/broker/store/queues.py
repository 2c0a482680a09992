"""Queues in the store: made on first use, declared, paused, and taken in turn by `claim`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Protocol

from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.records import Stage
from qtasks.errors import QuotaExceeded
from qtasks.protocol.headers import QueueSpec
from qtasks.protocol.shapes import QueueView
from qtasks.values import dataclass

UNLIMITED = 1 << 31
PUBLISHED = ""  # the unnamed queue of messages that were published without one; never shown


class Kind(IntEnum):
    """What the messages of a queue have in common."""

    NAMED = 0
    UNNAMED = 1
    """They were published without a queue."""
    FLOW = 2
    """They share a flow-control key."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What claim and enqueue need to know of a queue; `rate` is a flow-control key's alone."""

    id: int
    name: str
    parallelism: int
    ordered: bool
    is_in_line: bool = False
    """Whether it stands in the line for claims already, or is full."""
    rate: int | None = None
    period_ms: int = 1000
    window_at: int = 0
    window_count: int = 0
    is_paused: bool = False
    """As far as it was asked for: what stands in line is not."""


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """Declares the queue of messages without one."""

    queue: str = PUBLISHED
    parallelism: int = UNLIMITED
    ordered: bool = False


NOWHERE = _Unnamed()


class _Declaration(Protocol):
    @property
    def queue(self) -> str: ...
    @property
    def parallelism(self) -> int: ...
    @property
    def ordered(self) -> bool: ...


def find_or_create(session: Session, wanted: _Declaration, now: int) -> QueueRow:
    """Give the queue of that name, making it as declared if it is missing (contract 1.5)."""
    row = session.one("queue_find", {"name": wanted.queue})
    if row is None:
        new = QueueRow(0, wanted.queue, wanted.parallelism, wanted.ordered)
        _create(session, new, paused=False, is_set=False, now=now)
        row = session.one("queue_find", {"name": wanted.queue})
        assert row is not None
    return queue_row(row)


def queue_row(row: Row) -> QueueRow:
    """Make the value of a row of `queue_find`."""
    return QueueRow(row[0], row[1], row[2], bool(row[3]), bool(row[5]), is_paused=bool(row[4]))


def _create(session: Session, wanted: QueueRow, *, paused: bool, is_set: bool, now: int) -> None:
    session.run(
        "queue_insert",
        {
            "name": wanted.name,
            "parallelism": wanted.parallelism,
            "ordered": int(wanted.ordered),
            "paused": int(paused),
            "is_set": int(is_set),
            "kind": Kind.UNNAMED.value if wanted.name == PUBLISHED else Kind.NAMED.value,
            "now": now,
        },
    )


def upsert(
    session: Session, name: str, parallelism: int, paused: bool | None, now: int, most: int = UNLIMITED
) -> None:
    """Set a queue's parallelism, and its pause unless `paused` is None (contract 2.6).

    Raises `QuotaExceeded` for a new queue where there are `most` already.
    """
    row = session.one("queue_find", {"name": name})
    if row is None:
        count = session.one("queue_count", {})
        if count is not None and count[0] >= most:
            raise QuotaExceeded(f"quota maxQueues exceeded, current limit: {most}")
        new = QueueRow(0, name, parallelism, ordered=True)
        _create(session, new, paused=bool(paused), is_set=True, now=now)
        return
    keeps = row[4] if paused is None else int(paused)
    session.run("queue_update", {"name": name, "parallelism": parallelism, "paused": keeps, "now": now})
    session.announce()


def declare(session: Session, declared: Mapping[str, QueueSpec], now: int) -> None:
    """Bring queues that exist to what their app declares, unless the API has set them since.

    Missing ones are made when they are first used. Whether a queue is ordered never changes.
    """
    rows = [
        {"name": name, "parallelism": spec.parallelism, "ordered": int(spec.ordered), "now": now}
        for name, spec in declared.items()
    ]
    session.update_many("queue_declare", rows)


def set_paused(session: Session, name: str, paused: bool, now: int) -> bool:
    """Pause or resume a queue; False if there is none of that name."""
    found = session.run("queue_pause", {"name": name, "paused": int(paused), "now": now}) > 0
    session.announce()
    return found


def views(session: Session, name: str | None = None) -> list[QueueView]:
    """List all queues by name, or the one of that name."""
    return [_view(row) for row in session.all("queue_list", {"name": name})]


def _view(row: Row) -> QueueView:
    name, parallelism, ordered, paused, created_at, updated_at, lag = row
    return QueueView(
        name=name,
        created_at=created_at,
        updated_at=updated_at,
        parallelism=parallelism,
        paused=bool(paused),
        lag=lag,
        ordered=bool(ordered),
    )


def in_line(session: Session, count: int) -> list[QueueRow]:
    """Give queues that may have something to start, the longest waiting first."""
    rows = session.all("queue_line", {"count": count})
    return [
        QueueRow(id_, "", parallelism, bool(ordered), True, rate, period_ms, window_at, window_count)
        for id_, parallelism, ordered, rate, period_ms, window_at, window_count in rows
    ]


def free_slots(session: Session, queue: QueueRow) -> int:
    """Say how many more messages of the queue may be in flight.

    Those whose callbacks have not finished keep their slots (contract 1.5).
    """
    if queue.parallelism >= UNLIMITED:
        return UNLIMITED
    held = Stage.HELD if queue.ordered else Stage.ACTIVE  # contract 1.5: a retry keeps its slot
    row = session.one("queue_taken", {"queue": queue.id, "held": held.value})
    assert row is not None
    return queue.parallelism - int(row[0]) - int(row[1])


def join_line(session: Session, ids: Iterable[int]) -> None:
    """Say that these queues have something ready; wakes the dispatcher unless it knows already."""
    for each in ids:
        if session.run("queue_join_line", {"id": each}):
            session.announce()


def freed(session: Session, ids: Iterable[int]) -> None:
    """Say that slots of these queues became free, or messages of them ready again."""
    session.update_many("queue_freed", [{"id": each} for each in ids])


def join_all(session: Session) -> None:
    """Put every queue with a ready message in line: at start, when nothing may be taken for granted."""
    session.run("queue_join_all", {})


def rejoin(
    session: Session, queue: QueueRow, *, has_more: bool, is_full: bool, wake_at: int | None = None
) -> None:
    """After a claim: send a queue to the end of the line, or out of it; `wake_at` brings it back."""
    query = "queue_rejoin" if has_more else "queue_leave_line"
    session.update_many(query, [{"id": queue.id, "is_full": int(is_full), "wake_at": wake_at}])
