"""Operations on messages: sending them, showing them, calling them off (contract 2.1 to 2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import orjson

from qtasks.client.call import (
    JSON,
    Call,
    check_object,
    query,
    read_count,
    read_json,
    read_list,
    read_nothing,
    read_object,
    read_one,
    segment,
)
from qtasks.client.filters import EVERYTHING, Filter
from qtasks.errors import DecodeError, InvalidValue
from qtasks.protocol.headers import render_options
from qtasks.protocol.left import batch_member
from qtasks.protocol.shapes import Enqueued, MessageView, Outgoing


def enqueue(message: Outgoing) -> Call[Enqueued]:
    """Enqueue one message (contract 2.2)."""
    return Call(
        "POST",
        # The destination stands in the path as it is: that is how QStash's own clients send it.
        f"/v2/enqueue/{segment(message.queue or '')}/{message.destination}",
        lambda body: Enqueued.from_json(read_object(body)),
        render_options(message.options),
        message.body,
    )


def publish(message: Outgoing) -> Call[Enqueued]:
    """Publish one message without a queue (contract 2.1)."""
    return Call(
        "POST",
        f"/v2/publish/{message.destination}",
        lambda body: Enqueued.from_json(read_object(body)),
        render_options(message.options),
        message.body,
    )


def send(message: Outgoing) -> Call[Enqueued]:
    """Enqueue one message, or publish it if it names no queue."""
    return publish(message) if message.queue is None else enqueue(message)


def fan_out(message: Outgoing) -> Call[list[Enqueued]]:
    """Send one message, to a URL or to a URL group: gives one answer for each endpoint."""
    place = "publish" if message.queue is None else f"enqueue/{segment(message.queue)}"
    target = f"/v2/{place}/{message.destination}"
    return Call(
        "POST",
        target,
        lambda body: _answers(read_json(body)),
        render_options(message.options),
        message.body,
    )


def batch(messages: Sequence[Outgoing]) -> Call[list[Enqueued]]:
    """Enqueue or publish many messages, whose bodies must be UTF-8 text (contract 2.3)."""
    return Call("POST", "/v2/batch", read_list(Enqueued.from_json), JSON, _items(messages))


def fan_out_batch(messages: Sequence[Outgoing]) -> Call[list[list[Enqueued]]]:
    """Do what `batch` does where URL groups are among the destinations: a list of answers for each."""

    def read(body: bytes) -> list[list[Enqueued]]:
        answers = read_json(body)
        if not isinstance(answers, list):
            raise DecodeError("the answer is not a list")
        return [_answers(each) for each in answers]

    return Call("POST", "/v2/batch", read, JSON, _items(messages))


def message(message_id: str) -> Call[MessageView]:
    """Ask for a message (contract 2.4)."""
    return Call("GET", f"/v2/messages/{segment(message_id)}", read_one(MessageView.from_json))


def cancel(message_id: str) -> Call[None]:
    """Call a message off (contract 2.4)."""
    return Call("DELETE", f"/v2/messages/{segment(message_id)}", read_nothing)


def cancel_many(wanted: Filter, *, count: int | None = None) -> Call[int]:
    """Call off what matches, at most `count` messages; gives how many they were (contract 2.4).

    Raises `InvalidValue` for an empty filter.
    """
    return Call("DELETE", f"/v2/messages{wanted.bulk_query(count=count)}", read_count("cancelled"))


def cancel_matching(filters: Mapping[str, Sequence[str]]) -> Call[int]:
    """Call off what matches all filters, by the names of the wire; gives how many they were."""
    if not any(filters.values()):
        raise InvalidValue("a filter without any condition would match everything; say EVERYTHING")
    target = f"/v2/messages?{urlencode(filters, doseq=True)}"
    return Call("DELETE", target, read_count("cancelled"))


def cancel_all() -> Call[int]:
    """Call off every message there is; gives how many they were."""
    return cancel_many(EVERYTHING)


def cancel_labelled(label: str) -> Call[int]:
    """Call off all messages with a label; gives how many they were (contract 2.4)."""
    if not label:
        raise InvalidValue("an empty label would call off every message there is")
    return Call("DELETE", f"/v2/messages{query(label=label)}", read_count("cancelled"))


def _items(messages: Sequence[Outgoing]) -> bytes:
    return orjson.dumps([batch_member(each) for each in messages])


def _answers(found: object) -> list[Enqueued]:
    """Read the answer for one message: a list where it went to a URL group."""
    answers = found if isinstance(found, list) else [found]
    return [Enqueued.from_json(check_object(each)) for each in answers]
