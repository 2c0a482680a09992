"""What a simulation has seen: each attempt as its destination saw it, and what was wrong with any of it.

The nodes know nothing of it. What their store says is compared with it at the end, in `simulation.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from qtasks.broker.store.records import Claim
from tests.support.virtual_time import BEGINS_AT

SKEW_MS = 3000
"""How far the wall clocks of nodes may be apart."""
SLACK_MS = 200
"""How far a start at the destination may lie behind the claim that it was counted at."""


@dataclass(slots=True)
class Fate:
    """What became of one life of a node, as far as it excuses that its attempts are repeated."""

    name: str
    died: bool = False
    struck_at: list[int] = field(default_factory=list)
    """When others counted it as dead."""


@dataclass(slots=True)
class Attempt:
    """One attempt, from its start at the destination until the node has the reply."""

    message_id: str
    number: int
    epoch: int
    fate: Fate
    started_at: int
    is_open: bool = True
    succeeded: bool = False
    """Whether the work was done, whatever the node learned of it."""
    was_lost: bool = False
    """Whether the node was not told what came of it."""
    was_handed_back: bool = False
    """Whether its node stopped in good order before it ended."""
    claimed_at: int = 0

    @property
    def is_of_the_dead(self) -> bool:
        """Whether its node died, or was counted as dead, after it had claimed it."""
        return self.fate.died or any(at >= self.claimed_at for at in self.fate.struck_at)

    @property
    def is_excused(self) -> bool:
        """Whether the node could not record it (promise P11)."""
        return self.was_lost or self.was_handed_back or self.is_of_the_dead

    @property
    def counts(self) -> bool:
        """Whether it is in flight as far as limits are concerned (promise P10)."""
        return self.is_open and not self.is_of_the_dead


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the messages of a queue or a flow-control key."""

    parallelism: int | None = None
    ordered: bool = False
    rate: int | None = None
    period_ms: int = 0


@dataclass(slots=True)
class Accepted:
    """A message that a client was told of."""

    id: str
    place: str
    retries: int
    task_id: str | None = None
    before: tuple[str, ...] = ()
    """The messages of its ordered queue that had been accepted when it was sent."""
    was_cancelled: bool = False


class Ledger:
    """Collects `faults`, each a line for a person. `is_over` says whether a message has come to its end."""

    def __init__(self, limits: dict[str, Limits], is_over: Callable[[str], bool], *, is_skewed: bool) -> None:
        self.faults: list[str] = []
        self.accepted: dict[str, Accepted] = {}
        self.attempts: dict[str, list[Attempt]] = defaultdict(list)
        self.repeats = 0
        """Starts of what had been done before, all of them explained."""
        self._limits = limits
        self._is_over = is_over
        self._is_skewed = is_skewed
        self._places: dict[str, str] = {}
        self._senders: dict[str, tuple[str, ...]] = {}
        self._over: set[str] = set()
        self._starts: dict[str, list[Attempt]] = defaultdict(list)

    def sent(self, key: str, before: Iterable[str]) -> None:
        """Note what had been accepted of a queue when a message was first sent to it."""
        self._senders.setdefault(key, tuple(before))

    def start(self, claim: Claim, place: str, fate: Fate, now: int) -> Attempt:
        """Note that an attempt reaches its destination; `place` is its queue or flow-control key."""
        claimed_at = claim.started_at - BEGINS_AT - SKEW_MS
        attempt = Attempt(claim.id, claim.attempt, claim.lease_epoch, fate, now, claimed_at=claimed_at)
        earlier = self.attempts[claim.id]
        if attempt.is_of_the_dead:  # it was stopped between the claim and the start, and knows nothing yet
            earlier.append(attempt)
            return attempt
        if claim.attempt > claim.max_retries + 1:
            self._fault(attempt, f"attempt {claim.attempt} with {claim.max_retries} retries")
        if any(each.epoch >= attempt.epoch for each in earlier):
            self._fault(attempt, "a lease number that is not new")
        for each in earlier:
            if each.counts:
                self._fault(attempt, f"attempt {each.number} by {each.fate.name} is still under way")
            elif each.succeeded and not each.is_excused:
                self._fault(attempt, f"attempt {each.number} by {each.fate.name} succeeded before it")
            self.repeats += each.succeeded
        if not earlier:
            self._check_order(attempt, claim.body.decode())
        earlier.append(attempt)
        self._check_limits(attempt, place)
        return attempt

    def _check_order(self, attempt: Attempt, key: str) -> None:
        for each in self._senders.get(key, ()):
            if each not in self._over and not self._is_over(each):
                self._fault(attempt, f"starts before {each} has ended")
            self._over.add(each)

    def _check_limits(self, attempt: Attempt, place: str) -> None:
        limits, started = self._limits.get(place, Limits()), self._starts[place]
        started.append(attempt)
        at_once = sum(each.counts for each in started)
        if limits.parallelism is not None and at_once > limits.parallelism:
            self._fault(attempt, f"{at_once} at once in {place}")
        if limits.rate is not None:
            since = attempt.started_at - limits.period_ms + SLACK_MS
            recent = sum(each.started_at > since for each in started)
            # The end of one window and the beginning of the next; a clock that is set begins one more.
            if recent > (3 if self._is_skewed else 2) * limits.rate:
                self._fault(attempt, f"{recent} starts within a period in {place}")

    def _fault(self, attempt: Attempt, what: str) -> None:
        at = f"at {attempt.started_at} ms, attempt {attempt.number} of {attempt.message_id}"
        self.faults.append(f"{at} by {attempt.fate.name}: {what}")
