"""Operations on flow-control keys, and global parallelism (contract 2.10)."""

from __future__ import annotations

from dataclasses import dataclass

from qtasks.client.call import Call, query, read_count, read_list, read_nothing, read_one, segment
from qtasks.protocol.resources import FlowControlView


@dataclass(frozen=True, slots=True)
class GlobalParallelism:
    """How many deliveries may be in flight in all, and how many are."""

    most: int
    active: int

    def to_json(self) -> dict[str, object]:
        """Make the object of the API."""
        return {"parallelismMax": self.most, "parallelismCount": self.active}


def flow_keys(search: str | None = None) -> Call[list[FlowControlView]]:
    """List the flow-control keys, those that contain `search` if it is given."""
    return Call("GET", f"/v2/flowControl{query(search=search)}", read_list(FlowControlView.from_json))


def flow_key(key: str) -> Call[FlowControlView]:
    """Ask for a flow-control key."""
    return Call("GET", f"/v2/flowControl/{segment(key)}", read_one(FlowControlView.from_json))


def pause_flow_key(key: str) -> Call[None]:
    """Start nothing more of a key; a missing one is made."""
    return _steer(key, "pause")


def resume_flow_key(key: str) -> Call[None]:
    """Let a paused key go on."""
    return _steer(key, "resume")


def pin_flow_key(
    key: str, *, parallelism: int | None = None, rate: int | None = None, period_s: int | None = None
) -> Call[None]:
    """Fix limits of a key, whatever later messages say; `period_s` is that of the rate, 1 s by default."""
    return _steer(key, f"pin{query(parallelism=parallelism, rate=rate, period=period_s)}")


def unpin_flow_key(key: str, *, parallelism: bool = False, rate: bool = False) -> Call[None]:
    """Let messages set these limits of a key again."""
    return _steer(key, f"unpin{query(parallelism=str(parallelism).lower(), rate=str(rate).lower())}")


def reset_flow_rate(key: str) -> Call[None]:
    """Begin a new window of a key, with nothing spent."""
    return _steer(key, "resetRate")


def global_parallelism() -> Call[GlobalParallelism]:
    """Ask how many deliveries may be in flight in all, and how many are."""

    def read(body: bytes) -> GlobalParallelism:
        return GlobalParallelism(read_count("parallelismMax")(body), read_count("parallelismCount")(body))

    return Call("GET", "/v2/globalParallelism", read)


def _steer(key: str, verb: str) -> Call[None]:
    return Call("POST", f"/v2/flowControl/{segment(key)}/{verb}", read_nothing)
