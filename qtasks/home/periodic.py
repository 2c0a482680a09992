"""Tells brokers which schedules an app's code has: the embedded one directly, one elsewhere over HTTP.

What there is to tell is decided in `tasks/schedules.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from qtasks.broker.schedules import Schedules
from qtasks.client import calls
from qtasks.client.calls import Call
from qtasks.clock import Clock
from qtasks.errors import BrokerError, QTasksError
from qtasks.tasks.schedules import Changes, Timetable

log = logging.getLogger("qtasks.schedules")

FIRST_PAUSE_MS = 1000
LONGEST_PAUSE_MS = 60_000
T = TypeVar("T")


def synchronise(schedules: Schedules, timetable: Timetable) -> None:
    """Make a broker's schedules of this app those of its code; raises `RequestError` for one it refuses."""
    changes = timetable.changes(schedules.all())
    for id_ in changes.gone:
        schedules.delete(id_)
    for message in changes.saved:
        id_ = schedules.create(message)
        if id_ in changes.paused:
            schedules.set_paused(id_, True)
    _tell(changes)


class Ask(Protocol):
    """Carries out one operation of a broker's API; raises `BrokerError` if there is no answer."""

    async def __call__(self, call: Call[T], /) -> T: ...


async def synchronise_over(ask: Ask, timetable: Timetable) -> None:
    """Do what `synchronise` does over the API of a broker elsewhere; raises `BrokerError` too.

    Repeating it is harmless, so several processes of an app may all do so.
    """
    found = await ask(calls.schedules())
    changes = timetable.changes(found)
    for id_ in changes.gone:
        await ask(calls.delete_schedule(id_))
    for message in changes.saved:
        id_ = await ask(calls.create_schedule(message))
        if id_ in changes.paused:
            await ask(calls.pause_schedule(id_))
    _tell(changes)


def _tell(changes: Changes) -> None:
    for id_ in changes.gone:
        log.info("a schedule was deleted, as the code has it no more", extra={"schedule_id": id_})
    for message in changes.saved:
        log.info("a schedule was made or changed", extra={"schedule_id": message.options.schedule_id})


class Synchroniser:
    """Keeps at it until a broker elsewhere knows the schedules: `start`, then `stop`.

    A broker that does not answer keeps no app from starting.
    """

    def __init__(self, ask: Ask, timetable: Callable[[], Timetable], clock: Clock) -> None:
        self._ask = ask
        self._timetable = timetable
        self._clock = clock
        self._going_on: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tell the broker, now or once it answers; raises what is wrong with the schedules."""
        timetable = self._timetable()
        if not await self._try(timetable):
            self._going_on = asyncio.create_task(self._go_on(timetable), name="qtasks-schedules")

    async def stop(self) -> None:
        """Give up, if the broker has still not answered."""
        if self._going_on is not None:
            self._going_on.cancel()
            await asyncio.gather(self._going_on, return_exceptions=True)
            self._going_on = None

    async def _try(self, timetable: Timetable) -> bool:
        try:
            await synchronise_over(self._ask, timetable)
        except BrokerError as error:
            log.warning("the broker does not know this app's schedules yet", extra={"reason": str(error)})
            return False
        return True

    async def _go_on(self, timetable: Timetable) -> None:
        pause_ms = FIRST_PAUSE_MS
        try:
            await self._clock.sleep(pause_ms)
            while not await self._try(timetable):
                pause_ms = min(2 * pause_ms, LONGEST_PAUSE_MS)
                await self._clock.sleep(pause_ms)
        except QTasksError as error:
            log.error("the broker refuses this app's schedules", extra={"reason": str(error)})
