"""Our own operations on tasks, by their ids: results, progress and calling them off."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from qtasks.client.call import JSON, Call, read_member, read_nothing, read_one, segment, wait
from qtasks.protocol.results import ProgressReport, ResultView


def result(task_id: str, wait_ms: int = 0) -> Call[ResultView]:
    """Ask what is known of a task, waiting up to `wait_ms` for its end."""
    path = f"/qtasks/v1/results/{segment(task_id)}"
    return Call("GET", f"{path}{wait(wait_ms)}", read_one(ResultView.from_json))


def settled(task_ids: Sequence[str], wait_ms: int = 0) -> Call[list[str]]:
    """Ask which of some tasks have finished or are unknown, waiting up to `wait_ms` for the first of them."""
    target = f"/qtasks/v1/results/query{wait(wait_ms)}"
    return Call("POST", target, read_member("settled", list), JSON, orjson.dumps({"ids": list(task_ids)}))


def forget_result(task_id: str) -> Call[bool]:
    """Drop what is kept of a task; says whether there was anything."""
    return Call("DELETE", f"/qtasks/v1/results/{segment(task_id)}", read_member("forgotten", bool))


def report_progress(task_id: str, report: ProgressReport) -> Call[None]:
    """Tell how far a task has come that is under way."""
    target = f"/qtasks/v1/results/{segment(task_id)}/progress"
    return Call("POST", target, read_nothing, JSON, orjson.dumps(report.to_json()))


def cancel_task(task_id: str) -> Call[bool]:
    """Call a task off; says whether it was under way and not called off before."""
    return Call("POST", f"/qtasks/v1/tasks/{segment(task_id)}/cancel", read_member("cancelled", bool))
