"""Operations on schedules (contract 2.7)."""

from __future__ import annotations

from qtasks.client.call import Call, read_list, read_member, read_nothing, read_one, segment
from qtasks.protocol.headers import render_options
from qtasks.protocol.resources import ScheduleView
from qtasks.protocol.shapes import Outgoing


def schedules() -> Call[list[ScheduleView]]:
    """List the schedules."""
    return Call("GET", "/v2/schedules", read_list(ScheduleView.from_json))


def schedule(schedule_id: str) -> Call[ScheduleView]:
    """Ask for a schedule."""
    return Call("GET", f"/v2/schedules/{segment(schedule_id)}", read_one(ScheduleView.from_json))


def create_schedule(message: Outgoing) -> Call[str]:
    """Make a schedule of a message whose options say when, or replace the one of its id; gives the id."""
    return Call(
        "POST",
        f"/v2/schedules/{message.destination}",
        read_member("scheduleId", str),
        render_options(message.options),
        message.body,
    )


def delete_schedule(schedule_id: str) -> Call[None]:
    """Delete a schedule; there being none is no error."""
    return Call("DELETE", f"/v2/schedules/{segment(schedule_id)}", read_nothing)


def pause_schedule(schedule_id: str) -> Call[None]:
    """Let a schedule fire no more."""
    return Call("POST", f"/v2/schedules/{segment(schedule_id)}/pause", read_nothing)


def resume_schedule(schedule_id: str) -> Call[None]:
    """Let a paused schedule go on."""
    return Call("POST", f"/v2/schedules/{segment(schedule_id)}/resume", read_nothing)
