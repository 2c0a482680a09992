"""The operations of the API as values: one function each, giving a `Call` to be sent.

A call knows its request and how to read its answer; it does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import orjson

from qtasks.errors import DecodeError, InvalidValue
from qtasks.protocol.headers import render_options
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.results import ProgressReport, ResultView
from qtasks.protocol.shapes import DeadLetter, Enqueued, LogEntry, MessageView, Outgoing, QueueView

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


def enqueue(message: Outgoing) -> Call[Enqueued]:
    """Enqueue one message (contract 2.2)."""
    return Call(
        "POST",
        # The destination stands in the path as it is: that is how QStash's own clients send it.
        f"/v2/enqueue/{_segment(message.queue or '')}/{message.destination}",
        lambda body: Enqueued.from_json(_object(body)),
        render_options(message.options),
        message.body,
    )


def publish(message: Outgoing) -> Call[Enqueued]:
    """Publish one message without a queue (contract 2.1)."""
    return Call(
        "POST",
        f"/v2/publish/{message.destination}",
        lambda body: Enqueued.from_json(_object(body)),
        render_options(message.options),
        message.body,
    )


def send(message: Outgoing) -> Call[Enqueued]:
    """Enqueue one message, or publish it if it names no queue."""
    return publish(message) if message.queue is None else enqueue(message)


def batch(messages: Sequence[Outgoing]) -> Call[list[Enqueued]]:
    """Enqueue or publish many messages, whose bodies must be UTF-8 text (contract 2.3)."""
    items = [
        {
            "destination": each.destination,
            "queue": each.queue,
            "headers": dict(render_options(each.options)),
            "body": each.body.decode(),
        }
        for each in messages
    ]
    return Call("POST", "/v2/batch", _list(Enqueued.from_json), JSON, orjson.dumps(items))


def schedules() -> Call[list[ScheduleView]]:
    """List the schedules (contract 2.7)."""
    return Call("GET", "/v2/schedules", _list(ScheduleView.from_json))


def create_schedule(message: Outgoing) -> Call[str]:
    """Make a schedule of a message that says when, or replace the one of its id (contract 2.7)."""
    return Call(
        "POST",
        f"/v2/schedules/{message.destination}",
        lambda body: str(_object(body).get("scheduleId", "")),
        render_options(message.options),
        message.body,
    )


def delete_schedule(schedule_id: str) -> Call[None]:
    """Delete a schedule; there being none is no error (contract 2.7)."""
    return Call("DELETE", f"/v2/schedules/{_segment(schedule_id)}", _nothing)


def pause_schedule(schedule_id: str) -> Call[None]:
    """Let a schedule fire no more."""
    return Call("POST", f"/v2/schedules/{_segment(schedule_id)}/pause", _nothing)


def resume_schedule(schedule_id: str) -> Call[None]:
    """Let a paused schedule go on."""
    return Call("POST", f"/v2/schedules/{_segment(schedule_id)}/resume", _nothing)


def message(message_id: str) -> Call[MessageView]:
    """Ask for a message (contract 2.4)."""
    return Call("GET", f"/v2/messages/{_segment(message_id)}", _one(MessageView.from_json))


def queues() -> Call[list[QueueView]]:
    """List the queues (contract 2.6)."""
    return Call("GET", "/v2/queues", _list(QueueView.from_json))


def queue(name: str) -> Call[QueueView]:
    """Ask for a queue (contract 2.6)."""
    return Call("GET", f"/v2/queues/{_segment(name)}", _one(QueueView.from_json))


def set_queue(name: str, *, parallelism: int = 1, paused: bool | None = None) -> Call[None]:
    """Make or change a queue; without `paused` it stays as it is (contract 2.6)."""
    members: dict[str, object] = {"queueName": name, "parallelism": parallelism}
    if paused is not None:
        members["paused"] = paused
    return Call("POST", "/v2/queues", _nothing, JSON, orjson.dumps(members))


def delete_queue(name: str) -> Call[None]:
    """Drop a queue with what waits in it (contract 2.6)."""
    return Call("DELETE", f"/v2/queues/{_segment(name)}", _nothing)


def cancel(message_id: str) -> Call[None]:
    """Call a message off (contract 2.4)."""
    return Call("DELETE", f"/v2/messages/{_segment(message_id)}", _nothing)


def cancel_labelled(label: str) -> Call[int]:
    """Call off all messages with a label; gives how many they were (contract 2.4)."""
    if not label:
        raise InvalidValue("an empty label would call off every message there is")
    return Call("DELETE", f"/v2/messages{_query(label=label)}", _cancelled)


def cancel_matching(filters: Mapping[str, Sequence[str]]) -> Call[int]:
    """Call off what matches all filters; says how many messages (contract 2.4)."""
    query = urlencode(filters, doseq=True)
    return Call("DELETE", f"/v2/messages?{query}", _cancelled)


def replay(dlq_id: str) -> Call[Enqueued]:
    """Run a dead letter again as a new message (contract 2.8)."""
    return Call("POST", f"/v2/dlq/retry/{_segment(dlq_id)}", _one(Enqueued.from_json))


def delete_dead_letter(dlq_id: str) -> Call[None]:
    """Delete a dead letter (contract 2.8)."""
    return Call("DELETE", f"/v2/dlq/{_segment(dlq_id)}", _nothing)


def pause_queue(name: str) -> Call[None]:
    """Start nothing more of a queue."""
    return Call("POST", f"/v2/queues/{_segment(name)}/pause", _nothing)


def resume_queue(name: str) -> Call[None]:
    """Let a paused queue go on."""
    return Call("POST", f"/v2/queues/{_segment(name)}/resume", _nothing)


def log(
    *, message_id: str | None = None, state: str | None = None, cursor: str | None = None, count: int = 1000
) -> Call[Page[LogEntry]]:
    """Ask for a page of the log, newest first (contract 2.9)."""
    query = _query(messageId=message_id, state=state, cursor=cursor, count=str(count))
    return Call("GET", f"/v2/events{query}", _page("events", LogEntry.from_json))


def dead_letters(*, cursor: str | None = None, count: int = 100) -> Call[Page[DeadLetter]]:
    """Ask for a page of the dead letter queue, newest first (contract 2.8)."""
    query = _query(cursor=cursor, count=str(count))
    return Call("GET", f"/v2/dlq{query}", _page("messages", DeadLetter.from_json))


def dead_letter(dlq_id: str) -> Call[DeadLetter]:
    """Ask for a dead letter (contract 2.8)."""
    return Call("GET", f"/v2/dlq/{_segment(dlq_id)}", _one(DeadLetter.from_json))


def result(task_id: str, wait_ms: int = 0) -> Call[ResultView]:
    """Ask what is known of a task, waiting up to `wait_ms` for its end."""
    path = f"/qtasks/v1/results/{_segment(task_id)}"
    return Call("GET", f"{path}{_wait(wait_ms)}", _one(ResultView.from_json))


def settled(task_ids: Sequence[str], wait_ms: int = 0) -> Call[list[str]]:
    """Ask which of some tasks have finished or are unknown, waiting up to `wait_ms` for the first of them."""
    target = f"/qtasks/v1/results/query{_wait(wait_ms)}"
    return Call("POST", target, _member("settled", list), JSON, orjson.dumps({"ids": list(task_ids)}))


def forget_result(task_id: str) -> Call[bool]:
    """Drop what is kept of a task; says whether there was anything."""
    return Call("DELETE", f"/qtasks/v1/results/{_segment(task_id)}", _member("forgotten", bool))


def report_progress(task_id: str, report: ProgressReport) -> Call[None]:
    """Tell how far a task has come that is under way."""
    target = f"/qtasks/v1/results/{_segment(task_id)}/progress"
    return Call("POST", target, _nothing, JSON, orjson.dumps(report.to_json()))


def cancel_task(task_id: str) -> Call[bool]:
    """Call a task off; says whether it was under way and not called off before."""
    return Call("POST", f"/qtasks/v1/tasks/{_segment(task_id)}/cancel", _member("cancelled", bool))


def _wait(wait_ms: int) -> str:
    return _query(wait=f"{wait_ms / 1000:g}s" if wait_ms else None)


def _segment(text: str) -> str:
    return quote(text, safe="")


def _query(**values: str | None) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _nothing(body: bytes) -> None:
    """Some answers have a body that nobody needs."""


def _cancelled(body: bytes) -> int:
    count = _object(body).get("cancelled")
    if not isinstance(count, int):
        raise DecodeError("the answer does not say how many messages were called off")
    return count


def _one(read: Callable[[Mapping[str, object]], T]) -> Callable[[bytes], T]:
    return lambda body: read(_object(body))


def _list(read: Callable[[Mapping[str, object]], T]) -> Callable[[bytes], list[T]]:
    def read_all(body: bytes) -> list[T]:
        items = _json(body)
        if not isinstance(items, list):
            raise DecodeError("the answer is not a list")
        return [read(each) for each in items]

    return read_all


def _member(key: str, make: Callable[[Any], T]) -> Callable[[bytes], T]:
    return lambda body: make(_object(body)[key])


def _page(key: str, read: Callable[[Mapping[str, object]], T]) -> Callable[[bytes], Page[T]]:
    def read_page(body: bytes) -> Page[T]:
        members = _object(body)
        items: Any = members.get(key, ())
        cursor: Any = members.get("cursor")
        return Page([read(each) for each in items], cursor or None)

    return read_page


def _object(body: bytes) -> Mapping[str, object]:
    members = _json(body)
    if not isinstance(members, dict):
        raise DecodeError("the answer is not a JSON object")
    return members


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"the answer is not JSON: {error}") from error
