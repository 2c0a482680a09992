"""`Turns`: so many coroutines at once, and the others in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


class Turns:
    """Runs coroutines as tasks of the loop on which they are added; each ends in its own good time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Work] = deque()
        self._running: set[asyncio.Task[Any] | None] = set()  # the loop itself keeps only weak references

    @property
    def running(self) -> int:
        """How many have begun and not ended."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many have not begun."""
        return len(self._waiting)

    def add(self, work: Work) -> None:
        """Run it, now or when its turn comes; what it raises is asyncio's to tell."""
        self._waiting.append(work)
        if len(self._running) < self._most:
            self._fill(asyncio.get_running_loop())

    def _fill(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting and len(self._running) < self._most:
            self._running.add(loop.create_task(self._run(self._waiting.popleft(), loop)))

    async def _run(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        # It is told its loop: to find that, Python takes a system call before 3.12.
        try:
            await work()
        finally:  # right here, as a callback would take another turn of the loop
            self._running.discard(asyncio.current_task(loop))
            self._fill(loop)
