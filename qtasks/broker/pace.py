"""How quick a destination, or an app, is: what is quick is handed more at once."""

from __future__ import annotations

MOST_NS = 1_000_000_000
"""A longer one counts as one of this length: hours would not be forgotten for as many."""
MEMORY = 16
"""The mean is about that of the last so many."""


class Pace:
    """How long attempts take, those of late above all; quick is what takes less than `quick_ns`."""

    def __init__(self, quick_ns: int) -> None:
        self._quick_ns = quick_ns
        self._mean_ns = float(quick_ns * 2)  # not quick until some have shown it

    @property
    def is_quick(self) -> bool:
        """Whether they are short: what waits behind some of them hardly notices."""
        return self._mean_ns < self._quick_ns

    def took(self, ns: int) -> None:
        """Learn how long one took."""
        self._mean_ns += (min(ns, MOST_NS) - self._mean_ns) / MEMORY
