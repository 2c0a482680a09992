"""What this node has claimed and not yet settled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qtasks.broker.store.messages import LARGE_BYTES
from qtasks.broker.store.records import Claim, Lease
from qtasks.broker.waiters import Waiters


class InFlight:
    """Claims by lease: an attempt that others have overtaken may still run when the message is claimed again.

    `large_bytes` is how much of the room for large bodies they take.
    """

    def __init__(self, waiters: Waiters) -> None:
        self._claims: dict[Lease, Claim] = {}
        self._waiters = waiters
        self.large_bytes = 0

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, lease: Lease) -> bool:
        return lease in self._claims

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._claims.values())

    @property
    def leases(self) -> frozenset[Lease]:
        """Which leases there are."""
        return frozenset(self._claims)

    def expect(self, claims: Iterable[Claim]) -> None:
        """Say which tasks are under way, of claims that will be added; safe on any thread."""
        self._waiters.begin([each.task_id for each in claims if each.task_id])

    def add(self, claims: Sequence[Claim]) -> None:
        """Take claims in."""
        self._claims.update((each.lease, each) for each in claims)
        self.large_bytes += sum(map(large_bytes, claims))
        self.expect(claims)

    def end(self, claims: Iterable[Claim]) -> None:
        """Let go of claims, as far as they are there."""
        ended = [each for each in claims if self._claims.pop(each.lease, None) is not None]
        self.large_bytes -= sum(map(large_bytes, ended))
        self._waiters.rest([each.task_id for each in ended if each.task_id])


def large_bytes(claim: Claim) -> int:
    """Say how much of the room for large bodies a claim takes."""
    return len(claim.body) if len(claim.body) > LARGE_BYTES else 0
