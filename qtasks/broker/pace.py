"""How quick work is, of one kind or of an app as a whole: what is quick is handed out several at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MOST_NS = 1_000_000_000
"""A longer one counts as one of this length: hours would not be forgotten for as many."""
MEMORY = 16
"""The mean is about that of the last so many."""


class Pace:
    """How long attempts take, those of late above all; quick is what takes less than `quick_ns`."""

    __slots__ = ("_mean_ns", "_quick_ns")

    def __init__(self, quick_ns: int) -> None:
        self._quick_ns = quick_ns
        self._mean_ns = float(quick_ns * 2)  # not quick until some have shown it

    @property
    def is_quick(self) -> bool:
        """Whether they are short: what waits behind some of them hardly notices."""
        return self._mean_ns < self._quick_ns

    def count(self, ns: int) -> int:
        """Say how many of them, one after the other, take so long."""
        return int(ns / max(self._mean_ns, 1))

    def took(self, ns: int, count: int = 1) -> None:
        """Learn how long each of so many took."""
        self._mean_ns += (min(ns, MOST_NS) - self._mean_ns) * (1 - (1 - 1 / MEMORY) ** count)


class Paces:
    """The paces of the `most` kinds of work of which something was learnt last.

    What is not among them is not quick, until some of it have shown that it is.
    """

    def __init__(self, quick_ns: int, most: int) -> None:
        self._quick_ns = quick_ns
        self._most = most
        self._paces: OrderedDict[Hashable, Pace] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paces)

    def is_quick(self, kind: Hashable) -> bool:
        """Whether work of that kind is short; to ask keeps no place for it."""
        found = self._paces.get(kind)
        return found is not None and found.is_quick

    def took(self, kind: Hashable, ns: int, count: int = 1) -> None:
        """Learn how long each of so many of a kind took."""
        found = self._paces.get(kind)
        if found is None:
            if len(self._paces) >= self._most:
                self._paces.popitem(last=False)
            found = self._paces[kind] = Pace(self._quick_ns)
        else:
            self._paces.move_to_end(kind)
        found.took(ns, count)
