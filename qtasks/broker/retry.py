"""Decides what becomes of a claimed message once its destination has answered, or failed to.

Pure: no clock, no database, no HTTP. The dispatcher calls `judge` and hands the verdict to the store.
"""

from __future__ import annotations

from qtasks.broker.store.records import DELIVERED, Again, Claim, Dead, Reply, Verdict
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.hints import retry_hint_ms
from qtasks.protocol.ladder import ladder_ms

NON_RETRYABLE = 489
UNCOUNTED = "qtasks-uncounted"
"""Response header of our webhook: the attempt was not made. Its value says why."""
STILL_RUNNING = "running"
EXPIRED = "expired"
"""It is too late to start it, which the claim will find out: no dead letter comes of it."""
JITTER = 0.1
UNCOUNTED_PAUSE_MS = 1000


def judge(
    claim: Claim,
    reply: Reply,
    now: int,
    fraction: float,
    *,
    strict: bool = False,
    longest_ms: int | None = None,
) -> Verdict:
    """Say what a reply means for its message (contract 4.3).

    `now` is in Unix ms; `fraction`, from 0 to 1, spreads retries that would fall together. With `strict`,
    nothing is spread and our own marker counts for nothing, as with hosted QStash. No wait of the ladder is
    longer than `longest_ms`.
    """
    if 200 <= reply.status < 300:
        return DELIVERED
    headers = {name.lower(): value for name, value in reply.headers}
    marker = None if strict else headers.get(UNCOUNTED)
    is_refused = (
        reply.status == NON_RETRYABLE and headers.get("upstash-nonretryable-error", "").lower() == "true"
    )
    if is_refused and marker != EXPIRED:
        return Dead()
    if marker is not None and claim.task_id is not None and _may_go_uncounted(claim, marker, now):
        hint = retry_hint_ms(reply.headers, now)
        return Again(now + (UNCOUNTED_PAUSE_MS if hint is None else hint), counted=False)
    if is_refused:
        return Dead()
    if claim.attempt > claim.max_retries:
        return Dead()
    at = now + _delay_ms(claim, reply, now, 0 if strict else fraction, longest_ms)
    return Again(at, interrupted=reply.is_alone_next)


def _may_go_uncounted(claim: Claim, marker: str, now: int) -> bool:
    """A message that still runs elsewhere waits for its earlier lease to end, and no longer."""
    if marker != STILL_RUNNING:
        return True
    return now < (claim.guard_until or claim.lease_until)


def _delay_ms(claim: Claim, reply: Reply, now: int, fraction: float, longest_ms: int | None) -> int:
    """The destination's hint, else the message's expression, else the ladder (contract 4.4)."""
    hint = retry_hint_ms(reply.headers, now)
    if hint is not None:
        return hint
    retried = claim.attempt - 1
    if claim.retry_delay is not None:
        return parse_expression(claim.retry_delay).delay_ms(retried)
    ladder = ladder_ms(retried) if longest_ms is None else min(longest_ms, ladder_ms(retried))
    return ladder + int(ladder * JITTER * fraction)
