"""The clocks of a kit: the one that its hand moves, and how the app under test sees it."""

from __future__ import annotations

from qtasks.clock import Clock, ManualClock, SystemClock


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
        behind_ms = self._machine.now() + self._ahead_ms - self.now()
        if behind_ms > 0:
            self.advance(behind_ms)


class AppClock:
    """What the app is handed: a call is made at the machine's time, and timeouts are real ones."""

    def __init__(self, clock: KitClock) -> None:
        self._clock = clock
        self._machine = SystemClock()
        self.is_held = False
        """Whether time stands still for the app too: while tasks run."""

    def now(self) -> int:
        if not self.is_held:
            self._clock.follow()
        return self._clock.now()

    def monotonic(self) -> int:
        return self._machine.monotonic()

    async def sleep(self, ms: int) -> None:
        await self._machine.sleep(ms)
