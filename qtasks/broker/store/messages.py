"""The life of a message in the store: enqueue, find again, prune. Claims are in `claiming.py`.

Each verb serves many messages in one call. Nothing here costs more when the backlog, the history or
the number of queues grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson

from qtasks.broker.store import flow, queues
from qtasks.broker.store.arrivals import Arrival
from qtasks.broker.store.database import FEW, FEW_BYTES, Session
from qtasks.broker.store.extras import pack_extras
from qtasks.broker.store.records import Headers, NewMessage, Stage
from qtasks.broker.store.surroundings import EXPLICIT_KEY, Taken, look_around
from qtasks.errors import BadRequest
from qtasks.protocol.shapes import Enqueued
from qtasks.values import dataclass

STORED_AT_ONCE = 256  # rows made of a large batch before they are stored
LARGE_BYTES = 65_536  # a body above it is read apart; `claim_ready` knows the number too
NO_WINDOW = 1 << 62
ANYWHERE = queues.QueueRow(0, "", 0, False)
"""Stands for a queue that is found when the message is stored."""


@dataclass(frozen=True, slots=True)
class Enqueueing:
    """Stores the messages of one call. Small calls that share a commit are stored as one: a `Mergeable`."""

    messages: Sequence[NewMessage]
    now: int

    @property
    def is_small(self) -> bool:
        return len(self.messages) <= FEW and sum([len(each.body) for each in self.messages]) <= FEW_BYTES

    def __call__(self, session: Session) -> list[Enqueued]:
        """Store them; raises what `enqueue` raises."""
        return enqueue(session, self.messages, self.now, is_lone=len(self.messages) == 1)

    @property
    def answers(self) -> list[Enqueued]:
        """What it gives if none of its messages is there already."""
        return [Enqueued(each.id) for each in self.messages]

    @property
    def appends_to(self) -> set[str] | None:
        """The queues of its messages, if there is nothing to know before but where these are; else None."""
        return {each.queue for each in self.messages} if all(map(_is_plain, self.messages)) else None

    def rows_to_append(self) -> list[dict[str, Any]]:
        """Give what `message_append` stores of each message."""
        return [_row(0, each, ANYWHERE, each.created_at) for each in self.messages]

    def together(self, session: Session, others: Sequence[Enqueueing]) -> list[list[Enqueued]]:
        """Store those of all calls; give the answers call by call."""
        calls = (self, *others)
        answers = iter(enqueue(session, [each for call in calls for each in call.messages], self.now))
        return [list(islice(answers, len(call.messages))) for call in calls]


def enqueue(
    session: Session, messages: Sequence[NewMessage], now: int, *, is_lone: bool = False
) -> list[Enqueued]:
    """Store messages, or find that they are already stored; answer in their order.

    A repeat of a deduplication id inside its window gives the first message's id (promise P12). A lone one
    may be claimed at once by who waits for work. Raises `BadRequest` for a delayed message on an ordered
    queue; then nothing is stored.
    """
    answers: list[Enqueued] = []
    fresh: list[tuple[NewMessage, queues.QueueRow]] = []
    around = look_around(session, messages, now)
    occupied, known_queues = around.occupied, around.queues
    for message in messages:
        key = message.dedup_key
        known = None if key is None else occupied.keys.get(key)
        if known is not None:
            answers.append(known.answer(message))
            continue
        if message.id in occupied.ids:
            message = _renamed(message, around.newest[0] + len(fresh) + 1)
        if key is not None:
            occupied.keys[key] = Taken(message.id, message.task_id)
        queue = known_queues.get(message.queue) if message.extras.flow is None else None
        if queue is None:
            queue = known_queues[message.queue] = _queue_of(session, message, now)
        _check_order(message, queue)
        answers.append(Enqueued(message.id))
        fresh.append((message, queue))
    newest = around.newest
    for first in range(0, len(fresh), STORED_AT_ONCE):
        newest = _store(session, fresh[first : first + STORED_AT_ONCE], newest, is_lone=is_lone)
        if session.recall is not None and session.recall.newest is not None:
            session.recall.newest = newest
    return answers


def _renamed(message: NewMessage, seq: int) -> NewMessage:
    """Give the message with this number an id of its own: an older one of its task has the task's digits."""
    digest = hashlib.blake2b(f"{message.id} {seq}".encode(), digest_size=10).hexdigest()
    return replace(message, id=f"msg_{message.created_at:012x}{digest}")


def _queue_of(session: Session, message: NewMessage, now: int) -> queues.QueueRow:
    """Find where a message waits; the newest message of a flow-control key decides its limits."""
    if message.extras.flow is not None:
        return flow.configure(session, message.extras.flow, now)
    return queues.find_or_create(session, message, now)


def _check_order(message: NewMessage, queue: queues.QueueRow) -> None:
    if queue.ordered and message.start_at is not None:
        raise BadRequest(
            f"queue {queue.name} is ordered, and a delayed message would hold up all that follow; "
            "drop the delay, or use an unordered queue"
        )


def _store(
    session: Session,
    fresh: Sequence[tuple[NewMessage, queues.QueueRow]],
    newest: tuple[int, int],
    *,
    is_lone: bool,
) -> tuple[int, int]:
    """Store messages behind the newest one; give what is the newest then."""
    last_seq, last_created_at = newest
    rows: list[dict[str, Any]] = []
    dedup: list[dict[str, Any]] = []
    for seq, (message, queue) in enumerate(fresh, last_seq + 1):
        # The wall clock may have been set back; in one store, time does not run backwards.
        created_at = max(message.created_at, last_created_at)
        rows.append(_row(seq, message, queue, created_at))
        if message.dedup_key not in (None, f"{EXPLICIT_KEY}{message.task_id}"):
            dedup.append(
                {"key": message.dedup_key, "message_id": message.id, "expires_at": message.dedup_until}
            )
    session.insert_many("message_insert", rows)
    if dedup:
        session.insert_many("dedup_insert", dedup)
    out_of_line = {queue.id for _, queue in fresh if not queue.is_in_line}
    if out_of_line:
        ready = {each["place"] for each in rows if each["state"] == Stage.READY}
        if not (ready and is_lone and session.claim_along(_arrival(*fresh[0], rows[0]))):
            queues.join_line(session, out_of_line & ready)
    if any(each["state"] == Stage.WAITING for each in rows):
        session.announce()  # the dispatcher must learn until when it may sleep
    return rows[-1]["seq"], rows[-1]["created_at"]


def _arrival(message: NewMessage, queue: queues.QueueRow, row: dict[str, Any]) -> Arrival:
    return Arrival(row["seq"], message, queue, row["created_at"], row["not_before"])


def _is_plain(message: NewMessage) -> bool:
    """Whether a message is new, and may be delivered at once from a queue with a name."""
    is_new_now = message.dedup_key is None and message.start_at is None and message.source is None
    return is_new_now and bool(message.queue) and message.extras.flow is None


def _row(seq: int, message: NewMessage, queue: queues.QueueRow, created_at: int) -> dict[str, Any]:
    """Give what is stored of a message, and of its being pending.

    Without a delay it is ready whatever the clock says later (promise P16): its `due_at` only sorts it among
    others then, and not even that in an ordered queue, where the sequence alone decides.
    """
    waits = message.start_at is not None and message.start_at > message.created_at
    due_at = message.start_at if waits else created_at
    return {
        "seq": seq,
        "id": message.id,
        "task_id": message.task_id,
        "queue": (message.queue or None) if message.extras.flow is None else None,
        "url": message.url,
        "method": message.method,
        "headers": pack_headers(message.headers),
        "body": message.body,
        "created_at": created_at,
        "not_before": message.start_at or created_at,
        "max_retries": message.max_retries,
        "retry_delay": message.retry_delay,
        "timeout_ms": message.timeout_ms,
        "labels": orjson.dumps(message.labels).decode() if message.labels else None,
        "caller_ip": message.caller_ip,
        "result_ttl_ms": message.result_ttl_ms,
        "extras": pack_extras(message.extras),
        "place": queue.id,
        "app": message.app,
        "state": Stage.WAITING.value if waits else Stage.READY.value,
        "due_at": 0 if queue.ordered else due_at,
        "source": message.source,
    }


def shift_retries(session: Session, by_ms: int) -> None:
    """Move the instants of waiting retries after the wall clock was set: backoff is a span (promise P16).

    Windows of rates are looked at anew.
    """
    session.run("pending_shift_retries", {"by_ms": by_ms})
    session.run("queue_wake_all", {})


def hasten(session: Session, now: int) -> int:
    """Make all that waits for its instant due now; say how many messages that were."""
    count = session.run("pending_hasten", {"now": now})
    session.announce()
    return count


def prune(session: Session, *, after: int, before: int, count: int) -> int | None:
    """Drop the content and log of finished messages that ended until `before`; looks at `count`.

    Goes on behind the sequence number `after`; gives the number to go on from, or None at the end, which is
    where messages begin that were made later.
    """
    rows = session.all("message_prune_candidates", {"after": after, "before": before, "count": count})
    old = [{"seq": seq} for seq, may_go in rows if may_go]
    session.delete_many("message_delete", old)
    session.delete_many("log_delete", old)
    has_more = len(rows) == count and rows[-1][1] is not None
    return rows[-1][0] if has_more else None


def prune_dedup(session: Session, *, after: str, now: int, count: int) -> str | None:
    """Forget deduplication ids whose window has passed; looks at `count`, goes on as `prune` does."""
    rows = session.all("dedup_walk", {"after": after, "no_window": NO_WINDOW, "count": count})
    over = [
        {"key": key}
        for key, expires_at, is_pending in rows
        if expires_at <= now or (expires_at == NO_WINDOW and not is_pending)
    ]
    session.delete_many("dedup_delete", over)
    return rows[-1][0] if len(rows) == count else None


def pack_headers(headers: Headers) -> bytes:
    """Write headers as they are stored: a JSON list of pairs."""
    return orjson.dumps(headers)


def unpack_headers(packed: bytes) -> Headers:
    """The inverse of `pack_headers`."""
    return tuple(map(tuple, orjson.loads(packed)))
