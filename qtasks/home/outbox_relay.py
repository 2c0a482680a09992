"""Takes what waits in an app's outbox to its broker: send, then delete, so that nothing is lost in between.

What is sent again after a death in between is known to the broker by its deduplication id.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import orjson

from qtasks.errors import BrokerError, DecodeError, QTasksError
from qtasks.protocol.left import read_left
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.app_tables import app_statement
from qtasks.tasks.connections import POSTGRES, Connection, find_connection

log = logging.getLogger("qtasks.outbox")

AT_ONCE = 500
POLL_S = 0.1
RETRY_S = 1.0
TURN = 0x7174_6F62
"""The number of the advisory lock of whoever relays."""

Send = Callable[[Sequence[Outgoing]], list[Enqueued]]


class OutboxRelay:
    """Relays on a thread of its own, from `start` to `stop`. Any number of processes may have one."""

    def __init__(self, connect: Callable[[], Any], send: Send) -> None:
        self._connect = connect
        self._send = send
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qtasks-outbox", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after what is being sent."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        is_told = False
        while not self._ending.is_set():
            try:
                opened = self._connect()
                try:
                    self._stay(opened)
                finally:
                    with suppress(Exception):  # it is broken, or its server is gone
                        opened.close()
                is_told = False
            except Exception as error:  # a wall: a new connection may do better
                if not is_told:
                    log.error("cannot relay from the outbox", extra={"reason": str(error)})
                is_told = True
                self._ending.wait(RETRY_S)

    def _stay(self, opened: Any) -> None:
        connection = find_connection(opened)
        listens = connection.dialect == POSTGRES and hasattr(opened, "notifies")
        if listens:
            connection.rows(app_statement(POSTGRES, "outbox_listen"))
            opened.commit()
        while not self._ending.is_set():
            try:
                while self.step(opened) and not self._ending.is_set():
                    pass
            except BrokerError as error:
                opened.rollback()
                log.warning("the broker takes nothing from the outbox", extra={"reason": str(error)})
                self._ending.wait(RETRY_S)
            if listens:
                for _ in opened.notifies(timeout=POLL_S, stop_after=1):
                    pass
            else:
                self._ending.wait(POLL_S)

    def step(self, opened: Any) -> int:
        """Relay up to 500 calls, in the order in which they were written; say how many there were.

        Raises `BrokerError`, and what the connection does.
        """
        connection = find_connection(opened)
        if connection.rows(app_statement(connection.dialect, "outbox_turn", turn=TURN)) == [(False,)]:
            opened.rollback()
            return 0
        rows = connection.rows(app_statement(connection.dialect, "outbox_first", count=AT_ONCE))
        if rows:
            done = self._sent(connection, [(id, text) for id, text in rows])
            ids = orjson.dumps(done).decode()
            connection.rows(app_statement(connection.dialect, "outbox_done", ids=ids))
            opened.commit()
        else:
            opened.rollback()
        return len(rows)

    def _sent(self, connection: Connection, rows: Sequence[tuple[int, str]]) -> list[int]:
        """Send what can be read, all at once if the broker takes it; give the ids of what it has."""
        read: list[tuple[int, Outgoing]] = []
        for id, text in rows:
            try:
                read.append((id, read_left(text)))
            except DecodeError as error:
                _set_aside(connection, id, error)
        try:
            if read:
                self._send([message for _, message in read])
            return [id for id, _ in read]
        except BrokerError:
            raise
        except QTasksError:  # one of them is refused, and perhaps the others with it: find out which
            return [id for id, message in read if self._is_taken(connection, id, message)]

    def _is_taken(self, connection: Connection, id: int, message: Outgoing) -> bool:
        try:
            self._send([message])
        except BrokerError:
            raise
        except QTasksError as error:
            _set_aside(connection, id, error)
            return False
        return True


def _set_aside(connection: Connection, id: int, error: Exception) -> None:
    connection.rows(app_statement(connection.dialect, "outbox_set_aside", id=id, problem=str(error)))
    log.error("a message in the outbox was refused", extra={"outbox_id": id, "reason": str(error)})
