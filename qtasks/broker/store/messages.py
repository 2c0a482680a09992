"""The life of a message in the store: enqueue, promote, claim, settle, recover, prune.

Each verb serves many messages in one call. Nothing here costs more when the backlog, the history or
the number of queues grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from qtasks.broker.store import flow, queues
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.extras import pack_extras, unpack_extras
from qtasks.broker.store.records import SUSPECT_AFTER, Claim, Claimed, Headers, NewMessage, Stage
from qtasks.errors import BadRequest
from qtasks.protocol.shapes import Enqueued

# A queue may turn out to have nothing left; as many others are then looked at in the same claim.
CLAIM_ROUNDS = 8
QUEUES_PER_ROUND = 64
STORED_AT_ONCE = 256  # rows made of a large batch before they are stored
LARGE_BYTES = 65_536  # a body above it is read apart; `claim_ready` knows the number too
EXPLICIT_KEY = "id:"  # before a deduplication id that the sender chose


@dataclass(frozen=True, slots=True)
class Enqueueing:
    """Stores the messages of one call. Calls that share a commit are stored as one: a `Mergeable`."""

    messages: Sequence[NewMessage]
    now: int

    def __call__(self, session: Session) -> list[Enqueued]:
        """Store them; raises what `enqueue` raises."""
        return enqueue(session, self.messages, self.now)

    def together(self, session: Session, others: Sequence[Enqueueing]) -> list[list[Enqueued]]:
        """Store those of all calls; give the answers call by call."""
        calls = (self, *others)
        answers = iter(enqueue(session, [each for call in calls for each in call.messages], self.now))
        return [list(islice(answers, len(call.messages))) for call in calls]


def enqueue(session: Session, messages: Sequence[NewMessage], now: int) -> list[Enqueued]:
    """Store messages, or find that they are already stored; answer in their order.

    A repeat of a deduplication id inside its window gives the first message's id (promise P12).
    Raises `BadRequest` for a delayed message on an ordered queue; then nothing is stored.
    """
    answers: list[Enqueued] = []
    fresh: list[tuple[NewMessage, queues.QueueRow]] = []
    taken = _taken_keys(session, messages, now)
    known_queues: dict[str, queues.QueueRow] = {}
    for message in messages:
        key = message.dedup_key
        if key is not None and taken.setdefault(key, message.id) != message.id:
            answers.append(Enqueued(taken[key], deduplicated=True))
            continue
        queue = known_queues.get(message.queue) if message.extras.flow is None else None
        if queue is None:
            queue = known_queues[message.queue] = _queue_of(session, message, now)
        _check_order(message, queue)
        answers.append(Enqueued(message.id))
        fresh.append((message, queue))
    for first in range(0, len(fresh), STORED_AT_ONCE):
        _store(session, fresh[first : first + STORED_AT_ONCE])
    return answers


def _queue_of(session: Session, message: NewMessage, now: int) -> queues.QueueRow:
    """Find where a message waits; the newest message of a flow-control key decides its limits."""
    if message.extras.flow is not None:
        return flow.configure(session, message.extras.flow, now)
    return queues.find_or_create(session, message, now)


def _taken_keys(session: Session, messages: Sequence[NewMessage], now: int) -> dict[str, str]:
    """Give the deduplication keys among these that stored messages have, each with its message."""
    keys = [each.dedup_key for each in messages if each.dedup_key is not None]
    if not keys:
        return {}
    taken: dict[str, str] = dict(session.all("dedup_find", {"keys": _json(keys), "now": now}))
    since = {
        each.dedup_key.removeprefix(EXPLICIT_KEY): now - (each.dedup_until - each.created_at)
        for each in messages
        if each.dedup_key is not None and each.dedup_key.startswith(EXPLICIT_KEY)
    }
    if since:
        rows = session.all("dedup_find_tasks", {"task_ids": _json([*since])})
        for _, task_id, message_id, created_at in sorted(rows):  # by sequence number: the first one counts
            if created_at > since[task_id]:
                taken.setdefault(EXPLICIT_KEY + task_id, message_id)
    return taken


def _json(texts: Sequence[str]) -> str:
    return orjson.dumps(texts).decode()


def _check_order(message: NewMessage, queue: queues.QueueRow) -> None:
    if queue.ordered and message.start_at is not None:
        raise BadRequest(
            f"queue {queue.name} is ordered, and a delayed message would hold up all that follow; "
            "drop the delay, or use an unordered queue"
        )


def _store(session: Session, fresh: Sequence[tuple[NewMessage, queues.QueueRow]]) -> None:
    last_seq, last_created_at = newest(session)
    contents: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    dedup: list[dict[str, Any]] = []
    for seq, (message, queue) in enumerate(fresh, last_seq + 1):
        # The wall clock may have been set back; in one store, time does not run backwards.
        created_at = max(message.created_at, last_created_at)
        contents.append(_content(seq, message, created_at))
        pending.append(_pending(seq, message, queue, created_at))
        if message.dedup_key not in (None, f"{EXPLICIT_KEY}{message.task_id}"):
            dedup.append(
                {"key": message.dedup_key, "message_id": message.id, "expires_at": message.dedup_until}
            )
    session.insert_many("message_insert", contents)
    session.insert_many("pending_insert", pending)
    session.insert_many("dedup_insert", dedup)
    out_of_line = {queue.id for _, queue in fresh if not queue.is_in_line}
    queues.join_line(
        session, out_of_line & {each["queue"] for each in pending if each["state"] == Stage.READY}
    )
    if any(each["state"] == Stage.WAITING for each in pending):
        session.announce()  # the dispatcher must learn until when it may sleep


def newest(session: Session, until: int = (1 << 63) - 1) -> tuple[int, int]:
    """Give sequence number and creation of the newest message numbered up to `until`; (0, 0) if none."""
    row = session.one("message_newest", {"seq": until})
    return (0, 0) if row is None else (row[0], row[1])


def _content(seq: int, message: NewMessage, created_at: int) -> dict[str, Any]:
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
    }


def _pending(seq: int, message: NewMessage, queue: queues.QueueRow, created_at: int) -> dict[str, Any]:
    """A message without a delay is ready whatever the clock says later (promise P16).

    Its `due_at` only sorts it among others, and not even that in an ordered queue, where the
    sequence alone decides.
    """
    waits = message.start_at is not None and message.start_at > message.created_at
    due_at = message.start_at if waits else created_at
    return {
        "seq": seq,
        "queue": queue.id,
        "app": message.app,
        "state": Stage.WAITING.value if waits else Stage.READY.value,
        "due_at": 0 if queue.ordered else due_at,
        "source": message.source,
    }


def claim(
    session: Session,
    *,
    node: str,
    app: str | None,
    slots: int,
    alone_is_free: bool,
    lease_margin_ms: int,
    now: int,
    large_bytes: int = 1 << 62,
) -> Claimed:
    """Lease up to `slots` messages to `node`, counting the attempt before it is made (promise P13).

    Takes what pause, parallelism, rate and order allow, for HTTP or for `app`. Of the messages under
    suspicion at most one is claimed at a time, and only if `alone_is_free`. Large bodies are taken
    until `large_bytes` are spent, and wait in their queues after that (promise P20).
    """
    if slots <= 0:
        return Claimed((), None)
    promote(session, now)
    claims: list[Claim] = []
    for queue in _queues_to_visit(session):
        room = slots - len(claims)
        if not room:
            break
        budget = _Budget(room, alone_is_free, large_bytes)
        picked = _pick(session, queue, app, budget, now)
        taken = [_claim(session, row, queue, now, lease_margin_ms) for row in picked.rows]
        alone_is_free, large_bytes = budget.alone_is_free, budget.large_bytes
        session.update_many("pending_lease", [_lease(each, node) for each in taken])
        if queue.rate is not None and taken:
            flow.spend(session, queue, len(taken), now)
        queues.rejoin(
            session, queue, has_more=picked.has_more, is_full=picked.is_full, wake_at=picked.wake_at
        )
        claims.extend(taken)
    upcoming = (session.one(query, {}) for query in ("pending_next_due", "queue_next_wake"))
    return Claimed(claims, min((row[0] for row in upcoming if row), default=None))


def shift_retries(session: Session, by_ms: int) -> None:
    """Move the instants of waiting retries after the wall clock was set: backoff is a span (promise P16).

    Windows of rates are looked at anew.
    """
    session.run("pending_shift_retries", {"by_ms": by_ms})
    session.run("queue_wake_all", {})


def promote(session: Session, now: int, count: int = 1000) -> None:
    """Make ready what has waited until its instant."""
    due = session.all("pending_due", {"now": now, "count": count})
    if due:
        session.update_many("pending_promote", [{"seq": row[0], "ordered": row[2]} for row in due])
        queues.freed(session, {row[1] for row in due})
    session.run("queue_wake", {"now": now})


def _queues_to_visit(session: Session) -> Iterator[queues.QueueRow]:
    """Give queues in line, each once. Some turn out to have nothing left, so more than slots are given."""
    visited: set[int] = set()
    for _ in range(CLAIM_ROUNDS):
        fresh = [each for each in queues.in_line(session, QUEUES_PER_ROUND) if each.id not in visited]
        if not fresh:
            return
        visited.update(each.id for each in fresh)
        yield from fresh


@dataclass(slots=True)
class _Budget:
    """What may still be taken in this claim: messages, suspects, bytes of large bodies."""

    room: int
    alone_is_free: bool
    large_bytes: int


@dataclass(frozen=True, slots=True)
class _Picked:
    """Rows of one queue to be claimed, and how the queue stands after that."""

    rows: Sequence[Row]
    has_more: bool
    is_full: bool
    wake_at: int | None = None
    """When its next window begins, if a rate holds it back."""


def _pick(session: Session, queue: queues.QueueRow, app: str | None, budget: _Budget, now: int) -> _Picked:
    """Pick what the limits of a queue allow to start."""
    left = flow.left_in_window(queue, now)
    free = min(queues.free_slots(session, queue), left)
    wake_at = flow.window_of(queue, now).ends_at if left <= free else None
    count = min(budget.room, free)
    if count <= 0:
        return _Picked((), has_more=True, is_full=True, wake_at=wake_at)
    query = "claim_ready" if budget.alone_is_free or queue.ordered else "claim_ready_skipping_suspects"
    rows = session.all(query, {"queue": queue.id, "app": app, "count": count})
    picked = list(_affordable(rows, queue, budget))
    is_full = len(picked) == free
    has_more = len(rows) == count or query == "claim_ready_skipping_suspects" or len(picked) < len(rows)
    return _Picked(picked, has_more, is_full, wake_at if is_full else None)


def _affordable(rows: Sequence[Row], queue: queues.QueueRow, budget: _Budget) -> Iterator[Row]:
    for row in rows:
        interrupted, large = row[INTERRUPTED], row[LARGE]
        if interrupted >= SUSPECT_AFTER:
            if not budget.alone_is_free:
                if queue.ordered:
                    return  # nothing may overtake it
                continue
            budget.alone_is_free = False
        if large:
            if budget.large_bytes <= 0:
                return  # it waits, and those behind it, until others have ended
            budget.large_bytes -= large
        yield row


INTERRUPTED, LARGE = 3, 22  # columns of `claim_ready`


def _claim(session: Session, row: Row, queue: queues.QueueRow, now: int, lease_margin_ms: int) -> Claim:
    (seq, attempt, epoch, interrupted, guard_until, app, id_, task_id, queue_name, url, method, headers, body,
     created_at, max_retries, retry_delay, timeout_ms, caller_ip, result_ttl_ms, not_before, extras, source,
     large) = row  # fmt: skip
    if large:
        found = session.one("message_body", {"seq": seq})
        assert found is not None
        body = found[0]
    return Claim(
        seq=seq,
        id=id_,
        queue=queue_name,
        app=app,
        url=url,
        method=method,
        headers=unpack_headers(headers),
        body=body,
        created_at=created_at,
        attempt=attempt + 1,
        lease_epoch=epoch + 1,
        lease_until=now + timeout_ms + lease_margin_ms,
        started_at=max(now, created_at),
        max_retries=max_retries,
        timeout_ms=timeout_ms,
        retry_delay=retry_delay,
        task_id=task_id,
        result_ttl_ms=result_ttl_ms,
        caller_ip=caller_ip,
        queue_id=queue.id,
        ordered=queue.ordered,
        interrupted=interrupted,
        guard_until=guard_until,
        not_before=not_before,
        extras=unpack_extras(extras),
        source=source,
    )


def orphaned(session: Session, node: str, lease_margin_ms: int) -> list[Claim]:
    """Give the leases that are not `node`'s: on SQLite, those of earlier lives of the broker."""
    claims = []
    for queue_id, ordered, started_at, *row in session.all("pending_orphans", {"owner": node}):
        queue = queues.QueueRow(queue_id, "", 0, bool(ordered))
        claims.append(_claim(session, tuple(row), queue, started_at, lease_margin_ms))
    return claims


def _lease(claim: Claim, node: str) -> dict[str, Any]:
    return {
        "seq": claim.seq,
        "attempt": claim.attempt,
        "epoch": claim.lease_epoch,
        "owner": node,
        "until": claim.lease_until,
        "now": claim.started_at,
    }


def prune(session: Session, *, after: int, before: int, count: int) -> int | None:
    """Drop the content and log of finished messages that ended until `before`; looks at `count`.

    Goes on behind the sequence number `after`; gives the number to go on from, or None at the end.
    """
    rows = session.all("message_prune_candidates", {"after": after, "count": count})
    old = [{"seq": seq} for seq, ended_at, is_kept in rows if ended_at <= before and not is_kept]
    session.delete_many("message_delete", old)
    session.delete_many("log_delete", old)
    return rows[-1][0] if len(rows) == count else None


def prune_dedup(session: Session, *, after: str, now: int, count: int) -> str | None:
    """Forget deduplication ids whose window has passed; looks at `count`, goes on as `prune` does."""
    rows = session.all("dedup_walk", {"after": after, "count": count})
    session.delete_many("dedup_delete", [{"key": key} for key, expires_at in rows if expires_at <= now])
    return rows[-1][0] if len(rows) == count else None


def pack_headers(headers: Headers) -> bytes:
    """Write headers as they are stored: a JSON list of pairs."""
    return orjson.dumps(headers)


def unpack_headers(packed: bytes) -> Headers:
    """The inverse of `pack_headers`."""
    return tuple((name, value) for name, value in orjson.loads(packed))
