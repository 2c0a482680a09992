"""Schedules in the store: made, shown, paused, and moved on from one fire to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from qtasks.broker.store.database import Row, Session
from qtasks.broker.store.records import LogKind
from qtasks.protocol.resources import RunState

Pairs = tuple[tuple[str, str], ...]
ENDS = {LogKind.DELIVERED: RunState.SUCCESS}


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule; `options` are the headers that stand for the message of each fire. Instants in ms.

    `cron` is a cron expression, or `@every` and an interval.
    """

    id: str
    cron: str
    destination: str
    options: Pairs
    body: bytes
    caller_ip: str | None
    created_at: int
    is_paused: bool
    next_at: int | None
    last_at: int | None = None
    last_messages: tuple[str, ...] = ()
    error: str | None = None


def save(session: Session, schedule: StoredSchedule) -> None:
    """Make a schedule, or replace the one of its id whole but for its creation (contract 1.7)."""
    session.run(
        "schedule_save",
        {
            "id": schedule.id,
            "cron": schedule.cron,
            "destination": schedule.destination,
            "options": orjson.dumps(schedule.options),
            "body": schedule.body,
            "caller_ip": schedule.caller_ip,
            "now": schedule.created_at,
            "next_at": schedule.next_at,
        },
    )


def find(session: Session, id_: str) -> StoredSchedule | None:
    """Give the schedule of that id."""
    row = session.one("schedule_find", {"id": id_})
    return None if row is None else _schedule(row)


def find_all(session: Session) -> list[StoredSchedule]:
    """List all schedules by id."""
    return [_schedule(row) for row in session.all("schedule_list", {})]


def find_due(session: Session, now: int, count: int) -> list[StoredSchedule]:
    """Give schedules that are to fire, the longest due first."""
    return [_schedule(row) for row in session.all("schedule_due", {"now": now, "count": count})]


def next_due_at(session: Session) -> int | None:
    """Say when the next schedule fires."""
    row = session.one("schedule_next", {})
    return row[0] if row else None


def _schedule(row: Row) -> StoredSchedule:
    (id_, cron, destination, options, body, caller_ip, created_at, paused, next_at, last_at, last_messages,
     error) = row  # fmt: skip
    return StoredSchedule(
        id_,
        cron,
        destination,
        tuple((name, value) for name, value in orjson.loads(options)),
        body,
        caller_ip,
        created_at,
        bool(paused),
        next_at,
        last_at,
        tuple(orjson.loads(last_messages)) if last_messages else (),
        error,
    )


def take_turn(session: Session, schedule: StoredSchedule, next_at: int | None) -> bool:
    """Move a schedule on; False if another node has, or it was paused, changed or deleted meanwhile."""
    moved = {"id": schedule.id, "was": schedule.next_at, "next_at": next_at}
    return session.run("schedule_take_turn", moved) > 0


def give_up(session: Session, schedule: StoredSchedule, now: int) -> None:
    """Let a schedule rest that cannot be fired, and say so."""
    if take_turn(session, schedule, None):
        tell_run(session, schedule.id, now, (), "this schedule cannot be fired; the broker's log says why")


def tell_run(
    session: Session, id_: str, fired_at: int, message_ids: Sequence[str], error: str | None
) -> None:
    """Keep what the last run made, or why it made nothing."""
    row = {"id": id_, "at": fired_at, "messages": orjson.dumps(message_ids), "error": error}
    session.run("schedule_tell_run", row)


def tell_skipped(session: Session, id_: str, reason: str) -> None:
    """Say why a fire has made nothing; what the last run made stays known."""
    session.run("schedule_tell_skipped", {"id": id_, "reason": reason})


def set_paused(session: Session, id_: str, paused: bool, next_at: int | None) -> bool:
    """Pause a schedule or let it go on with its next fire; False if there is none of that id."""
    return session.run("schedule_pause", {"id": id_, "paused": int(paused), "next_at": next_at}) > 0


def delete(session: Session, id_: str) -> None:
    """Delete a schedule, if there is one; its messages go on."""
    session.run("schedule_delete", {"id": id_})


def count(session: Session) -> int:
    """Say how many schedules there are."""
    row = session.one("schedule_count", {})
    return row[0] if row else 0


def run_states(session: Session, message_ids: Sequence[str]) -> dict[str, RunState]:
    """Say what became of the messages of a run, as long as they are known."""
    states: dict[str, RunState] = {}
    for message_id in message_ids:
        row = session.one("schedule_run_state", {"id": message_id})
        if row is not None:
            is_pending, last_kind = row
            states[message_id] = RunState.IN_PROGRESS if is_pending else ENDS.get(last_kind, RunState.FAIL)
    return states
