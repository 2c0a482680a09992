"""The loop that forgets: expired results and deduplication ids, old progress, history and dead letters.

It works in small steps, so that no transaction of it keeps others waiting.
"""

from __future__ import annotations

import asyncio
import logging

from qtasks.broker.config import BrokerConfig
from qtasks.broker.store import flow, messages, results
from qtasks.broker.store.database import Database, Session
from qtasks.clock import Clock
from qtasks.errors import BrokerError

log = logging.getLogger("qtasks.janitor")

STEP_ROWS = 500
PAUSE_MS = 60_000
PAUSE_BETWEEN_STEPS_MS = 20


class Janitor:
    """Prunes what is no longer promised to be kept."""

    def __init__(self, database: Database, config: BrokerConfig, clock: Clock) -> None:
        self._database = database
        self._config = config
        self._clock = clock
        # How far history, deduplication ids, flow-control keys and progress have been walked through; None
        # at the end.
        self._behind: int | None = None
        self._behind_key: str | None = None
        self._behind_flow: int | None = None
        self._behind_report: int | None = None

    async def step(self) -> bool:
        """Prune a little; say whether there may be more."""
        now = self._clock.now()
        return await self._database.write(lambda session: self._prune(session, now))

    def _prune(self, session: Session, now: int) -> bool:
        config = self._config
        expired = results.prune_results(session, now, STEP_ROWS)
        dead = session.run(
            "dead_letter_prune", {"before": now - config.dead_letter_retention_ms, "count": STEP_ROWS}
        )
        self._behind_key = messages.prune_dedup(
            session, after=self._behind_key or "", now=now, count=STEP_ROWS
        )
        self._behind = messages.prune(
            session, after=self._behind or 0, before=now - config.retention_ms, count=STEP_ROWS
        )
        self._behind_flow = flow.prune(
            session, after=self._behind_flow or 0, before=now - config.retention_ms, count=STEP_ROWS
        )
        self._behind_report = results.prune_progress(session, after=self._behind_report or 0, count=STEP_ROWS)
        behind = (self._behind, self._behind_key, self._behind_flow, self._behind_report)
        return any(each is not None for each in behind) or STEP_ROWS in (expired, dead)

    async def run(self) -> None:
        """Prune from time to time, until cancelled."""
        while True:
            await self._clock.sleep(PAUSE_MS)
            try:
                while await self.step():
                    await self._clock.sleep(PAUSE_BETWEEN_STEPS_MS)
            except BrokerError as error:
                log.warning("cannot prune now", extra={"reason": str(error)})
            except asyncio.CancelledError:
                raise
