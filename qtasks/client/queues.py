"""Operations on queues (contract 2.6)."""

from __future__ import annotations

import orjson

from qtasks.client.call import JSON, Call, read_list, read_nothing, read_one, segment
from qtasks.protocol.shapes import QueueView


def queues() -> Call[list[QueueView]]:
    """List the queues."""
    return Call("GET", "/v2/queues", read_list(QueueView.from_json))


def queue(name: str) -> Call[QueueView]:
    """Ask for a queue."""
    return Call("GET", f"/v2/queues/{segment(name)}", read_one(QueueView.from_json))


def set_queue(name: str, *, parallelism: int = 1, paused: bool | None = None) -> Call[None]:
    """Make or change a queue; without `paused` it stays as it is."""
    members: dict[str, object] = {"queueName": name, "parallelism": parallelism}
    if paused is not None:
        members["paused"] = paused
    return Call("POST", "/v2/queues", read_nothing, JSON, orjson.dumps(members))


def delete_queue(name: str) -> Call[None]:
    """Drop a queue with what waits in it."""
    return Call("DELETE", f"/v2/queues/{segment(name)}", read_nothing)


def pause_queue(name: str) -> Call[None]:
    """Start nothing more of a queue."""
    return Call("POST", f"/v2/queues/{segment(name)}/pause", read_nothing)


def resume_queue(name: str) -> Call[None]:
    """Let a paused queue go on."""
    return Call("POST", f"/v2/queues/{segment(name)}/resume", read_nothing)
