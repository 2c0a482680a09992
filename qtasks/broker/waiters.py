"""Lets any thread or task wait until a task has finished, without asking again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress


class Waiters:
    """Futures by task id; `finish` completes them. Safe to use from any thread.

    It is told which tasks are under way here as well: of them nobody need ask how far they are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Future[None]]] = {}
        self._under_way: set[str] = set()
        self.is_closed = False

    @contextmanager
    def expect(self, task_ids: Sequence[str]) -> Iterator[Future[None]]:
        """Give a future that is done once one of the tasks is; it is forgotten at the end of the block."""
        future: Future[None] = Future()
        with self._lock:
            if self.is_closed:
                future.set_result(None)
            for task_id in task_ids:
                self._waiting.setdefault(task_id, set()).add(future)
        try:
            yield future
        finally:
            with self._lock:
                for task_id in task_ids:
                    self._forget(task_id, future)

    def _forget(self, task_id: str, future: Future[None]) -> None:
        others = self._waiting.get(task_id, set())
        others.discard(future)
        if not others:
            self._waiting.pop(task_id, None)

    def begin(self, task_ids: Iterable[str]) -> None:
        """Take note that these are under way, and that it will be said when they are not any more."""
        self._under_way.update(task_ids)

    def rest(self, task_ids: Iterable[str]) -> None:
        """Take note that these are under way here no more, whether they have finished or not."""
        self._under_way.difference_update(task_ids)

    def are_under_way(self, task_ids: Sequence[str]) -> bool:
        """Whether none of these can have finished yet; who expects them already will be told when one has."""
        return bool(task_ids) and self._under_way.issuperset(task_ids)

    def finish(self, task_ids: Sequence[str]) -> None:
        """Tell whoever waits for one of these that it has finished."""
        self._under_way.difference_update(task_ids)
        if not self._waiting:  # the usual case, and it needs no lock: who comes later reads the store first
            return
        with self._lock:
            done = [each for task_id in task_ids for each in self._waiting.get(task_id, ())]
        _complete(done)

    def close(self) -> None:
        """Let nobody wait any more: no task ends here from now on."""
        with self._lock:
            self.is_closed = True
            done = [each for futures in self._waiting.values() for each in futures]
        _complete(done)


def _complete(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        with suppress(InvalidStateError):
            future.set_result(None)
