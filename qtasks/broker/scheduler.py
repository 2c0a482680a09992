"""The loop that fires schedules when they are due. What a fire makes is said in `schedules.py`."""

from __future__ import annotations

import logging

from qtasks.broker.room import Room
from qtasks.broker.schedules import Schedules
from qtasks.broker.store import schedules
from qtasks.broker.store.database import Database
from qtasks.broker.store.schedules import StoredSchedule
from qtasks.clock import Clock
from qtasks.errors import BrokerError

log = logging.getLogger("qtasks.scheduler")

# Then look again: a schedule may have been made meanwhile, or the wall clock set.
LONGEST_WAIT_MS = 1000
AT_ONCE = 100


class Scheduler:
    """Fires what is due. Any number of nodes may run one: each fire is made by one of them."""

    def __init__(self, database: Database, wanted: Schedules, clock: Clock, room: Room | None = None) -> None:
        self._database = database
        self._schedules = wanted
        self._clock = clock
        self._room = room

    async def step(self) -> int:
        """Fire what is due now; say how many messages that made."""
        now = self._clock.now()
        due = await self._database.read(lambda session: schedules.find_due(session, now, AT_ONCE))
        if not due:
            return 0
        try:
            return await self._database.write(lambda session: self._schedules.fire(session, due, now))
        except BrokerError:
            raise
        except Exception:  # a wall: one schedule's surprise must not stop the others
            return sum([await self._fire_alone(each, now) for each in due])

    async def _fire_alone(self, schedule: StoredSchedule, now: int) -> int:
        try:
            return await self._database.write(lambda session: self._schedules.fire(session, [schedule], now))
        except BrokerError:
            raise
        except Exception:
            log.exception("cannot fire a schedule", extra={"schedule_id": schedule.id})
            await self._database.write(lambda session: schedules.give_up(session, schedule, now))
            return 0

    @property
    def _is_held(self) -> bool:
        """Whether the disk is full; what falls due meanwhile is caught up with."""
        return self._room is not None and self._room.is_spent

    async def run(self) -> None:
        """Fire until cancelled."""
        while True:
            wait_ms = LONGEST_WAIT_MS
            try:
                next_at = None
                if not self._is_held:
                    await self.step()
                    next_at = await self._database.read(schedules.next_due_at)
                if next_at is not None:
                    wait_ms = max(0, min(wait_ms, next_at - self._clock.now()))
            except BrokerError as error:
                log.error("cannot fire schedules", extra={"reason": str(error)})
            await self._clock.sleep(wait_ms)
