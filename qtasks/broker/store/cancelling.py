"""Calling messages off (contract 1.9): at once where they wait, at the end of the attempt where not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from qtasks.broker.store import queues
from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.filters import MessageFilter
from qtasks.broker.store.messages import pack_headers
from qtasks.broker.store.records import LogKind, Reply, Stage
from qtasks.broker.store.results import CANCELLED, EXPIRED, error_document
from qtasks.broker.store.views import message_view


@dataclass(frozen=True, slots=True)
class CalledOff:
    """What cancelling came to: how many messages, and which tasks have ended by it.

    `in_flight` are the sequence numbers of tasks that are being executed. QStash lets what is in flight go
    on (contract 1.9), and so do we, except with tasks: an app learns from a request that is dropped.
    """

    count: int
    task_ids: tuple[str, ...]
    in_flight: tuple[int, ...] = ()


def cancel(session: Session, message_ids: Iterable[str], now: int) -> CalledOff:
    """Call messages off. Unknown, finished and already called off ones do not count."""
    count = 0
    freed: set[int] = set()
    ended: list[str] = []
    in_flight: list[int] = []
    for message_id in dict.fromkeys(message_ids):
        row = session.one("pending_of_message", {"id": message_id})
        if row is None or row[5] is not None:
            continue
        count += 1
        if row[2] == Stage.ACTIVE:
            session.run("pending_request_cancel", {"seq": row[0], "now": now})
            in_flight += row[:1] if row[6] else ()
        else:
            _drop(session, row, now)
            if row[10]:  # what its callbacks report on has ended in the queue (contract 1.5)
                session.run("pending_keep_slot", {"source": row[0], "queue": row[1]})
            freed.update(each for each in (row[1], row[9]) if each is not None)
            if row[6]:
                ended.append(row[6])
    queues.freed(session, freed)
    if freed:
        session.announce()
    return CalledOff(count, tuple(ended), tuple(in_flight))


def expire(session: Session, message_ids: Iterable[str], now: int) -> tuple[str, ...]:
    """End messages that it is too late to start (contract 1.9 with an error); give their tasks."""
    rows = [session.one("pending_of_message", {"id": each}) for each in message_ids]
    found = [row for row in rows if row is not None]
    for row in found:
        _drop(session, row, now, LogKind.EXPIRED)
    session.announce()
    return tuple(row[6] for row in found if row[6])


def _drop(session: Session, row: Row, now: int, kind: LogKind = LogKind.CANCELLED) -> None:
    is_late = kind is LogKind.EXPIRED
    seq, _, _, attempt, epoch, _, task_id, result_ttl_ms, created_at, *_ = row
    at = max(now, created_at)
    session.run("pending_delete", {"seq": seq})
    end = {"message": seq, "epoch": epoch + 1, "kind": kind.value, "started_at": at}
    error = EXPIRED if is_late else None
    nothing = {"next_at": None, "status": None, "error": error, "headers": pack_headers(()), "body": b""}
    session.insert_many(
        "log_insert", [{**end, **nothing, "ended_at": at, "cancel_at": None if is_late else at}]
    )
    if task_id and result_ttl_ms:
        result = {
            "task_id": task_id,
            "state": "EXPIRED" if is_late else "CANCELLED",
            "value": None,
            "error": error_document(Reply(0, error=EXPIRED if is_late else CANCELLED)),
            "attempts": attempt,
            "created_at": created_at,
            "finished_at": at,
            "expires_at": at + result_ttl_ms,
        }
        session.insert_many("result_insert", [result])


def called_off(session: Session, node: str) -> frozenset[int]:
    """Give what a node has in flight and should break off: for stores that nodes share."""
    return frozenset(row[0] for row in session.all("pending_called_off", {"owner": node}))


def delete_queue(session: Session, name: str, now: int) -> CalledOff:
    """Drop a queue, if there is one, with what waits in it (contract 1.5).

    What is in flight goes on to its end outside the queue, and is not tried again.
    """
    row = session.one("queue_find", {"name": name})
    if row is None:
        return CalledOff(0, ())
    id_ = row[0]
    called_off = cancel(session, [each[0] for each in session.all("queue_waiting", {"id": id_})], now)
    active = [each[0] for each in session.all("queue_active", {"id": id_})]
    cancel(session, active, now)
    if active:
        shelter = queues.find_or_create(session, queues.NOWHERE, now)
        session.run("queue_move_active", {"id": id_, "to": shelter.id})
    session.run("pending_forget_slots", {"queue": id_})
    session.run("queue_delete", {"id": id_})
    return called_off


def find_pending(
    session: Session, wanted: MessageFilter, *, after: int, count: int
) -> tuple[list[str], int | None]:
    """Give ids of messages that match among the next `count` pending ones, and where to go on from."""
    rows = session.all("pending_page", {"after": after, "nothing": b"", "count": count})
    views = [message_view(row[1:]) for row in rows]
    found = [
        each.message_id
        for row, each in zip(rows, views, strict=True)
        if wanted.matches(each, each.created_at)
        and (wanted.tasks is None or _task_of(session, row[0]) in wanted.tasks)
    ]
    return found, rows[-1][0] if len(rows) == count else None


def _task_of(session: Session, seq: int) -> str | None:
    """Give the task that a message calls: the member `task` of its body, which is JSON."""
    row = session.one("message_call", {"seq": seq})
    try:
        members = None if row is None else orjson.loads(row[0])
    except orjson.JSONDecodeError:
        return None
    name = members.get("task") if isinstance(members, dict) else None
    return name if isinstance(name, str) else None
