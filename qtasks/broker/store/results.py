"""What is known of a task id: its stored result, or where its message is."""

from __future__ import annotations

import orjson

from qtasks.broker.store.database import Session
from qtasks.broker.store.records import LogKind, Reply, Stage
from qtasks.protocol.results import ResultView

STAGES = {
    Stage.ACTIVE: "RUNNING",
    Stage.WAITING: "SCHEDULED",
    Stage.HELD: "SCHEDULED",
    Stage.READY: "QUEUED",
}
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
    created_at, stage, attempt, last_kind = row
    if stage is None:  # finished, and its result was not kept or has expired
        return ResultView(task_id=task_id, state=ENDS.get(last_kind, "UNKNOWN"), created_at=created_at)
    state = STAGES[Stage(stage)]
    if attempt and stage != Stage.ACTIVE:
        state = "RETRYING"
    return ResultView(task_id=task_id, state=state, attempts=attempt, created_at=created_at)


def prune_results(session: Session, now: int, count: int) -> int:
    """Drop up to `count` expired results; say how many there were."""
    return session.run("result_prune", {"now": now, "count": count})


def error_document(reply: Reply) -> bytes:
    """Give the app's own error document, or make one for a delivery that brought none."""
    try:
        members = orjson.loads(reply.body)
        if isinstance(members, dict) and isinstance(members.get("error"), dict):
            return reply.body
    except orjson.JSONDecodeError:
        pass
    message = reply.error or f"the destination answered {reply.status}"
    return orjson.dumps({"error": {"type": "DeliveryFailed", "message": message, "traceback": None}})
