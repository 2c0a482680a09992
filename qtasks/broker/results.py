"""The use cases of results: ask for one or wait for some, forget one, note how far a task has come.

Waiting asks the store when it begins, unless the tasks are under way here, and when it is told of an end,
and never in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Generic, TypeVar

from qtasks.broker.store import results
from qtasks.broker.store.database import FEW, Database, Session
from qtasks.broker.waiters import Waiters
from qtasks.clock import Clock
from qtasks.errors import BrokerUnavailable, NotFound
from qtasks.protocol.results import ProgressReport, ResultView

T = TypeVar("T")

LOOK_MS = 100


class Results:
    """Says what is known of tasks. Safe to call from any thread; `a…` is for event loops.

    Whoever waits while the broker shuts down is told so, by `BrokerUnavailable`.
    """

    def __init__(self, database: Database, clock: Clock, waiters: Waiters) -> None:
        self._database = database
        self._clock = clock
        self._waiters = waiters

    def find(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Say what is known of a task, waiting up to `wait_ms` for its end."""
        return self._wait(self._one(task_id), wait_ms)

    async def afind(self, task_id: str, wait_ms: int = 0) -> ResultView:
        """Do what `find` does, on an event loop."""
        return await self._await(self._one(task_id), wait_ms)

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Give those tasks that have finished or that nobody knows, waiting for the first of them."""
        return self._wait(self._some(task_ids), wait_ms)

    async def asettled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        """Do what `settled` does, on an event loop."""
        return await self._await(self._some(task_ids), wait_ms)

    def forget(self, task_id: str) -> bool:
        """Drop the value or error that is kept of a task; say whether there was one."""
        return self._database.run(lambda session: results.forget_result(session, task_id))

    def report(self, reports: Mapping[str, ProgressReport]) -> None:
        """Note how far tasks have come; raises `NotFound` if none of them is under way."""
        now = self._clock.now()
        known = self._database.run(lambda session: results.report_progress(session, reports, now))
        if not known:
            raise NotFound(f"task {next(iter(reports), '')[:64]} is not under way")

    def _one(self, task_id: str) -> _Question[ResultView]:
        return _Question(
            [task_id],
            lambda session: results.find_result(session, task_id, self._clock.now()),
            lambda found: found.is_settled,
        )

    def _some(self, task_ids: Sequence[str]) -> _Question[list[str]]:
        return _Question(
            task_ids,
            lambda session: results.find_settled(session, task_ids, self._clock.now()),
            lambda found: bool(found) or not task_ids,
        )

    def _wait(self, question: _Question[T], wait_ms: int) -> T:
        if wait_ms <= 0:
            return self._database.look(question.ask)
        with self._waiters.expect(question.task_ids) as done:  # before the look, so that no end is missed
            if not self._waiters.are_under_way(question.task_ids):
                found = self._database.look(question.ask)
                if question.is_answered(found):
                    return found
            for pause_ms in self._pauses(wait_ms):
                try:
                    done.result(pause_ms / 1000)
                    break
                except FutureTimeout:
                    found = self._database.look(question.ask)
                    if question.is_answered(found):
                        return found
        return self._checked(question, self._database.look(question.ask))

    async def _await(self, question: _Question[T], wait_ms: int) -> T:
        if wait_ms <= 0:
            return await self._database.read(question.ask, is_small=question.is_small)
        with self._waiters.expect(question.task_ids) as done:
            if not self._waiters.are_under_way(question.task_ids):
                found = await self._database.read(question.ask, is_small=question.is_small)
                if question.is_answered(found):
                    return found
            arrival = asyncio.wrap_future(done)
            try:
                for pause_ms in self._pauses(wait_ms):
                    ended, _ = await asyncio.wait({arrival}, timeout=pause_ms / 1000)
                    if ended:
                        break
                    found = await self._database.read(question.ask, is_small=question.is_small)
                    if question.is_answered(found):
                        return found
            finally:
                arrival.cancel()
        return self._checked(question, await self._database.read(question.ask, is_small=question.is_small))

    def _pauses(self, wait_ms: int) -> Iterator[int]:
        """Give the pauses between looks: one, unless tasks may end on other nodes, which tell nobody here."""
        pause_ms = LOOK_MS if self._database.is_shared else wait_ms
        for begun_ms in range(0, wait_ms, pause_ms):
            yield min(pause_ms, wait_ms - begun_ms)

    def _checked(self, question: _Question[T], found: T) -> T:
        """Raise `BrokerUnavailable` where a wait was cut short: asked again at once, it would be no wait."""
        if self._waiters.is_closed and not question.is_answered(found):
            raise BrokerUnavailable("the broker is shutting down; repeat in a moment", retry_after=1)
        return found


@dataclass(frozen=True, slots=True)
class _Question(Generic[T]):
    """What is asked of the store about some tasks, and when the answer is worth no further wait."""

    task_ids: Sequence[str]
    ask: Callable[[Session], T]
    is_answered: Callable[[T], bool]

    @property
    def is_small(self) -> bool:
        """Whether it is about a few tasks only."""
        return len(self.task_ids) <= FEW
