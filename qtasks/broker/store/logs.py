"""Pages of the log. Entries are not stored: each is derived from the row that proves it.

The row of a message proves CREATED. The row of an ended attempt proves its ACTIVE, and DELIVERED, or
ERROR with RETRY or FAILED. A lease proves the ACTIVE of what is in flight. One row for an attempt
instead of one for each state halves what a delivery writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from qtasks.broker.store import messages
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.records import LogKind
from qtasks.broker.store.views import header_map, message_view
from qtasks.protocol.shapes import LogEntry, MessageView, State

PER_ATTEMPT = 4  # entries of one attempt: its place within its message is 4 * epoch + n
BULKS = 100  # pages read for one answer at most, when a filter matches little


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an entry stands in the log, which is sorted by time, then message, then step."""

    time: int
    seq: int
    step: int

    def __str__(self) -> str:
        return f"{self.time}-{self.seq}-{self.step}"


NEWEST = Place(1 << 62, 1 << 62, 1 << 62)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What entries to give; None asks for all."""

    message_id: str | None = None
    states: frozenset[State] | None = None
    queue: str | None = None

    def matches(self, entry: LogEntry) -> bool:
        """Say whether an entry is asked for."""
        return (self.states is None or entry.state in self.states) and (
            self.queue is None or entry.queue_name == self.queue
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """An entry without the content of its message."""

    place: Place
    state: State
    fields: dict[str, Any]


def log_page(
    session: Session, wanted: LogFilter, before: Place | None, count: int
) -> tuple[list[LogEntry], str | None]:
    """List log entries, newest first; also give the cursor of the next page, None at the end."""
    source = _steps_of(session, wanted.message_id) if wanted.message_id else _steps_of_all(session)
    contents: dict[int, MessageView] = {}
    found: list[LogEntry] = []
    place = before or NEWEST
    for _ in range(BULKS):
        steps = source(place, count + 1)
        for step in steps[:count]:
            if len(found) == count:
                return found, str(place)
            place = step.place
            entry = _entry(session, step, contents)
            if entry is not None and wanted.matches(entry):
                found.append(entry)
        if len(steps) <= count:
            return found, None
    return found, str(place)


_Source = Callable[[Place, int], list[_Step]]


def _steps_of_all(session: Session) -> _Source:
    """Read a bulk of the whole log from each source; the newest of all of them are complete.

    An attempt that started within the bulk and has not ended is in flight, and those are few.
    """

    def bulk(before: Place, count: int) -> list[_Step]:
        epoch = before.step // PER_ATTEMPT
        bounds = {"time": before.time, "seq": before.seq, "epoch": epoch, "count": count}
        created = {"created_seq": _last_created(session, before), "count": count}
        steps = [_created(*row) for row in session.all("log_created", created)]
        for row in session.all("log_ended", bounds):
            steps.extend(_ended(row))
        steps.extend(_started(row) for row in session.all("log_started", bounds))
        steps.extend(_active(row) for row in session.all("log_active", {}))
        return _newest(steps, before, count)

    return bulk


def _last_created(session: Session, before: Place) -> int:
    """Find the last message that was created until a place in the log."""
    earlier = _last_created_at(session, before.time - 1)
    return min(max(earlier, before.seq), _last_created_at(session, before.time))


def _last_created_at(session: Session, time: int) -> int:
    """Find the last message created until an instant, by bisection: the sequence is sorted by time."""
    low, high = 0, messages.newest(session)[0]
    while low < high:
        middle = (low + high + 1) // 2
        seq, created_at = messages.newest(session, middle)
        if created_at <= time:
            low = middle
        else:
            high = seq - 1
    return low


def _steps_of(session: Session, message_id: str) -> _Source:
    row = session.one("log_seq_of_message", {"id": message_id})
    steps: list[_Step] = []
    if row is not None:
        of_message = {"seq": row[0]}
        steps.append(_created(*row))
        for attempt in session.all("log_of_message", of_message):
            steps.extend((_started(attempt), *_ended(attempt)))
        steps.extend(_active(each) for each in session.all("log_active_of_message", of_message))
    return lambda before, count: _newest(steps, before, count)


def _newest(steps: list[_Step], before: Place, count: int) -> list[_Step]:
    older = [each for each in steps if each.place < before]
    return sorted(older, key=lambda each: each.place, reverse=True)[:count]


def _created(seq: int, created_at: int) -> _Step:
    return _Step(Place(created_at, seq, 0), State.CREATED, {})


def _active(row: Row) -> _Step:
    seq, epoch, started_at = row
    return _Step(Place(started_at, seq, PER_ATTEMPT * epoch), State.ACTIVE, {})


def _started(row: Row) -> _Step:
    return _active((row[0], row[1], row[3]))


def _ended(row: Row) -> Iterator[_Step]:
    seq, epoch, kind, _, ended_at, next_at, status, error, headers, body = row
    first = PER_ATTEMPT * epoch + 1
    answer = {"response_status": status, "response_header": header_map(headers), "response_body": body or b""}
    if kind == LogKind.DELIVERED:
        yield _Step(Place(ended_at, seq, first), State.DELIVERED, {"response_status": status})
        return
    if kind != LogKind.RETURNED:  # that one spent no attempt: it is no error of the destination
        yield _Step(Place(ended_at, seq, first), State.ERROR, {"error": error, **answer})
    if kind == LogKind.FAILED:
        yield _Step(Place(ended_at, seq, first + 1), State.FAILED, {"response_status": status})
    else:
        yield _Step(Place(ended_at, seq, first + 1), State.RETRY, {"next_delivery_time": next_at})


def _entry(session: Session, step: _Step, contents: dict[int, MessageView]) -> LogEntry | None:
    seq = step.place.seq
    if seq not in contents:
        row = session.one("log_message", {"seq": seq})
        if row is None:
            return None  # pruned between two reads
        contents[seq] = message_view(row)
    entry = _with_content(step, contents[seq])
    if step.state is State.CREATED and contents[seq].not_before > step.place.time:
        return replace(entry, next_delivery_time=contents[seq].not_before)
    return entry


def _with_content(step: _Step, message: MessageView) -> LogEntry:
    return LogEntry(
        time=step.place.time,
        message_id=message.message_id,
        state=step.state,
        url=message.url,
        header=message.header,
        body=message.body,
        queue_name=message.queue_name,
        timeout_ms=message.timeout_ms,
        method=message.method,
        max_retries=message.max_retries,
        retry_delay_expression=message.retry_delay_expression,
        labels=message.labels,
        caller_ip=message.caller_ip,
        **step.fields,
    )


def parse_place(text: str) -> Place | None:
    """Read a cursor of the log, or a bare instant in ms ("older than"); None if it is neither."""
    parts = text.split("-")
    if len(parts) > 3 or not all(each.isdecimal() for each in parts) or len(text) > 60:
        return None
    numbers = [int(each) for each in parts]
    return Place(*numbers, *[0] * (3 - len(numbers)))
