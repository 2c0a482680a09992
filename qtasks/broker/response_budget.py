"""Bounds what the answers of all destinations together hold in memory (promise P20).

Nearly every answer fits into what each has for free. A longer one takes from a budget as it is read, and
gives that back once nobody has it any more: until then it is yet to be stored.
"""

from __future__ import annotations

from collections import deque

FREE_BYTES = 64 * 1024
BUDGET_BYTES = 16 * 1024 * 1024
# For others to be stored meanwhile; an answer that gets no more room by then is cut.
PATIENCE_MS = 2000
PAUSE_MS = 20


class ResponseBudget:
    """The bytes that all answers may hold beyond what each of them has for free."""

    def __init__(self, size: int, *, free: int = FREE_BYTES) -> None:
        self._left = size
        self._free = free
        # Answers are forgotten on whatever thread has them last.
        self._returned: deque[int] = deque()

    @property
    def left(self) -> int:
        """How many bytes can be granted now."""
        while self._returned:
            self._left += self._returned.popleft()
        return self._left

    def grant(self, held: int, wanted: int) -> int:
        """Say how many of the `wanted` bytes an answer that holds `held` may add."""
        for_free = min(wanted, max(0, self._free - held))
        granted = min(wanted - for_free, self.left)
        self._left -= granted
        return for_free + granted

    def give_back(self, held: int) -> None:
        """Take back what an answer of `held` bytes was granted."""
        self._returned.append(max(0, held - self._free))

    def growing(self) -> Hold:
        """Give what takes back the grants of several answers that are read as one; it `grows` with them."""
        return Hold(self, 0)

    def hold(self, held: int) -> Hold | None:
        """Give what takes back the grant of an answer once it is forgotten; None if it was granted none."""
        return Hold(self, held) if held > self._free else None


class Hold:
    """Gives room back when it is forgotten."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: ResponseBudget, held: int) -> None:
        self._budget = budget
        self._held = held

    @property
    def held(self) -> int:
        """How many bytes there are."""
        return self._held

    def grow(self, by: int) -> None:
        """Note that more was granted."""
        self._held += by

    def __del__(self) -> None:
        self._budget.give_back(self._held)
