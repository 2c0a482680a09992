"""Which claims go together in one request, and the lines that it has. Pure.

Only what its sender lets be batched is, if work of its kind has been quick of late: attempts, leases and
limits stay those of each message. Who waits in order goes alone, and so does who has no attempt to lose,
who is large, and who was in flight at a crash or lost its line in a batch before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from qtasks.broker.delivery_headers import delivery_headers
from qtasks.broker.store.messages import LARGE_BYTES
from qtasks.broker.store.records import Claim, Reply
from qtasks.protocol.batches import AnswerLine, DeliveryLine, write_deliveries

MOST_BYTES = 1024 * 1024
"""Of all bodies of a batch."""


def parted(claims: Sequence[Claim], is_quick: Callable[[Claim], bool]) -> list[list[Claim]]:
    """Part claims into those that go together, and those that go alone."""
    alone: list[list[Claim]] = []
    together: dict[tuple[str, int, int], list[Claim]] = {}
    for each in claims:
        if _may_be_batched(each) and is_quick(each):
            assert each.extras.batch is not None
            together.setdefault((each.url, each.timeout_ms, each.extras.batch), []).append(each)
        else:
            alone.append([each])
    parts = [part for (_, _, most), group in together.items() for part in _cut(group, most)]
    return [*parts, *alone]


def _may_be_batched(claim: Claim) -> bool:
    extras = claim.extras
    return (
        extras.batch is not None
        and claim.method == "POST"
        and claim.max_retries > 0
        and not claim.ordered
        and not claim.interrupted
        and extras.api is None
        and len(claim.body) <= LARGE_BYTES
    )


def _cut(claims: Sequence[Claim], most: int) -> Iterator[list[Claim]]:
    part: list[Claim] = []
    size = 0
    for each in claims:
        if part and (len(part) == most or size + len(each.body) > MOST_BYTES):
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
