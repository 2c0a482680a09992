"""The only reader of time. Everything else is handed a `Clock`.

`now` is the wall clock in Unix milliseconds, for instants that people gave. `monotonic` never
steps, for deadlines and waits of a live process.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


def stopwatch_ns() -> int:
    """Read what measures how long the machine itself took for something, whatever a `Clock` says."""
    return time.perf_counter_ns()


class Clock(Protocol):
    """What qtasks asks of time."""

    def now(self) -> int:
        """Say the wall-clock time in Unix milliseconds."""
        ...

    def monotonic(self) -> int:
        """Say how many milliseconds have passed since some fixed, unnamed start."""
        ...

    async def sleep(self, ms: int) -> None:
        """Wait for `ms` milliseconds of this clock."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)


class LedClock:
    """Shows what a clock shows that several machines share, and that is looked at only now and then.

    Between two looks time passes as by `own`, whose wall clock counts for nothing. May be read in any thread.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._ahead = own.now() - own.monotonic()

    def now(self) -> int:
        return self._own.monotonic() + self._ahead

    def monotonic(self) -> int:
        return self._own.monotonic()

    async def sleep(self, ms: int) -> None:
        await self._own.sleep(ms)

    def follow(self, shown: int, asked_at: int, heard_at: int) -> None:
        """Learn what the shared clock showed at some instant between two of `monotonic`.

        What was known is kept as far as that allows, so that it does not waver with the way of the answer.
        """
        self._ahead = min(max(self._ahead, shown - heard_at), shown - asked_at)


class ManualClock:
    """A clock that a test moves by hand; `sleep` ends when somebody has advanced it far enough."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self._now = now
        self._monotonic = 0
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> int:
        return self._now

    def monotonic(self) -> int:
        return self._monotonic

    async def sleep(self, ms: int) -> None:
        waker = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + ms, waker))
        await waker

    def advance(self, ms: int = 0, *, seconds: float = 0, minutes: float = 0, hours: float = 0) -> None:
        """Let time pass: wall clock and monotonic clock alike."""
        span = ms + round(1000 * (seconds + 60 * (minutes + 60 * hours)))
        self._now += span
        self._monotonic += span
        self._wake()

    def step_wall(self, ms: int) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would; no time passes."""
        self._now += ms

    def _wake(self) -> None:
        due = [waker for at, waker in self._sleepers if at <= self._monotonic]
        self._sleepers = [each for each in self._sleepers if each[0] > self._monotonic]
        for waker in due:
            if not waker.done():
                waker.set_result(None)
