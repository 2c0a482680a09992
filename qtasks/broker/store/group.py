"""Group commit: whoever writes first commits for all who wait meanwhile.

A lone caller pays no thread hop, and a crowd pays one commit for many. How a group is committed is the
database's affair.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any, TypeVar

from qtasks.broker.store.database import Session, Work

T = TypeVar("T")

GROUP = 256  # works that share one commit at most, so that the first of them does not wait long


class Ticket:
    """A work that waits for its turn, and whoever waits for it."""

    __slots__ = ("error", "leads", "result", "wake", "work")

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()


Take = Callable[[], Sequence[Ticket]]
"""Gives the works that wait for the same commit, then the small ones that have come since; at most a `GROUP`.

What is large has a commit of its own: all that share one are in memory until the last of them is stored.
"""


class Group:
    """The works that wait for one writer.

    `commit` does those that it takes, and notes what came of each. It takes as late as it can, and again
    before it commits: while it waits for the database, others come.
    """

    def __init__(self, commit: Callable[[Take], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._begun: Sequence[Ticket] = ()
        """What is under way already before its first has the lead."""
        self._busy = False

    def run(self, work: Work[T]) -> T:
        """Have a work done, on this thread or on that of another one who waits."""
        ticket = Ticket(work)
        with self._mutex:
            self._waiting.append(ticket)
            leads = not self._busy
            self._busy = True
        if not leads:
            self._await_turn(ticket)
        if leads or ticket.leads:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        result: T = ticket.result
        return result

    def run_all(self, tickets: Sequence[Ticket]) -> None:
        """Have works done as `run` does; what came of each stands in its ticket."""
        with self._mutex:
            self._waiting.extend(tickets)
            leads = not self._busy
            self._busy = True
        if leads:
            self._lead()
        for ticket in tickets:
            self._await_turn(ticket)
            if ticket.leads:
                self._lead()

    def run_at_once(self, tickets: Sequence[Ticket], commit: Callable[[Take], None]) -> bool:
        """Have these and no others done on this thread by `commit`; False if another one is at it."""
        with self._mutex:
            if self._busy:
                return False
            self._busy = True
        commit(only(tickets))
        self._pass_on()
        return True

    @property
    def has_waiting(self) -> bool:
        """Whether there is something for the next commit."""
        return bool(self._waiting)

    def begin_next(self, find: Callable[[Sequence[Ticket]], T | None]) -> T | None:
        """Have what waits for the next commit begun by who has the lead, if something can be found for it.

        Gives what was found. Whoever leads next takes these works alone, and has to end what was begun.
        """
        with self._mutex:
            may_join = takewhile(partial(_may_join, is_late=True), self._waiting)
            following = list(islice(may_join, GROUP))
            found = find(following) if following else None
            if found is not None:
                for _ in following:
                    self._waiting.popleft()
                self._begun = following
            return found

    def _await_turn(self, ticket: Ticket) -> None:
        try:
            ticket.wake.acquire()
        except BaseException:  # Ctrl-C in the main thread: nobody may be left waiting for us to lead
            with self._mutex:
                is_begun = ticket in self._begun and not ticket.leads
                if not ticket.leads and ticket in self._waiting:
                    self._waiting.remove(ticket)
            if is_begun:
                self._await_turn(ticket)
            if ticket.leads:
                self._lead()
            raise

    def _lead(self) -> None:
        """Commit the works that wait as one group, wake their callers, pass the lead on."""
        begun, self._begun = self._begun, ()
        group: list[Ticket] = []

        def take() -> Sequence[Ticket]:
            if begun and not group:
                group.extend(begun)
                return begun
            if not self._waiting:
                return ()
            first = len(group)
            with self._mutex:
                while self._waiting and len(group) < GROUP:
                    if group and not _may_join(self._waiting[0], is_late=bool(first)):
                        break
                    group.append(self._waiting.popleft())
            return group[first:]

        self._commit(take)
        self._pass_on()
        for ticket in group:
            if not ticket.leads:
                ticket.wake.release()

    def _pass_on(self) -> None:
        with self._mutex:
            if self._begun or self._waiting:
                following = (self._begun or self._waiting)[0]
                following.leads = True
                following.wake.release()
            else:
                self._busy = False


def only(tickets: Sequence[Ticket]) -> Take:
    """Give these once, and then no others."""
    given = iter((tickets,))
    return lambda: next(given, ())


def _is_small(ticket: Ticket) -> bool | None:
    """Whether a work says that it is small, or large; None if it does not say."""
    found: bool | None = getattr(ticket.work, "is_small", None)
    return found


def _may_join(ticket: Ticket, *, is_late: bool) -> bool:
    is_small = _is_small(ticket)
    return not is_late if is_small is None else is_small


def do_together(session: Session, group: Sequence[Ticket]) -> Sequence[Ticket]:
    """Do the works that can be done at once; give the others. What it raises undoes all of it."""
    alike = [each for each in group if _is_small(each)]
    if len(alike) < 2:
        return group
    first: Any = alike[0].work
    results = first.together(session, [each.work for each in alike[1:]])
    for ticket, result in zip(alike, results, strict=True):
        ticket.result = result
    return [each for each in group if each not in alike]
