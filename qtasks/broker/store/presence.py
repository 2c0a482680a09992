"""A node's presence on PostgreSQL: it says that it lives, hears the others, and notices who has died.

One thread with a connection of its own, so that neither a busy loop nor a slow write looks like death.
Time is the database's clock alone: no two machines' clocks are compared (promise P16).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtasks.broker.store.postgres_links import NOW, Place, link, meaning_of
from qtasks.clock import Clock, LedClock

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger("qtasks.store")

BEAT_S = 2.0
LIFE_MS = 7000
"""Who has not been heard for so long counts as dead, and its deliveries are taken over."""
LOOK_S = 1.0
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Member:
    """A node that takes part: its name, and whom to tell when others have died."""

    node: str
    others_died: Callable[[], None]


class Presence:
    """Runs from its making until `close`. `tell` is called when another node has committed work.

    `others` are called instead when that is said which is their key. What this node itself has said is heard
    as well, and told apart by the server process that said it, which `is_own` knows. With `by_hand` there is
    no thread: a test that moves time by hand calls `step`.
    """

    def __init__(
        self,
        place: Place,
        tell: Callable[[], None],
        others: Mapping[str, Callable[[], None]] | None = None,
        *,
        is_own: Callable[[int], bool] = lambda process: False,
        by_hand: bool = False,
    ) -> None:
        self._place = place
        self._tell = tell
        self._is_own = is_own
        self._others = others or {}
        self._member: Member | None = None
        self._led: LedClock | None = None
        self._is_by_hand = by_hand
        self._is_ending = False
        self._turn = threading.Event()
        self.is_hearing = False
        """Whether wake-ups of other nodes arrive; if not, the store has to be polled."""
        self._thread: threading.Thread | None = None
        if not by_hand:
            self._thread = threading.Thread(target=self._live, name="qtasks-presence", daemon=True)
            self._thread.start()

    @property
    def node(self) -> str | None:
        """The name of the node that takes part, if one does."""
        member = self._member
        return None if member is None else member.node

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        """Let a node take part; it counts as alive when this returns. Raises `StoreError`."""
        with link(self._place) as connection:
            self._beat(connection, node)
        self._member = Member(node, others_died)

    def lead(self, clock: Clock) -> Clock:
        """Give a clock that shows the database's time from now on. Raises `StoreError`."""
        if self._is_by_hand:
            return clock
        led = LedClock(clock)
        with link(self._place) as connection:
            self._look_at_clock(connection, led)
        self._led = led
        return led

    def leave(self) -> None:
        """Take part no more: others take over what it still holds at their next look. Raises `StoreError`."""
        member, self._member = self._member, None
        if member is not None:
            with link(self._place) as connection:
                # Not removed: whoever strikes it off takes over what is left.
                connection.execute(self._text("UPDATE {}.nodes SET seen_at = 0 WHERE id = %s"), [member.node])

    def close(self, wake_up: Callable[[], None]) -> None:
        """End; `wake_up` makes something to be heard, or the end would wait for the next look."""
        self._is_ending = True
        if self._thread is not None:
            self._turn.set()
            wake_up()
            self._thread.join()

    def _live(self) -> None:
        while not self._is_ending:
            try:
                with link(self._place) as connection:
                    self._stay(connection)
            except Exception as error:  # a wall: a new connection may do better
                reason = str(meaning_of(error, self._place) or error)
                log.warning("the store does not answer, so it is polled", extra={"reason": reason})
            self.is_hearing = False
            if not self._is_ending:
                self._turn.wait(RETRY_S)

    def _stay(self, connection: psycopg.Connection[Any]) -> None:
        if not self._place.has_pooler:
            connection.execute(f"LISTEN {self._place.channel}".encode())
            self.is_hearing = True
            for tell in (self._tell, *self._others.values()):
                tell()  # what was said meanwhile was not heard
        looks = 0
        while not self._is_ending:
            self.step(connection, beats=looks % int(BEAT_S / LOOK_S) == 0)
            looks += 1
            self._hear(connection)

    def step(self, connection: psycopg.Connection[Any], *, beats: bool) -> None:
        """Look who has died, and tell the node of it; say that it lives itself if it `beats` now."""
        member, led = self._member, self._led
        if beats and led is not None:
            self._look_at_clock(connection, led)
        if member is None:
            return
        if beats:
            self._beat(connection, member.node)
        if self._somebody_died(connection):
            member.others_died()

    def _hear(self, connection: psycopg.Connection[Any]) -> None:
        """Wait until it is time to look again, and pass on what is heard meanwhile."""
        if self._place.has_pooler:
            self._turn.wait(LOOK_S)
            return
        for said in connection.notifies(timeout=LOOK_S):
            if self._is_ending:
                return
            other = self._others.get(said.payload)
            if other is not None:
                other()
            elif not self._is_own(said.pid):
                self._tell()

    def _beat(self, connection: psycopg.Connection[Any], node: str) -> None:
        connection.execute(
            self._text(
                f"INSERT INTO {{}}.nodes (id, seen_at) VALUES (%s, {NOW}) "
                "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
            ),
            [node],
        )

    def _look_at_clock(self, connection: psycopg.Connection[Any], led: LedClock) -> None:
        asked_at = led.monotonic()
        row = connection.execute(f"SELECT {NOW}".encode()).fetchone()
        assert row is not None
        led.follow(row[0], asked_at, led.monotonic())

    def _somebody_died(self, connection: psycopg.Connection[Any]) -> bool:
        """Strike off who has not been heard for too long; one node does so, and takes over."""
        text = self._text(f"DELETE FROM {{}}.nodes WHERE seen_at < {NOW} - %s")
        return connection.execute(text, [LIFE_MS]).rowcount > 0

    def _text(self, text: str) -> bytes:
        return text.format(self._place.schema).encode()
