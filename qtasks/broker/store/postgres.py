"""The store on PostgreSQL, shared by any number of nodes: one writes at a time, all may read.

Every write takes one advisory lock for its transaction, so verbs see the store as they do on SQLite, and
what they count is exact over all nodes. Group commit makes one transaction, one lock and one fsync of
what waits in a process. What is lost and found of connections stands in `postgres_links.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from qtasks.broker.store.by_turn import ByTurn
from qtasks.broker.store.changes import Changes, Errand
from qtasks.broker.store.database import Params, Work
from qtasks.broker.store.group import Group, Take, Ticket, do_together, only
from qtasks.broker.store.migrate_postgres import migrate_postgres
from qtasks.broker.store.outbox import WORD, Outbox
from qtasks.broker.store.postgres_appending import Appended, Appending, answer
from qtasks.broker.store.postgres_checks import find_risks
from qtasks.broker.store.postgres_links import Place, link, meaning_of, store_link
from qtasks.broker.store.postgres_sessions import ReadingSession, WritingSession
from qtasks.broker.store.presence import Presence
from qtasks.broker.store.queries import load_queries
from qtasks.clock import Clock
from qtasks.errors import BrokerFailed, StoreError, StoreUnreachable
from qtasks.sql_texts import PARAMETER
from qtasks.values import dataclass

if TYPE_CHECKING:
    import psycopg

    from qtasks.broker.store.postgres_pipeline import Pipeline, Query

T = TypeVar("T")

log = logging.getLogger("qtasks.store")

READERS = 2
NO_PARAMS: Sequence[Params] = ({},)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Calls that were sent before who leads them has the lead."""

    writer: Pipeline
    first_id: str
    """The id of one of their messages."""


class PostgresDatabase:
    """A `Database` in one schema of a PostgreSQL database; raises `StoreError` if it cannot be used.

    `url` is libpq's, and may name several hosts; `?schema=` chooses the schema (default `qtasks`), and
    `?pooler=on` leaves out what a transaction pooler does not carry: wake-ups become polling. A test that
    moves time by hand makes its own `presence` step.
    """

    is_shared = True

    def __init__(self, url: str, *, steps_by_hand: bool = False) -> None:
        self.place = Place.parse(url)
        self._queries = postgres_queries()
        self._changes = Changes()
        self._failure: str | None = None
        self.risks: tuple[str, ...] = ()
        with link(self.place) as connection:
            migrate_postgres(connection, self.place)
            self._look_for_risks(connection)
        self._group = Group(self._commit)
        self._pipelined = _pipelined_queries()
        self._appending = Appending(self._pipelined)
        self._ahead: Ahead | None = None
        """What is under way for whoever leads next."""
        self._doubt: str | None = None
        """The id of a message that a connection was told to commit, as long as it has not answered."""
        self._writer: Pipeline | None = None
        self._readers: list[psycopg.Connection[Any]] = []
        self._reading = threading.Semaphore(READERS)
        self._executor = ThreadPoolExecutor(READERS + 1, thread_name_prefix="qtasks-store")
        self._by_turn = ByTurn(self._group, self._executor)
        leaving = load_queries("postgres")["outbox_leave"].format(
            schema=self.place.schema, channel=self.place.channel, word=WORD
        )
        self.outbox = Outbox(leaving, self._identify, self._patience)
        tells = {WORD: self.outbox.changes.tell}
        self.presence = Presence(
            self.place, self._changes.tell, tells, is_own=self._is_own, by_hand=steps_by_hand
        )

    @property
    def failure(self) -> str | None:
        """That it was closed, if so: what a network does to it is not for good."""
        return self._failure

    def run(self, work: Work[T]) -> T:
        return self._group.run(work)

    def look(self, work: Work[T]) -> T:
        self._check_alive()
        with self._reading:
            connection = self._begin_reading()
            try:
                result = work(ReadingSession(connection, self._queries))
                connection.execute(b"COMMIT")
            except BaseException as error:
                self._give_back(connection, is_good=_roll_back(connection))
                raise _translated(error, self.place) from error
            self._give_back(connection, is_good=True)
            return result

    async def write(self, work: Work[T], *, is_small: bool = False) -> T:
        self._check_alive()
        return await self._by_turn.run(work)

    async def read(self, work: Work[T], *, is_small: bool = False) -> T:
        self._check_alive()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self.look, work)

    async def changed(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> bool:
        return await self._changes.wait(self._patience(wait_ms), errand, wake)

    def lead(self, clock: Clock) -> Clock:
        """Give a clock that shows the database's time (promise P16)."""
        return self.presence.lead(clock)

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        self.presence.join(node, others_died)

    def leave(self) -> None:
        self.presence.leave()

    def close(self) -> None:
        self._executor.shutdown()
        self.presence.close(self._wake_up)
        with suppress(BrokerFailed):
            self.run(lambda session: self._fail("it is closed"))
        if self._writer is not None:
            self._writer.close()
        for each in self._readers:
            each.close()

    def _patience(self, wait_ms: int) -> int:
        """Say how long news may be waited for: if they are not heard, it is time to look before."""
        return wait_ms if self.presence.is_hearing else min(wait_ms, self.place.poll_ms)

    def _is_own(self, process: int) -> bool:
        """Whether a server process is that of our writer, whose news are told without a way round."""
        writer = self._writer
        return writer is not None and writer.process == process

    def _identify(self) -> str:
        row = self.look(lambda session: session.one("identity", {}))
        assert row is not None
        return str(row[0])

    def _wake_up(self) -> None:
        with suppress(StoreError):
            self.run(lambda session: session.announce())

    def _begin_reading(self) -> psycopg.Connection[Any]:
        connection = self._begun(self._readers.pop()) if self._readers else None
        return connection or self._newly_begun()

    def _begun(self, connection: psycopg.Connection[Any]) -> psycopg.Connection[Any] | None:
        """Begin on a connection that was idle; None if it was lost meanwhile, as nothing is lost by that."""
        try:
            connection.execute(self.place.begin_reading)
        except BaseException as error:
            if connection.closed:
                log.info("an idle connection was lost", extra={"reason": str(error).strip()})
                return None
            connection.close()
            raise _translated(error, self.place) from error
        return connection

    def _newly_begun(self) -> psycopg.Connection[Any]:
        connection = store_link(self.place)
        try:
            connection.execute(self.place.begin_reading)
        except BaseException as error:
            connection.close()
            raise _translated(error, self.place) from error
        return connection

    def _give_back(self, connection: psycopg.Connection[Any], *, is_good: bool) -> None:
        if is_good:
            self._readers.append(connection)
        else:
            connection.close()

    def _commit(self, take: Take) -> None:
        """Commit a group together or, if one of it fails, each alone: there are no savepoints here."""
        group = list(take())
        try:
            self._check_alive()
            self._together(group, take)
        except BaseException as error:
            if (
                len(group) == 1
                or isinstance(error, StoreError | BrokerFailed)
                or not isinstance(error, Exception)
            ):
                for ticket in group:
                    ticket.error = ticket.error or error
                return
            for ticket in group:
                self._commit(only([ticket]))

    def _together(self, group: list[Ticket], take: Take) -> None:
        doubt = self._doubt = None
        while not self._has_committed(group, take, doubt):
            doubt, self._doubt = self._doubt, None  # it has done nothing wrong: see there

    def _has_committed(self, group: list[Ticket], take: Take, doubt: str | None) -> bool:
        """Try to commit a group; False if it is to be done anew, at most once for each reason.

        That is so where an idle connection was lost, an errand failed, a queue has left its line, or a
        connection was lost that was to commit: then it is in `doubt` whether a message of this id is there,
        and all others with it.
        """
        errand: Errand[Any] | None = None
        ahead, self._ahead = self._ahead, None
        writer = self._writer = ahead.writer if ahead else self._writer or self._new_writer()
        try:
            if ahead is not None:
                return self._has_ended(ahead, group)
            appended = None if doubt else self._appending.find(group)
            is_waited_for = len(group) == 1 and self._appending.have_company
            if appended is not None and not is_waited_for and appended.is_small:
                return self._has_appended(writer, group, appended, is_begun=False)
            session = self._begin_writing(writer)
            if doubt is not None and session.one("message_by_id", {"id": doubt}) is not None:
                writer.commit(None)
                return answer(group)
            if appended is not None:
                writer.wait()  # for our turn to write: more come meanwhile, and share this commit
                if more := take():
                    group.extend(more)
                    appended = self._appending.find(group)
            if appended is not None:
                return self._has_appended(writer, group, appended, is_begun=True)
            taken: Sequence[Ticket] = group
            while taken:
                for ticket in do_together(session, taken) if len(taken) > 1 else taken:
                    ticket.result = ticket.work(session)
                taken = take()
                group.extend(taken)
            writer.make_sure()
            errand = self._changes.take() if session.announced else None
            if errand is not None:
                errand.perform(session)
            writer.commit(self.place.notify if session.announced else None)
        except BaseException as error:
            meaning, was_idle = _translated(error, self.place), writer.was_idle
            if not writer.roll_back(after=error):
                self._writer = None
            if errand is not None:
                errand.end(meaning)
                if isinstance(meaning, Exception) and not isinstance(meaning, StoreError | BrokerFailed):
                    log.exception("what was to be done along failed")
                    return False
            is_lost = meaning is not error and isinstance(meaning, StoreUnreachable)
            if is_lost and (was_idle or self._doubt is not None):
                which = "an idle connection was lost" if was_idle else "a connection was lost as it committed"
                log.info(which, extra={"reason": str(error).strip()})
                return False
            raise meaning from error
        if errand is not None:
            errand.end()
        if session.announced:
            self._changes.tell()
        self._appending.learn(group, in_line=not session.announced)
        return True

    def _has_appended(
        self, writer: Pipeline, group: Sequence[Ticket], appended: Appended, *, is_begun: bool
    ) -> bool:
        """Store calls and commit, at once if they fit; False if nothing was, as a queue has left its line."""
        if not is_begun:
            _take_turn(writer, self.place, None)  # no node's leases are touched
        if appended.is_small:
            self._doubt = appended.first_id
            writer.begin_commit(appended, is_begun=is_begun)
            return self._has_stored(writer, group)
        count = writer.count(appended.query, appended.params)
        writer.commit(None)
        self._appending.tried(group, is_stored=count > 0)
        return count > 0 and answer(group)

    def _has_stored(self, writer: Pipeline, group: Sequence[Ticket]) -> bool:
        """Wait until what was sent is committed; False if nothing was stored."""
        count = writer.end_commit()
        self._doubt = None
        self._appending.tried(group, is_stored=count > 0)
        if not count:
            return False
        self._send_ahead(writer)
        return answer(group)

    def _has_ended(self, ahead: Ahead, group: Sequence[Ticket]) -> bool:
        """Do the same for what was sent ahead."""
        self._doubt = ahead.first_id
        return self._has_stored(ahead.writer, group)

    def _send_ahead(self, writer: Pipeline) -> None:
        """Send what waits for the next commit: whoever leads it has to win the interpreter before."""
        if not self._group.has_waiting:
            return
        appended = self._group.begin_next(self._appending.find_small)
        if appended is None:
            return
        self._ahead = Ahead(writer, appended.first_id)
        try:
            _take_turn(writer, self.place, None)
            writer.begin_commit(appended, is_begun=False)
        except Exception:
            writer.close()  # so who leads finds it lost, and out what is there

    def _begin_writing(self, writer: Pipeline) -> WritingSession:
        writer.tell(b"BEGIN")
        _take_turn(writer, self.place, self.presence.node)
        return WritingSession(writer, self._pipelined)

    def _new_writer(self) -> Pipeline:
        """Connect to whichever server writes now: after a failover that is another one."""
        connection = store_link(self.place)
        try:
            from qtasks.broker.store.postgres_pipeline import Pipeline

            self._look_for_risks(connection)
            return Pipeline(connection, prepares=not self.place.has_pooler)
        except BaseException as error:
            connection.close()
            raise _translated(error, self.place) from error

    def _look_for_risks(self, connection: psycopg.Connection[Any]) -> None:
        risks = find_risks(connection)
        for risk in risks:
            if risk not in self.risks:
                log.warning("what was accepted may be lost", extra={"store": str(self.place), "risk": risk})
        self.risks = risks

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise BrokerFailed(f"the store {self.place} cannot be used: {self._failure}")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason


def _take_turn(writer: Pipeline, place: Place, node: str | None) -> None:
    for each in _turn(place, node):
        writer.send(each, NO_PARAMS)


@lru_cache(8)
def _turn(place: Place, node: str | None) -> tuple[Query, ...]:
    from qtasks.broker.store.postgres_pipeline import Query

    return tuple(map(Query, place.begin_writing(node)))


def _pipelined_queries() -> Mapping[str, Query]:
    from qtasks.broker.store.postgres_pipeline import pipelined_queries

    return pipelined_queries()


@cache
def postgres_queries() -> dict[str, str]:
    """Give the texts of this dialect, with parameters as psycopg writes them.

    >>> psycopg_text("SELECT :a WHERE x LIKE '%' AND y = CAST(:b AS TEXT)")
    "SELECT %(a)s WHERE x LIKE '%%' AND y = CAST(%(b)s AS TEXT)"
    """
    return {name: psycopg_text(text) for name, text in load_queries("postgres").items()}


def psycopg_text(text: str) -> str:
    """Write `:name` as `%(name)s`."""
    return PARAMETER.sub(r"%(\1)s", text.replace("%", "%%"))


def _roll_back(connection: psycopg.Connection[Any]) -> bool:
    """Undo what was begun; False if the connection is of no more use."""
    if connection.closed:
        return False
    try:
        connection.execute(b"ROLLBACK")
    except Exception:  # whatever it says, a new one will know better
        return False
    return True


def _translated(error: BaseException, place: Place) -> BaseException:
    return meaning_of(error, place) or error
