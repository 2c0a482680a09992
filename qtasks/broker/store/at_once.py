"""Small works are done on the event loop that asks for them, while commits are quick.

A thread that commits for a loop has to win the interpreter from it twice, which takes several times as long
as the commit of a quick disk. The works of one turn of the loop share a commit (decision 026).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from qtasks.broker.store.database import Work
from qtasks.broker.store.group import GROUP, Ticket

QUICK_NS = 1_000_000
"""A loop stands still for as long as a commit takes; for one that takes longer than this, no loop does."""
LONGEST_NS = 4 * QUICK_NS
"""A longer one counts as one of this length: a disk that stalls once is not a slow one."""
LENGTHENED, SHORTENED = 16, 4
"""A commit that took longer than usual counts the less: it may have waited for the interpreter."""
TRIED_AGAIN = 64
"""Of so many small works one is done on the loop all the same, to see how long a commit takes there."""


class AtOnce:
    """Collects the small works of each turn of a loop and has them done at the end of that turn.

    `do` commits them together, and says whether it did: it does not where it would have to wait for somebody.
    """

    def __init__(self, do: Callable[[Sequence[Ticket]], bool]) -> None:
        self._do = do
        self._usual_ns = 2.0 * QUICK_NS  # not quick until some have shown it
        self._declined = 0
        # By loop: only the thread of a loop touches what is its own.
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, asyncio.Future[bool]]]] = {}

    @property
    def is_quick(self) -> bool:
        """Whether commits were quick of late: so is the disk, then."""
        return self._usual_ns < QUICK_NS

    def took(self, ns: int) -> None:
        """Learn how long a commit took."""
        more = min(ns, LONGEST_NS) - self._usual_ns
        self._usual_ns += more / (LENGTHENED if more > 0 else SHORTENED)

    async def done(self, work: Work[Any]) -> Ticket | None:
        """Have a work done in this turn of the running loop; None if it was not, and a thread is to do it."""
        if not self.is_quick:
            self._declined += 1
            if self._declined % TRIED_AGAIN:
                return None
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get(loop)
        if waiting is None:
            waiting = self._waiting[loop] = []
            loop.call_soon(self._end_turn, loop)
        ticket, is_done = Ticket(work), loop.create_future()
        waiting.append((ticket, is_done))
        return ticket if await is_done else None

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = [each for each in self._waiting.pop(loop) if not each[1].cancelled()]
        for first in range(0, len(waiting), GROUP):
            group = waiting[first : first + GROUP]
            try:
                are_done = self._do([ticket for ticket, _ in group])
            except Exception as error:
                for _, future in group:
                    future.set_exception(error)
            else:
                for _, future in group:
                    future.set_result(are_done)
