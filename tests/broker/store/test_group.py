"""Which works share a commit."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

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
