"""The clock of a kit, which its hand moves, and how the app under test sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtasks.clock import Clock, ManualClock, SystemClock
from qtasks.tasks.calling import Caller


class KitClock(ManualClock):
    """Stands still but for the hand that moves it, and for `follow`."""

    def __init__(self, now: int | None = None, machine: Clock | None = None) -> None:
        self._machine = machine or SystemClock()
        begins_at = self._machine.now()
        super().__init__(begins_at if now is None else now)
        self._ahead_ms = self.now() - begins_at

    def move(self, ms: int) -> None:
        """Let time pass, by hand."""
        self._ahead_ms += ms
        self.advance(ms)

    def follow(self) -> None:
        """Catch up with the machine's clock, as far as the two are apart by more than the hand's doing.

        So an `eta` of a call that is reckoned from the machine's clock is that far from the call.
        """
        # One more, as the clock is cut off to the millisecond where an `eta` is rounded.
        behind_ms = self._machine.now() + self._ahead_ms - self.now() + 1
        if behind_ms > 0:
            self.advance(behind_ms)


class AppClock:
    """What the app is handed: the kit's time, but timeouts are real ones."""

    def __init__(self, clock: KitClock) -> None:
        self._clock = clock
        self._machine = SystemClock()

    def now(self) -> int:
        return self._clock.now()

    def monotonic(self) -> int:
        return self._machine.monotonic()

    async def sleep(self, ms: int) -> None:
        await self._machine.sleep(ms)


class FollowingCaller:
    """Stands before an app's `Caller`: the clock follows the machine's whenever something is asked of it.

    Once for each call, so that all instants of a call agree; and not while `is_held`, as when tasks run.
    """

    def __init__(self, caller: Caller, clock: KitClock, is_held: Callable[[], bool]) -> None:
        self._caller = caller
        self._clock = clock
        self._is_held = is_held

    def __getattr__(self, name: str) -> Any:
        if not self._is_held():
            self._clock.follow()
        return getattr(self._caller, name)
