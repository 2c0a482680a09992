"""The seam between the store's verbs and a database: `Database` and `Session`.

A verb is handed an open session and never commits. What a database owes beyond this file is
written once, in its conformance tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qtasks.clock import Clock

if TYPE_CHECKING:
    import asyncio

    from qtasks.broker.store.arrivals import Arrival
    from qtasks.broker.store.changes import Errand
    from qtasks.broker.store.outbox import Outbox
    from qtasks.broker.store.surroundings import Recall

T = TypeVar("T")

FEW = 8
FEW_BYTES = 32 * 1024
"""Up to so many messages, and bytes of their bodies, are a small work: it takes no longer than its commit."""

Params = Mapping[str, Any]
Row = tuple[Any, ...]


class Session(Protocol):
    """One open transaction or snapshot. `query` is the name of a text in `sql/`."""

    @property
    def recall(self) -> Recall | None:
        """What need not be looked up again; None where others write too, or nothing is written."""
        ...

    def one(self, query: str, params: Params) -> Row | None:
        """Give the first row, or None."""
        ...

    def all(self, query: str, params: Params) -> list[Row]:
        """Give every row."""
        ...

    def run(self, query: str, params: Params) -> int:
        """Change rows and say how many."""
        ...

    def insert_many(self, query: str, rows: Sequence[Params]) -> None:
        """Insert all rows, in order. That it failed may be told by a later call, or by the commit."""
        ...

    def update_many(self, query: str, rows: Sequence[Params]) -> None:
        """Run one update for each set of parameters; whoever need not know how many rows spares a wait."""
        ...

    def delete_many(self, query: str, rows: Sequence[Params]) -> None:
        """Run one delete for each set of parameters."""
        ...

    def claim_along(self, arrival: Arrival) -> bool:
        """Let who waits for work claim what was just stored, in this transaction; False if nobody did.

        If not, it must join the line for claims.
        """
        ...

    def announce(self) -> None:
        """Wake the dispatcher once this transaction is committed."""
        ...


Work = Callable[[Session], T]


class Mergeable(Protocol):
    """A work that can be done at once with others of its kind that wait for the same commit.

    Only small ones are: what one statement stores is in memory twice.
    """

    @property
    def is_small(self) -> bool:
        """Whether it is about few rows and bytes."""
        ...

    def __call__(self, session: Session) -> Any:
        """Do this one alone."""
        ...

    def together(self, session: Session, others: Sequence[Any]) -> list[Any]:
        """Do this one and the others; give the results of all. If it raises, each is done alone."""
        ...


class Database(Protocol):
    """Runs verbs in transactions. Safe to call from any thread."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes may work on the same store."""
        ...

    @property
    def outbox(self) -> Outbox | None:
        """Where callers can leave messages in transactions of their own; None if they cannot."""
        ...

    @property
    def risks(self) -> Sequence[str]:
        """What could lose messages that were accepted, each a sentence for whoever runs the store."""
        ...

    def run(self, work: Work[T]) -> T:
        """Run `work` in a transaction, durable when this returns; its exception rolls it back."""
        ...

    def look(self, work: Work[T]) -> T:
        """Run `work` on one consistent snapshot; it must not write."""
        ...

    async def write(self, work: Work[T], *, is_small: bool = False) -> T:
        """Do what `run` does, off the event loop.

        A work of a few rows is small: where commits are quick it may be done on the loop, which takes less
        of its time than a thread does.
        """
        ...

    async def read(self, work: Work[T], *, is_small: bool = False) -> T:
        """Do what `look` does, off the event loop; what looks at a few rows is small, as with `write`."""
        ...

    async def changed(
        self, wait_ms: int, errand: Errand[Any] | None = None, wake: asyncio.Event | None = None
    ) -> bool:
        """Return when somebody has committed work, when `wake` is set (as news do), or after `wait_ms`.

        Says whether there may be work that was committed since. If it was announced in this process, the
        errand may have been done along.
        """
        ...

    def lead(self, clock: Clock) -> Clock:
        """Give the clock that all who work on this store go by, made of this process's own."""
        ...

    def join(self, node: str, others_died: Callable[[], None]) -> None:
        """Let a node take part: leases that bear its name are its own until it leaves or dies.

        `others_died` is called, on any thread, when leases of other nodes have become free to take over.
        """
        ...

    def leave(self) -> None:
        """End the node's part: whatever leases it has left may be taken over at once."""
        ...

    @property
    def failure(self) -> str | None:
        """What broke the store for good, if anything did (promise P04)."""
        ...

    def close(self) -> None:
        """Let go of the database; no call may follow."""
        ...
