"""What is known of a task id: its stored result, or where its message is and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from qtasks.broker.store.database import Session
from qtasks.broker.store.records import LogKind, Reply, Stage
from qtasks.protocol.results import ProgressReport, ResultView

STAGES = {
    Stage.ACTIVE: "RUNNING",
    Stage.WAITING: "SCHEDULED",
    Stage.HELD: "SCHEDULED",
    Stage.READY: "QUEUED",
}
CANCELLED = "cancelled"
EXPIRED = "expired"
TYPES = {CANCELLED: "Cancelled", EXPIRED: "Expired"}
ENDS = {
    LogKind.DELIVERED: "SUCCEEDED",
    LogKind.FAILED: "FAILED",
    LogKind.CANCELLED: "CANCELLED",
    LogKind.ENDED_CANCELLED: "CANCELLED",
    LogKind.EXPIRED: "EXPIRED",
}


def find_result(session: Session, task_id: str, now: int) -> ResultView:
    """Say what is known of a task id; state UNKNOWN if nothing is."""
    row = session.one("result_find", {"task_id": task_id, "now": now})
    if row is not None:
        state, value, error, attempts, created_at, finished_at = row
        return ResultView(
            task_id=task_id,
            state=state,
            value=value,
            error=error,
            attempts=attempts,
            created_at=created_at,
            finished_at=finished_at,
        )
    row = session.one("result_of_message", {"task_id": task_id})
    if row is None:
        return ResultView(task_id=task_id, state="UNKNOWN")
    created_at, stage, attempt, report, reported_at, last_kind, ended_at, made = row
    if stage is None:  # finished, and its result was not kept, has expired or was forgotten
        return ResultView(
            task_id=task_id,
            state=ENDS.get(last_kind, "UNKNOWN"),
            attempts=made,
            created_at=created_at,
            finished_at=ended_at,
        )
    state = STAGES[Stage(stage)]
    if attempt and stage != Stage.ACTIVE:
        state = "RETRYING"
    progress = None if report is None else _progress(report, reported_at)
    return ResultView(
        task_id=task_id, state=state, attempts=attempt, created_at=created_at, progress=progress
    )


def _progress(report: bytes, reported_at: int) -> ProgressReport:
    return ProgressReport.from_json(orjson.loads(report) | {"reportedAt": reported_at})


def find_settled(session: Session, task_ids: Sequence[str], now: int) -> list[str]:
    """Give those tasks that there is nothing to wait for: they have finished, or nobody knows them."""
    wanted = {"task_ids": orjson.dumps(task_ids).decode(), "now": now}
    return [task_id for (task_id,) in session.all("result_settled", wanted)]


def pending_messages(session: Session, task_id: str) -> list[str]:
    """Give the ids of the messages with which a task is under way, newest first; none if it is not."""
    return [row[0] for row in session.all("messages_of_task", {"task_id": task_id})]


def report_progress(session: Session, reports: Mapping[str, ProgressReport], now: int) -> list[str]:
    """Note how far tasks have come; give those that took it, without those that are not under way."""
    found = {task_id: session.one("messages_of_task", {"task_id": task_id}) for task_id in reports}
    under_way = {task_id: row[1] for task_id, row in found.items() if row is not None}
    rows = [
        {"message": seq, "report": orjson.dumps(reports[task_id].to_json()), "now": now}
        for task_id, seq in under_way.items()
    ]
    session.insert_many("progress_set", rows)
    return list(under_way)


def forget_result(session: Session, task_id: str) -> bool:
    """Drop the value or error of a task; say whether one was kept."""
    return session.run("result_forget", {"task_id": task_id}) > 0


def prune_results(session: Session, now: int, count: int) -> int:
    """Drop up to `count` expired results; say how many there were."""
    return session.run("result_prune", {"now": now, "count": count})


def prune_progress(session: Session, *, after: int, count: int) -> int | None:
    """Drop the reports of messages that have finished since; nobody has seen them from then on.

    Looks at `count` of them behind the sequence number `after`; gives the number to go on from, or None
    at the end.
    """
    rows = session.all("progress_walk", {"after": after, "count": count})
    session.delete_many("progress_delete", [{"message": seq} for seq, is_pending in rows if not is_pending])
    return rows[-1][0] if len(rows) == count else None


def error_document(reply: Reply) -> bytes:
    """Give the app's own error document, or make one for a delivery that brought none."""
    try:
        members = orjson.loads(reply.body)
        if isinstance(members, dict) and isinstance(members.get("error"), dict):
            return reply.body
    except orjson.JSONDecodeError:
        pass
    message = reply.error or f"the destination answered {reply.status}"
    type_ = TYPES.get(message, "DeliveryFailed")
    return orjson.dumps({"error": {"type": type_, "message": message, "traceback": None}})
