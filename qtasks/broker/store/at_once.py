"""Whether a commit is so quick that an event loop had better make it itself than have a thread do so.

A thread that commits for a loop has to win the interpreter from it twice, which takes several times as long
as the commit of a quick disk (decision 026).
"""

from __future__ import annotations

QUICK_NS = 1_000_000
"""A loop stands still for as long as a commit takes; for one that takes longer than this, no loop does."""
LONGEST_NS = 4 * QUICK_NS
"""A longer one counts as one of this length: a disk that stalls once is not a slow one."""
LENGTHENED, SHORTENED = 16, 4
"""A commit that took longer than usual counts the less: it may have waited for the interpreter."""
TRIED_AGAIN = 64
"""Of so many small works one is done on the loop all the same, to see how long a commit takes there."""


class Commits:
    """How long the commits of one database usually take."""

    def __init__(self) -> None:
        self._usual_ns = 2.0 * QUICK_NS  # not quick until some have shown it
        self._declined = 0

    @property
    def are_quick(self) -> bool:
        """Whether they were of late: so is the disk, then."""
        return self._usual_ns < QUICK_NS

    def may_be_here(self) -> bool:
        """Whether the next one may be made by a loop: if they are quick, or to see whether they are."""
        if self.are_quick:
            return True
        self._declined += 1
        return self._declined % TRIED_AGAIN == 0

    def took(self, ns: int) -> None:
        """Learn how long one took."""
        more = min(ns, LONGEST_NS) - self._usual_ns
        self._usual_ns += more / (LENGTHENED if more > 0 else SHORTENED)
