"""Which works share a commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import pytest

from qtasks.broker.store.database import Session, Work
from qtasks.broker.store.group import Group, Take, Ticket

SOON_S = 10


@dataclass(frozen=True)
class Sized:
    """A work that says whether it is small."""

    name: str
    is_small: bool

    def __call__(self, session: Session) -> str:
        return self.name


def plain(session: Session) -> str:
    """Do a work that does not say."""
    return "plain"


@dataclass
class Book:
    """Notes which works each commit has taken, take by take."""

    commits: list[list[list[str]]] = field(default_factory=list)
    has_taken: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def commit(self, take: Take) -> None:
        takes: list[list[str]] = []
        while taken := take():
            takes.append([getattr(each.work, "name", "plain") for each in taken])
            self.has_taken.set()
            assert self.may_go_on.wait(SOON_S)
        self.commits.append(takes)


def test_what_is_large_begins_a_commit_of_its_own() -> None:
    book = Book()
    book.may_go_on.set()
    works: list[Work[str]] = [
        Sized("a", True),
        plain,
        Sized("large", False),
        Sized("b", True),
        plain,
        Sized("larger", False),
    ]

    Group(book.commit).run_all([Ticket(each) for each in works])

    assert book.commits == [[["a", "plain"]], [["large", "b", "plain"]], [["larger"]]]


def test_small_works_that_come_while_a_commit_is_at_work_share_it() -> None:
    book = Book()
    group = Group(book.commit)
    first = threading.Thread(target=group.run_all, args=([Ticket(Sized("first", True))],))
    first.start()
    assert book.has_taken.wait(SOON_S)
    others = threading.Thread(target=group.run_all, args=([Ticket(Sized("late", True)), Ticket(plain)],))
    others.start()
    while not group._waiting:
        threading.Event().wait(0.001)

    book.may_go_on.set()
    for each in (first, others):
        each.join(SOON_S)

    assert book.commits == [[["first"], ["late"]], [["plain"]]]


@dataclass
class Ahead:
    """Begins what waits for the next commit once it has done one, and notes who begins and who ends."""

    group: Group = field(init=False)
    then: Callable[[], None] = lambda: None
    """What is done between beginning and passing on the lead."""
    begun: list[list[str]] = field(default_factory=list)
    ended: list[list[str]] = field(default_factory=list)
    has_taken: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.group = Group(self.commit)

    def commit(self, take: Take) -> None:
        taken = take()
        self.has_taken.set()
        assert self.may_go_on.wait(SOON_S)
        self.ended.append(names(taken))
        found = self.group.begin_next(lambda following: None if "never" in names(following) else following)
        if found is not None:
            self.begun.append(names(found))
            self.then()

    def run_behind(self, first: Ticket, *others: Ticket) -> None:
        """Have some wait while the first is under way, each in a thread of its own."""
        with ThreadPoolExecutor(1 + len(others)) as pool:
            threads = [pool.submit(self.group.run_all, [first])]
            assert self.has_taken.wait(SOON_S)
            for place, each in enumerate(others):
                threads.append(pool.submit(self.group.run_all, [each]))
                while len(self.group._waiting) <= place:
                    threading.Event().wait(0.001)
            self.may_go_on.set()
        for thread in threads:
            thread.result()


def names(tickets: Sequence[Ticket]) -> list[str]:
    return [each.work.name for each in tickets if isinstance(each.work, Sized)]


def small(name: str) -> Ticket:
    return Ticket(Sized(name, True))


def test_who_leads_begins_the_small_ones_that_wait_and_the_next_ends_those_alone() -> None:
    ahead = Ahead()

    ahead.run_behind(small("first"), small("a"), small("b"), Ticket(Sized("large", False)), small("c"))

    assert ahead.begun == [["a", "b"]]
    assert ahead.ended == [["first"], ["a", "b"], ["large", "c"]]


def test_what_nothing_is_found_for_is_not_begun() -> None:
    ahead = Ahead()

    ahead.run_behind(small("first"), small("a"), small("never"))

    assert ahead.begun == []
    assert ahead.ended == [["first"], ["a", "never"]]


class Interrupted:
    """A lock whose first acquire is broken off, when it would have been had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._is_broken = False
        self.until = threading.Event()

    def acquire(self) -> None:
        if self._is_broken:
            self._lock.acquire()
        else:
            self._is_broken = True
            assert self.until.wait(SOON_S)
            raise KeyboardInterrupt

    def release(self) -> None:
        self._lock.release()


@pytest.mark.parametrize("place", [0, 1])
def test_who_breaks_off_waits_for_what_is_begun_and_leads_if_it_is_the_first(place: int) -> None:
    ahead = Ahead()
    tickets = [small("a"), small("b")]
    lock = Interrupted()
    tickets[place].wake = cast("threading.Lock", lock)

    def break_off() -> None:
        lock.until.set()
        threading.Event().wait(0.05)  # so that it is broken off before the lead goes on

    ahead.then = break_off

    with pytest.raises(KeyboardInterrupt):
        ahead.run_behind(small("first"), *tickets)

    ahead.group.run_all([small("after")])
    assert ahead.ended == [["first"], ["a", "b"], ["after"]]
