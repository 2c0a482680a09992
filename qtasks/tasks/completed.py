"""`as_completed`: gives results in the order in which their tasks finish, asking for many at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from qtasks.clock import Clock
from qtasks.errors import ResultTimeout, WaitRefused
from qtasks.protocol.results import MOST_IDS
from qtasks.tasks.results import POLL_MS, AsyncResult, ResultSource
from qtasks.tasks.waiting import refuse_in_loop, refuse_in_task

T = TypeVar("T")

TURN_MS = 250
"""How long each question waits where several are needed, so that all have their turn."""


def as_completed(
    results: Iterable[AsyncResult[T]], timeout: float | None = None, *, allow_in_task: bool = False
) -> Completed[T]:
    """Give each result as its task finishes, whichever way: for `for`, and for `async for`.

    `get` on one of them then returns, or raises, at once. A task that nobody knows counts as finished.
    `timeout` (seconds, None for ever) is for all of them: then `ResultTimeout` is raised. Raises
    `WaitRefused` where `AsyncResult.get` does.
    """
    return Completed(list(results), timeout, allow_in_task)


class Completed(Generic[T]):
    """What `as_completed` gives. Each iteration begins anew."""

    def __init__(self, results: Sequence[AsyncResult[T]], timeout: float | None, allow_in_task: bool) -> None:
        self._results = results
        self._timeout = timeout
        self._allow_in_task = allow_in_task

    def __iter__(self) -> Iterator[AsyncResult[T]]:
        refuse_in_loop("as_completed()", "async for result in as_completed(...)")
        refuse_in_task(self._timeout, self._allow_in_task)
        left = _Left(self._results, self._timeout)
        while left:
            for each in left.questions():
                found = each.source.settled(each.task_ids, each.wait_ms)
                yield from left.take(each.source, found)
            left.check()

    async def __aiter__(self) -> AsyncIterator[AsyncResult[T]]:
        refuse_in_task(self._timeout, self._allow_in_task)
        left = _Left(self._results, self._timeout)
        while left:
            for each in left.questions():
                found = await each.source.asettled(each.task_ids, each.wait_ms)
                for result in left.take(each.source, found):
                    yield result
            left.check()


@dataclass(frozen=True, slots=True)
class _Question:
    source: ResultSource
    task_ids: Sequence[str]
    wait_ms: int


class _Left(Generic[T]):
    """The results that have not been given yet, and until when."""

    def __init__(self, results: Sequence[AsyncResult[T]], timeout: float | None) -> None:
        self._all = len(results)
        self._timeout = timeout
        self._sources: dict[int, tuple[ResultSource, dict[str, list[AsyncResult[T]]]]] = {}
        for each in results:
            _, waiting = self._sources.setdefault(id(each._source), (each._source, {}))
            waiting.setdefault(each.id, []).append(each)
        self._clock: Clock | None = results[0]._clock if results else None
        self._ends_at = None if timeout is None else self._now() + int(timeout * 1000)
        self._stall: str | None = None

    def __bool__(self) -> bool:
        return any(waiting for _, waiting in self._sources.values())

    def questions(self) -> list[_Question]:
        """Ask about all that is left, as many at a time as one question takes."""
        if self._timeout is None:
            stalls = (source.stall() for source, waiting in self._sources.values() if waiting)
            self._stall = next((each for each in stalls if each is not None), None)
        parts = [
            (source, ids[start : start + MOST_IDS])
            for source, waiting in self._sources.values()
            for ids in [list(waiting)]
            for start in range(0, len(ids), MOST_IDS)
        ]
        wait_ms = self._wait_ms(POLL_MS if len(parts) == 1 else TURN_MS)
        return [_Question(source, ids, wait_ms) for source, ids in parts]

    def take(self, source: ResultSource, task_ids: Iterable[str]) -> Iterator[AsyncResult[T]]:
        """Give the results of tasks that have finished, and no longer ask about them."""
        _, waiting = self._sources[id(source)]
        for task_id in task_ids:
            yield from waiting.pop(task_id, ())

    def check(self) -> None:
        """Raise if there is something left, and no sense in asking again."""
        if not self:
            return
        count = sum(len(each) for _, waiting in self._sources.values() for each in waiting.values())
        if self._stall is not None:
            raise WaitRefused(f"{count} of {self._all} tasks have not finished, and {self._stall}")
        if self._ends_at is not None and self._now() >= self._ends_at:
            raise ResultTimeout(
                f"{count} of {self._all} tasks have not finished after {self._timeout:g} s; they go on"
            )

    def _wait_ms(self, most_ms: int) -> int:
        if self._stall is not None:
            return 0
        return most_ms if self._ends_at is None else max(0, min(most_ms, self._ends_at - self._now()))

    def _now(self) -> int:
        return 0 if self._clock is None else self._clock.monotonic()
