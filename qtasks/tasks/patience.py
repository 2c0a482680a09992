"""Asks about calls that were left in a transaction: until they are taken in, nobody knows them.

So a wait for one gives the commit, and whoever takes the call in, a few seconds before it says so.
"""

from __future__ import annotations

import asyncio
import time

from qtasks.clock import Clock
from qtasks.protocol.results import ResultView
from qtasks.tasks.results import ResultSource

GRACE_MS = 5000
PAUSE_MS = 20
UNKNOWN = "UNKNOWN"


class PatientSource:
    """A `ResultSource` whose waits begin with a wait for the call to become known."""

    def __init__(self, source: ResultSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self.settled = source.settled
        self.asettled = source.asettled
        self.cancel = source.cancel
        self.acancel = source.acancel
        self.forget = source.forget
        self.aforget = source.aforget
        self.stall = source.stall

    def result(self, task_id: str, wait_ms: int = 0) -> ResultView:
        ends_at = self._clock.monotonic() + min(wait_ms, GRACE_MS)
        view = self._source.result(task_id, wait_ms)
        while view.state == UNKNOWN and self._clock.monotonic() < ends_at:
            time.sleep(PAUSE_MS / 1000)
            view = self._source.result(task_id, wait_ms)
        return view

    async def aresult(self, task_id: str, wait_ms: int = 0) -> ResultView:
        ends_at = self._clock.monotonic() + min(wait_ms, GRACE_MS)
        view = await self._source.aresult(task_id, wait_ms)
        while view.state == UNKNOWN and self._clock.monotonic() < ends_at:
            await asyncio.sleep(PAUSE_MS / 1000)
            view = await self._source.aresult(task_id, wait_ms)
        return view
