"""Pages of the log. Entries are not stored: each is derived from the row that proves it.

The row of a message proves CREATED. The row of an ended attempt proves its ACTIVE, and DELIVERED, or
ERROR with RETRY or FAILED. A lease proves the ACTIVE of what is in flight. One row for an attempt
instead of one for each state halves what a delivery writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from qtasks.broker.store import surroundings
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.filters import EVERYTHING, MessageFilter
from qtasks.broker.store.records import LogKind
from qtasks.broker.store.views import header_map, message_view
from qtasks.protocol.shapes import LogEntry, MessageView, State

PER_ATTEMPT = 8  # steps of one attempt: its place within its message is 8 * epoch + n
BULKS = 100  # pages read for one answer at most, when a filter matches little
# A page ends early once its bodies are this large together (promise P20).
PAGE_BYTES = 2 * 1024 * 1024


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

    messages: MessageFilter = EVERYTHING
    states: frozenset[State] | None = None

    def matches(self, entry: LogEntry, message: MessageView) -> bool:
        """Say whether an entry is asked for."""
        if self.states is not None and entry.state not in self.states:
            return False
        return self.messages.matches(message, entry.time)


@dataclass(frozen=True, slots=True)
class _Step:
    """An entry without the content of its message."""

    place: Place
    state: State
    fields: dict[str, Any]
    has_large_body: bool = False
    """The answer's body is still to be read."""


class _Contents:
    """The messages that entries are about, read once each while their bodies are small together."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._views: dict[int, MessageView] = {}
        self._bytes = 0

    def find(self, seq: int) -> MessageView | None:
        """Give a message; None if it was pruned between two reads."""
        view = self._views.get(seq)
        if view is not None:
            return view
        row = self._session.one("log_message", {"seq": seq})
        if row is None:
            return None
        view = message_view(row)
        self._bytes += len(view.body)
        if self._bytes > PAGE_BYTES:
            self._views.clear()
            self._bytes = len(view.body)
        self._views[seq] = view
        return view


def log_page(
    session: Session, wanted: LogFilter, before: Place | None, count: int
) -> tuple[list[LogEntry], str | None]:
    """List log entries, newest first; also give the cursor of the next page, None at the end."""
    ids = wanted.messages.message_ids
    source = _steps_of_all(session) if ids is None else _steps_of(session, ids)
    contents = _Contents(session)
    found: list[LogEntry] = []
    place, size = before or NEWEST, 0
    for _ in range(BULKS):
        steps = source(place, count + 1)
        for step in steps[:count]:
            if len(found) == count or size >= PAGE_BYTES:
                return found, str(place)
            place = step.place
            message = contents.find(place.seq)
            if message is None:
                continue
            entry = _entry(session, step, message)
            if wanted.matches(entry, message):
                found.append(entry)
                size += len(entry.body) + len(entry.response_body)
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
        # Bounds include the row that the place itself is of, which may have nothing older to give.
        bounds = {"time": before.time, "seq": before.seq, "epoch": epoch, "count": count + 1}
        created = {"created_seq": _last_created(session, before), "count": count + 1}
        steps = [_created(*row) for row in session.all("log_created", created)]
        for row in session.all("log_ended", bounds):
            steps.extend(_ended(row))
        for row in session.all("log_started", bounds):
            steps.extend(_started(row))
        for row in session.all("log_cancelled", bounds):
            steps.extend(_called_off(row))
        for row in session.all("log_active", {}):
            steps.extend(_in_flight(row))
        return _newest(steps, before, count)

    return bulk


def _last_created(session: Session, before: Place) -> int:
    """Find the last message that was created until a place in the log."""
    earlier = _last_created_at(session, before.time - 1)
    return min(max(earlier, before.seq), _last_created_at(session, before.time))


def _last_created_at(session: Session, time: int) -> int:
    """Find the last message created until an instant, by bisection: the sequence is sorted by time."""
    low, high = 0, surroundings.newest(session)[0]
    while low < high:
        middle = (low + high + 1) // 2
        seq, created_at = surroundings.newest(session, middle)
        if created_at <= time:
            low = middle
        else:
            high = seq - 1
    return low


def _steps_of(session: Session, message_ids: Iterable[str]) -> _Source:
    """Read all there is of some messages: they have few entries each."""
    steps: list[_Step] = []
    for message_id in message_ids:
        row = session.one("log_seq_of_message", {"id": message_id})
        if row is None:
            continue
        of_message = {"seq": row[0]}
        steps.append(_created(*row))
        for attempt in session.all("log_of_message", of_message):
            steps.extend((*_started(attempt), *_called_off(attempt), *_ended(attempt)))
        for each in session.all("log_active_of_message", of_message):
            steps.extend(_in_flight(each))
    return lambda before, count: _newest(steps, before, count)


def _newest(steps: list[_Step], before: Place, count: int) -> list[_Step]:
    older = [each for each in steps if each.place < before]
    return sorted(older, key=lambda each: each.place, reverse=True)[:count]


def _created(seq: int, created_at: int) -> _Step:
    return _Step(Place(created_at, seq, 0), State.CREATED, {})


def _in_flight(row: Row) -> Iterator[_Step]:
    seq, epoch, started_at, cancel_at = row
    yield _Step(Place(started_at, seq, PER_ATTEMPT * epoch), State.ACTIVE, {})
    if cancel_at is not None:
        yield _Step(Place(cancel_at, seq, PER_ATTEMPT * epoch + 1), State.CANCEL_REQUESTED, {})


def _started(row: Row) -> Iterator[_Step]:
    seq, epoch, kind, started_at, *_ = row
    if kind not in (LogKind.CANCELLED, LogKind.EXPIRED):
        yield _Step(Place(started_at, seq, PER_ATTEMPT * epoch), State.ACTIVE, {})


def _called_off(row: Row) -> Iterator[_Step]:
    seq, epoch, _, _, _, _, cancel_at, *_ = row
    if cancel_at is not None:
        yield _Step(Place(cancel_at, seq, PER_ATTEMPT * epoch + 1), State.CANCEL_REQUESTED, {})


def _ended(row: Row) -> Iterator[_Step]:
    seq, epoch, kind, _, ended_at, next_at, _, status, error, headers, body, is_large = row
    first = Place(ended_at, seq, PER_ATTEMPT * epoch + 2)
    second = replace(first, step=first.step + 1)
    answer = {"response_status": status, "response_header": header_map(headers), "response_body": body or b""}
    if kind == LogKind.DELIVERED:
        yield _Step(first, State.DELIVERED, {"response_status": status})
        return
    if kind == LogKind.EXPIRED:
        yield _Step(second, State.CANCELED, {"error": error})
        return
    if kind not in (LogKind.RETURNED, LogKind.CANCELLED):  # no error of the destination
        yield _Step(first, State.ERROR, {"error": error, **answer}, has_large_body=bool(is_large))
    if kind == LogKind.FAILED:
        yield _Step(second, State.FAILED, {"response_status": status})
    elif kind in (LogKind.CANCELLED, LogKind.ENDED_CANCELLED):
        yield _Step(second, State.CANCELED, {})
    else:
        yield _Step(second, State.RETRY, {"next_delivery_time": next_at})


def _entry(session: Session, step: _Step, message: MessageView) -> LogEntry:
    entry = _with_content(step, message)
    if step.has_large_body:
        place = {"seq": step.place.seq, "epoch": step.place.step // PER_ATTEMPT}
        body = session.one("log_body", place)
        entry = replace(entry, response_body=body[0] if body else b"")
    if step.state is State.CREATED and message.not_before > step.place.time:
        return replace(entry, next_delivery_time=message.not_before)
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
        topic_name=message.topic_name,
        endpoint_name=message.endpoint_name,
        schedule_id=message.schedule_id,
        callback=message.callback,
        callback_header=message.callback_header,
        failure_callback=message.failure_callback,
        failure_callback_header=message.failure_callback_header,
        flow_control_key=message.flow_control_key,
        rate=message.rate,
        parallelism=message.parallelism,
        period_s=message.period_s,
        **step.fields,
    )


def parse_place(text: str) -> Place | None:
    """Read a cursor of the log, or a bare instant in ms ("older than"); None if it is neither."""
    parts = text.split("-")
    if len(parts) > 3 or not all(each.isdecimal() and len(each) <= 18 for each in parts):
        return None  # more digits are beyond what a database counts
    numbers = [int(each) for each in parts]
    return Place(*numbers, *[0] * (3 - len(numbers)))
