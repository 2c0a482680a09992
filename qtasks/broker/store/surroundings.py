"""What storing messages must know before: whose their keys are, their queues, the newest message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import field
from operator import attrgetter
from typing import Any

import orjson

from qtasks.broker.store import queues
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.extras import unpack_extras
from qtasks.broker.store.records import NewMessage, Stage
from qtasks.protocol.shapes import Enqueued
from qtasks.values import dataclass

EXPLICIT_KEY = "id:"  # before a deduplication id that the sender chose
UNIQUE_KEYS = {"started": "us:", "finished": "uf:"}  # before one that holds until then, whenever that is
DEDUP_KEY = attrgetter("dedup_key")
UNIQUE_PREFIXES = tuple(UNIQUE_KEYS.values())


@dataclass(frozen=True, slots=True)
class Taken:
    """The message that has a deduplication key."""

    message_id: str
    task_id: str | None

    def answer(self, repeat: NewMessage) -> Enqueued:
        """Answer a repeat; a caller who asked for another task id learns which one it is."""
        task_id = None if self.task_id == repeat.task_id else self.task_id
        return Enqueued(self.message_id, deduplicated=True, task_id=task_id)


class Recall:
    """What whoever writes a store alone has seen there, as long as it has not changed since.

    `queues` are rows by name; `newest` is sequence number and creation of the newest message, None if that
    is not known.
    """

    __slots__ = ("newest", "queues")

    def __init__(self) -> None:
        self.queues: dict[str, queues.QueueRow] = {}
        self.newest: tuple[int, int] | None = None

    def rows_of(self, messages: Iterable[NewMessage]) -> dict[str, queues.QueueRow]:
        """Give the queues of these messages, as far as they are known."""
        return {each.queue: self.queues[each.queue] for each in messages if each.queue in self.queues}

    def forget(self) -> None:
        """Know nothing any more: a queue was changed, a message dropped, or something undone."""
        self.queues.clear()
        self.newest = None


@dataclass(frozen=True, slots=True)
class Occupied:
    """What stored messages have that new ones would have too."""

    keys: dict[str, Taken] = field(default_factory=dict)
    """Deduplication keys that hold."""
    ids: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found, to be completed by whoever makes a queue that is missing."""

    occupied: Occupied
    queues: dict[str, queues.QueueRow]
    newest: tuple[int, int]
    """Sequence number and creation of the newest message; (0, 0) if there is none."""


def look_around(session: Session, messages: Sequence[NewMessage], now: int) -> Surroundings:
    """Find what storing these messages must know: in one statement for one, in a few for many.

    Of what is known from before it asks nothing.
    """
    recall = session.recall
    if recall is not None and recall.newest is not None and _are_known(messages, recall):
        occupied = _holder(session, messages[0], now) if any(map(DEDUP_KEY, messages)) else Occupied()
        return Surroundings(occupied, recall.rows_of(messages), recall.newest)
    found = _ask(session, messages, now)
    if recall is not None:
        recall.queues |= found.queues
        recall.newest = found.newest
    return found


def _are_known(messages: Sequence[NewMessage], recall: Recall) -> bool:
    """Whether there is nothing to ask about but the key of one message."""
    if len(messages) == 1:
        return messages[0].queue in recall.queues
    return not any(map(DEDUP_KEY, messages))


def _holder(session: Session, message: NewMessage, now: int) -> Occupied:
    """Find who has the key of this message, or its id."""
    rows = session.all("look_for_key", _key_of(message) | {"now": now})
    if not rows:
        return Occupied()
    keys = (row[1:] for row in rows if row[0] == 0)
    tasks = ((row[4], row[1], row[2], row[5]) for row in rows if row[0] == 1)
    return _holding([message], keys, tasks, now)


def _key_of(message: NewMessage) -> dict[str, Any]:
    key = message.dedup_key or ""
    return {"key": key, "dedup_id": key.removeprefix(EXPLICIT_KEY) if key.startswith(EXPLICIT_KEY) else ""}


def _ask(session: Session, messages: Sequence[NewMessage], now: int) -> Surroundings:
    if len(messages) != 1:
        return Surroundings(_holders(session, messages, now), {}, newest(session))
    [message] = messages
    found: tuple[list[Row], ...] = ([], [], [], [])
    for kind, *row in session.all(
        "look_around",
        _key_of(message) | {"queue": message.queue, "now": now},
    ):
        found[kind].append(tuple(row))
    keys = ((row[0], row[1], row[2], row[3], row[4], row[8]) for row in found[0])
    tasks = ((row[3], row[0], row[1], row[4]) for row in found[1])
    known = {name: queues.queue_row((id_, name, *rest)) for name, _, _, id_, *rest, _ in found[2]}
    ends = found[3]
    return Surroundings(
        _holding(messages, keys, tasks, now), known, (ends[0][3], ends[0][4]) if ends else (0, 0)
    )


def newest(session: Session, until: int = (1 << 63) - 1) -> tuple[int, int]:
    """Give sequence number and creation of the newest message numbered up to `until`; (0, 0) if none."""
    row = session.one("message_newest", {"seq": until})
    return (0, 0) if row is None else (row[0], row[1])


def _holders(session: Session, messages: Sequence[NewMessage], now: int) -> Occupied:
    keys = [each.dedup_key for each in messages if each.dedup_key is not None]
    if not keys:
        return Occupied()
    explicit = [each.removeprefix(EXPLICIT_KEY) for each in keys if each.startswith(EXPLICIT_KEY)]
    rows = session.all("dedup_find", {"keys": orjson.dumps(keys).decode(), "now": now})
    tasks = session.all("dedup_find_tasks", {"task_ids": orjson.dumps(explicit).decode()}) if explicit else ()
    return _holding(messages, rows, tasks, now)


def _holding(messages: Sequence[NewMessage], keys: Iterable[Row], tasks: Iterable[Row], now: int) -> Occupied:
    """Of rows of keys, and of tasks whose ids are keys, keep those whose window has not passed."""
    taken: dict[str, Taken] = {}
    for key, message_id, task_id, state, attempt, extras in keys:
        if not key.startswith(UNIQUE_PREFIXES) or _holds(key, state, attempt, extras, now):
            taken[key] = Taken(message_id, task_id)
    found = sorted(tasks)  # by sequence number: the first one counts
    if not found:
        return Occupied(taken)
    since = {
        each.dedup_key: now - (each.dedup_until - each.created_at)
        for each in messages
        if each.dedup_key is not None
    }
    for _, task_id, message_id, created_at in found:
        key = f"{EXPLICIT_KEY}{task_id}"
        if key in since and created_at > since[key]:
            taken.setdefault(key, Taken(message_id, task_id))
    return Occupied(taken, {message_id for _, _, message_id, _ in found})


def _holds(key: str, state: int | None, attempt: int, extras: bytes | None, now: int) -> bool:
    """Say whether a key without a window still holds; `state` is None once the message has finished."""
    if state is None:
        return False
    if state == Stage.ACTIVE:
        return key.startswith(UNIQUE_KEYS["finished"])
    expires_at = unpack_extras(extras).expires_at
    has_begun = attempt > 0 and key.startswith(UNIQUE_KEYS["started"])
    return not has_begun and (expires_at is None or expires_at >= now)
