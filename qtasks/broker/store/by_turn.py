"""Works that are asked for on an event loop: those of one turn of it are done together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from qtasks.broker.store.database import Work
from qtasks.broker.store.group import Group, Ticket

T = TypeVar("T")

LONE_TURNS = 16

Waiting = Sequence[tuple[Ticket, asyncio.Future[None]]]


@dataclass(slots=True)
class _Turn:
    """What was asked for in one turn of a loop, and whether all of it may be done on the loop itself."""

    count: int = 0
    waiting: list[tuple[Ticket, asyncio.Future[None]]] = field(default_factory=list)
    may_be_here: bool = True


class ByTurn:
    """Collects the works of each turn of a loop and has them done at its end, by one thread of the executor.

    A thread for each would have them take turns at the interpreter, and at most as many would share a commit.
    `at_once` may do those of a turn on the loop itself, if all of them allow it; it says whether it did.
    """

    def __init__(
        self,
        group: Group,
        executor: Executor,
        at_once: Callable[[Sequence[Ticket]], bool] = lambda tickets: False,
    ) -> None:
        self._group = group
        self._executor = executor
        self._at_once = at_once
        # By loop: only the thread of a loop touches what is its own.
        self._turns: dict[asyncio.AbstractEventLoop, _Turn] = {}
        self._lone_turns = 0
        """How many turns there were of late with one work in each."""

    async def run(self, work: Work[T], *, may_be_here: bool = False) -> T:
        """Have a work done in this turn of the running loop, on it if it `may_be_here`; raises its error."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = _Turn()
            loop.call_soon(self._end, loop)
        turn.count += 1
        ticket = Ticket(work)
        # The first of a turn does not wait for others where none came of late: one work of a turn at most is
        # done so, or whoever asks for one after the other would let nobody else have a turn.
        is_lone = turn.count == 1 and may_be_here and self._lone_turns >= LONE_TURNS
        if not (is_lone and self._at_once([ticket])):
            turn.may_be_here = turn.may_be_here and may_be_here
            done = loop.create_future()
            turn.waiting.append((ticket, done))
            await done
        if ticket.error is not None:
            raise ticket.error
        result: T = ticket.result
        return result

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        turn = self._turns.pop(loop)
        self._lone_turns = self._lone_turns + 1 if turn.count == 1 else 0
        waiting = [each for each in turn.waiting if not each[1].cancelled()]
        tickets = [ticket for ticket, _ in waiting]
        try:
            if not tickets or (turn.may_be_here and self._at_once(tickets)):
                _tell(waiting, None)
                return
            job = asyncio.wrap_future(self._executor.submit(self._group.run_all, tickets), loop=loop)
        except Exception as error:  # it is closed, say
            _tell(waiting, error)
            return
        job.add_done_callback(lambda job: _tell(waiting, None if job.cancelled() else job.exception()))


def _tell(waiting: Waiting, error: BaseException | None) -> None:
    for _, done in waiting:
        if done.done():
            continue  # its caller has gone away meanwhile
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
