"""Decides what becomes of a claimed message once its destination has answered, or failed to.

Pure: no clock, no database, no HTTP. The dispatcher calls `judge` and hands the verdict to the store.
"""

from __future__ import annotations

import math

from qtasks.broker.store.records import Again, Claim, Dead, Delivered, Reply, Verdict
from qtasks.protocol.expression import parse_expression
from qtasks.protocol.hints import retry_hint_ms

NON_RETRYABLE = 489
UNCOUNTED = "qtasks-uncounted"
"""Response header of our webhook: the attempt was not made. Its value says why."""
STILL_RUNNING = "running"
DAY_S = 86_400
JITTER = 0.1
UNCOUNTED_PAUSE_MS = 1000


def judge(claim: Claim, reply: Reply, now: int, fraction: float, *, strict: bool = False) -> Verdict:
    """Say what a reply means for its message (contract 4.3).

    `now` is in Unix ms; `fraction`, from 0 to 1, spreads retries that would fall together. With `strict`,
    nothing is spread and our own marker counts for nothing, as with hosted QStash.
    """
    if 200 <= reply.status < 300:
        return Delivered()
    headers = {name.lower(): value for name, value in reply.headers}
    if reply.status == NON_RETRYABLE and headers.get("upstash-nonretryable-error", "").lower() == "true":
        return Dead()
    marker = None if strict else headers.get(UNCOUNTED)
    if marker is not None and claim.task_id is not None and _may_go_uncounted(claim, marker, now):
        hint = retry_hint_ms(reply.headers, now)
        return Again(now + (UNCOUNTED_PAUSE_MS if hint is None else hint), counted=False)
    if claim.attempt > claim.max_retries:
        return Dead()
    return Again(now + _delay_ms(claim, reply, now, 0 if strict else fraction))


def _may_go_uncounted(claim: Claim, marker: str, now: int) -> bool:
    """A message that still runs elsewhere waits for its earlier lease to end, and no longer."""
    if marker != STILL_RUNNING:
        return True
    return now < (claim.guard_until or claim.lease_until)


def _delay_ms(claim: Claim, reply: Reply, now: int, fraction: float) -> int:
    """The destination's hint, else the message's expression, else the ladder (contract 4.4)."""
    hint = retry_hint_ms(reply.headers, now)
    if hint is not None:
        return hint
    retried = claim.attempt - 1
    if claim.retry_delay is not None:
        return parse_expression(claim.retry_delay).delay_ms(retried)
    ladder = ladder_ms(retried)
    return ladder + int(ladder * JITTER * fraction)


def ladder_ms(retried: int) -> int:
    """Say how long the default ladder waits before the next attempt, in ms of whole seconds.

    `retried` counts the retries already made, from 0.

    >>> [ladder_ms(n) // 1000 for n in range(5)]
    [12, 148, 1808, 22026, 86400]
    """
    return 1000 * (DAY_S if retried >= 4 else min(DAY_S, math.floor(math.exp(2.5 * (retried + 1)))))
