"""Which claims go together in one request, and the lines that it has. Pure.

Only what its sender lets be batched is, if work of its kind has been quick of late: attempts, leases and
limits stay those of each message. Who waits in order goes alone, and so does who has no attempt to lose,
who is large, and who was in flight at a crash or lost its line in a batch before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil

from qtasks.broker.delivery_headers import delivery_headers
from qtasks.broker.store.messages import LARGE_BYTES
from qtasks.broker.store.records import Claim, Reply
from qtasks.protocol.batches import AnswerLine, DeliveryLine, write_deliveries

MOST_BYTES = 1024 * 1024
"""Of all bodies of a batch."""

Company = tuple[str, int, int]
"""What claims that go together have in common; at the end how many they may be."""


def parted(claims: Sequence[Claim], is_quick: Callable[[Claim], bool]) -> list[list[Claim]]:
    """Part claims into those that go together, and those that go alone."""
    alone: list[list[Claim]] = []
    together: dict[Company, list[Claim]] = {}
    for each in claims:
        company = _company(each, is_quick)
        if company is None:
            alone.append([each])
        else:
            together.setdefault(company, []).append(each)
    parts = [part for (_, _, most), group in together.items() for part in _cut(group, most)]
    return [*parts, *alone]


class Requests:
    """So many requests, filled with one claim after the other: says whether there is room for it.

    It is not asked again after it has said no.
    """

    def __init__(self, count: int, is_quick: Callable[[Claim], bool]) -> None:
        self._left = count
        self._is_quick = is_quick
        self._begun: dict[Company, int] = {}

    def __call__(self, claim: Claim) -> bool:
        company = _company(claim, self._is_quick)
        if company is not None:
            count = self._begun.get(company, 0)
            self._begun[company] = count + 1
            if count % company[-1]:
                return True
        self._left -= 1
        return self._left >= 0


def _company(claim: Claim, is_quick: Callable[[Claim], bool]) -> Company | None:
    """Say with which others a claim goes; None if it goes alone."""
    most = claim.extras.batch
    if most is None or not _may_be_batched(claim) or not is_quick(claim):
        return None
    return claim.url, claim.timeout_ms, most


def _may_be_batched(claim: Claim) -> bool:
    extras = claim.extras
    return (
        claim.method == "POST"
        and claim.max_retries > 0
        and not claim.ordered
        and not claim.interrupted
        and extras.api is None
        and len(claim.body) <= LARGE_BYTES
    )


def _cut(claims: Sequence[Claim], most: int) -> Iterator[list[Claim]]:
    """Cut what is too much for one request into parts alike: one message more costs less than a request."""
    even = ceil(len(claims) / ceil(len(claims) / most))
    part: list[Claim] = []
    size = 0
    for each in claims:
        if part and (len(part) == even or size + len(each.body) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each.body)
    yield part


def written(claims: Sequence[Claim], region: str | None) -> bytes:
    """Write the body of a request that delivers claims together."""
    return write_deliveries(
        DeliveryLine(
            each.id,
            each.attempt - 1,
            {name.lower(): value for name, value in delivery_headers(each, region=region)},
            each.body,
        )
        for each in claims
    )


def reply_of(line: AnswerLine, hold: object) -> Reply:
    """Give what a line says as the reply to its message."""
    ok = 200 <= line.status < 300
    error = None if ok else f"unexpected status {line.status}"
    return Reply(line.status, line.headers, line.body, error, hold=hold)
