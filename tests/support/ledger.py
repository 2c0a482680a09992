"""The ledger of a fault test: which messages were accepted, and each start of one at its destination.

Tasks and receivers write it, independently of the broker. `balance` compares it with what the broker
says: nothing lost, nothing stuck, no duplicate without a reason (promises P01, P02, P11).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

DONE = 200


@dataclass(frozen=True, slots=True)
class Start:
    """One execution of a message. Instants are seconds on the machine's monotonic clock."""

    key: str
    started_at: float
    by: int = 0
    """The process that executed it."""
    retried: int | None = None
    """What the broker said of it, where that is known."""
    message_id: str | None = None
    ended_at: float | None = None
    status: int | None = None
    """How it ended: 200 if well; None if it never ended."""


@dataclass(slots=True)
class Ledger:
    """Starts in the order in which they came; safe to use from any thread."""

    _starts: list[Start] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, key: str, *, retried: int | None = None, message_id: str | None = None) -> int:
        """Record a start; give its place, for its end."""
        with self._lock:
            self._starts.append(Start(key, time.monotonic(), retried=retried, message_id=message_id))
            return len(self._starts) - 1

    def end(self, place: int, status: int) -> None:
        """Record how a start ended."""
        with self._lock:
            self._starts[place] = replace(self._starts[place], ended_at=time.monotonic(), status=status)

    @property
    def starts(self) -> list[Start]:
        """All starts so far."""
        with self._lock:
            return list(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __str__(self) -> str:
        return f"--- ledger: {len(self)} starts, the last of them {self.starts[-5:]}"


def read_ledger(path: Path) -> list[Start]:
    """Read a ledger file: lines of `start|end|fail key process instant`, in the order of writing."""
    starts: list[Start] = []
    open_at: dict[tuple[str, int], int] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.splitlines():
        kind, key, process, instant = line.split(" ")
        by, at = int(process), float(instant)
        if kind == "start":
            open_at[key, by] = len(starts)
            starts.append(Start(key, at, by))
        else:
            place = open_at.pop((key, by))
            status = DONE if kind == "end" else 500
            starts[place] = replace(starts[place], ended_at=at, status=status)
    return starts


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left when a ledger and a broker have been compared; `faults` is empty if all is well."""

    accepted: int
    starts: int
    delivered: int
    dead: int
    kills: int
    lost: tuple[str, ...]
    strangers: tuple[str, ...]
    """Executed, though nobody was told that they were accepted."""
    stuck: int
    in_flight: int
    """Attempts that a kill cut short, as the broker's log has it."""
    repeated: int
    """Starts beyond the first that no failure answered for."""
    unexplained: Mapping[str, int]
    """Those of them that no kill accounts for, by key."""

    @property
    def faults(self) -> list[str]:
        """Say what breaks a promise."""
        found = []
        if self.lost:
            found.append(f"{len(self.lost)} lost: {', '.join(self.lost[:10])}")
        if self.strangers:
            found.append(f"{len(self.strangers)} never accepted: {', '.join(self.strangers[:10])}")
        if self.stuck:
            found.append(f"{self.stuck} stuck")
        if self.unexplained:
            found.append(f"started too often, without a reason: {dict(self.unexplained)}")
        return found

    def __str__(self) -> str:
        chance = min(1, 3 / self.kills) if self.kills else 1
        return (
            f"{self.kills} kills: {self.accepted} accepted, {self.delivered} delivered, {self.dead} dead, "
            f"{len(self.lost)} lost, {self.stuck} stuck; {self.starts} starts, {self.repeated} of them "
            f"duplicates for {self.in_flight} calls in flight at a kill, "
            f"{sum(self.unexplained.values())} unexplained; "
            f"the chance of a loss is at most {chance:.2%} a kill (95 %)"
        )


def balance(
    accepted: Collection[str],
    starts: Sequence[Start],
    *,
    dead: Collection[str],
    stuck: int,
    interrupted: Mapping[str, int],
    kills: int,
) -> Balance:
    """Compare: each accepted key ends in one way, and starts once, and once more for each reason.

    A reason is a failure that the destination answered, or an attempt that was in flight at a kill
    (`interrupted`, as the broker's log has it).
    """
    begun = Counter(each.key for each in starts)
    failed = Counter(each.key for each in starts if each.status not in (DONE, None))
    done = {each.key for each in starts if each.status == DONE}
    again = {key: count - 1 - failed[key] for key, count in begun.items()}
    excess = {key: count - interrupted.get(key, 0) for key, count in again.items()}
    return Balance(
        accepted=len(accepted),
        starts=len(starts),
        delivered=len(done),
        dead=len(dead),
        kills=kills,
        lost=tuple(key for key in accepted if key not in done and key not in dead),
        strangers=tuple(key for key in begun if key not in accepted),
        stuck=stuck,
        in_flight=sum(interrupted.values()),
        repeated=sum(count for count in again.values() if count > 0),
        unexplained={key: count for key, count in excess.items() if count > 0},
    )
