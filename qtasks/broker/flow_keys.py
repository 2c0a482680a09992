"""The use cases of flow-control keys: look, pause, pin, begin a new window (contract 2.10)."""

from __future__ import annotations

from qtasks.broker.store import flow
from qtasks.broker.store.database import Database
from qtasks.broker.store.flow import Pins
from qtasks.clock import Clock
from qtasks.errors import NotFound
from qtasks.protocol.flow import check_flow_key
from qtasks.protocol.resources import FlowControlView


class FlowKeys:
    """Shows and steers flow-control keys. Safe to call from any thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def all(self, search: str = "") -> list[FlowControlView]:
        """List the keys that contain `search`, by name."""
        now = self._clock.now()
        return self._database.look(lambda session: flow.views(session, now, search=search))

    def one(self, key: str) -> FlowControlView:
        """Give one key; raises `NotFound` for one that was never used."""
        now = self._clock.now()
        found = self._database.look(lambda session: flow.views(session, now, key=key))
        if not found:
            raise _unknown(key)
        return found[0]

    def set_paused(self, key: str, paused: bool) -> None:
        """Start nothing more of a key, or go on; one that was never used is made."""
        check_flow_key(key)
        now = self._clock.now()
        self._database.run(lambda session: flow.set_paused(session, key, paused, now))

    def pin(self, key: str, *, parallelism: int | None, rate: int | None, period_ms: int) -> None:
        """Fix the limits that are given, whatever later messages say."""
        check_flow_key(key)
        now = self._clock.now()
        self._database.run(lambda session: flow.pin(session, key, parallelism, rate, period_ms, now))

    def unpin(self, key: str, *, parallelism: bool, rate: bool) -> None:
        """Let the next message decide these limits; raises `NotFound`."""
        released = (Pins.PARALLELISM if parallelism else Pins.NONE) | (Pins.RATE if rate else Pins.NONE)
        now = self._clock.now()
        if not self._database.run(lambda session: flow.unpin(session, key, released, now)):
            raise _unknown(key)

    def reset_rate(self, key: str) -> None:
        """Begin a new window now, with nothing spent; raises `NotFound`."""
        now = self._clock.now()
        if not self._database.run(lambda session: flow.reset_rate(session, key, now)):
            raise _unknown(key)


def _unknown(key: str) -> NotFound:
    return NotFound(f"flow control key {key[:64]} not found")
