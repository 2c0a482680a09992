"""The loop that takes in what callers have left in the store's outbox, once they have committed.

What was left had been checked before (`Broker.leaving`), as its caller cannot be told any more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from qtasks.broker.intake import Intake
from qtasks.broker.store import messages, outbox
from qtasks.broker.store.database import Database, Session
from qtasks.broker.store.outbox import Left, Outbox
from qtasks.broker.store.records import NewMessage
from qtasks.clock import Clock
from qtasks.errors import BrokerError, DecodeError, RequestError
from qtasks.protocol.left import read_left

log = logging.getLogger("qtasks.relay")

AT_ONCE = 500
LONGEST_WAIT_MS = 1000
"""Then look again: news can be missed, and a row may have been given back by hand."""


class Relay:
    """Takes in what was left. Any number of nodes may run one: each message is taken by one of them."""

    def __init__(self, database: Database, box: Outbox, intake: Intake, clock: Clock) -> None:
        self._database = database
        self._outbox = box
        self._intake = intake
        self._clock = clock

    async def step(self) -> int:
        """Take in what is there, up to 500 messages; say how many rows were looked at."""
        if not await self._database.read(outbox.has_rows):
            return 0  # without the lock of writers
        return await self._database.write(self._take)

    async def run(self) -> None:
        """Take in until cancelled."""
        while True:
            try:
                while await self.step():
                    pass
            except BrokerError as error:
                log.error("cannot take in what was left in the outbox", extra={"reason": str(error)})
                await self._clock.sleep(LONGEST_WAIT_MS)
            except Exception:  # a wall: the next round may do better
                log.exception("taking in what was left in the outbox broke")
                await self._clock.sleep(LONGEST_WAIT_MS)
            await self._outbox.changed(LONGEST_WAIT_MS)

    def _take(self, session: Session) -> int:
        """Move rows into their queues, all in one transaction, so that each is in one place."""
        now = self._clock.now()
        rows = outbox.take(session, AT_ONCE)
        read: list[tuple[Left, NewMessage]] = []
        for row in rows:
            try:
                read.append((row, replace(self._intake.make(read_left(row.message), now), app=row.app)))
            except (DecodeError, RequestError) as error:
                _set_aside(session, row, error)
        self._store(session, read, now)
        return len(rows)

    def _store(self, session: Session, read: Sequence[tuple[Left, NewMessage]], now: int) -> None:
        try:
            messages.enqueue(session, [message for _, message in read], now)
        except RequestError:  # one of them has become impossible, and nothing is stored: find out which
            for row, message in read:
                try:
                    messages.enqueue(session, [message], now)
                except RequestError as error:
                    _set_aside(session, row, error)


def _set_aside(session: Session, row: Left, error: Exception) -> None:
    outbox.set_aside(session, row, str(error))
    log.error("a message in the outbox was refused", extra={"outbox_id": row.id, "reason": str(error)})
