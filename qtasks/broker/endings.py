"""What is said of the end of an attempt: one line of the log for each change of state."""

from __future__ import annotations

import logging

from qtasks.broker.store.records import Again, Cancelled, Dead, Settlement

log = logging.getLogger("qtasks.dispatcher")


def is_final(settlement: Settlement) -> bool:
    """Say whether no other attempt follows."""
    return not isinstance(settlement.verdict, Again)


def tell(settlement: Settlement) -> None:
    """Log one line for each change of state; at no cost for levels that are off."""
    claim, verdict = settlement.claim, settlement.verdict
    if isinstance(verdict, Dead):
        log.error("message is dead", extra=facts(settlement))
    elif isinstance(verdict, Again):
        if verdict.counted:
            log.warning("delivery failed, will retry", extra={**facts(settlement), "retry_at": verdict.at})
    elif log.isEnabledFor(logging.INFO):
        ended = "cancelled" if isinstance(verdict, Cancelled) else "delivered"
        log.info(ended, extra={"message_id": claim.id, "queue": claim.queue, "attempt": claim.attempt})


def facts(settlement: Settlement) -> dict[str, object]:
    """Give what a line of the log says of an attempt: never a body."""
    claim, reply = settlement.claim, settlement.reply
    return {
        "message_id": claim.id,
        "queue": claim.queue,
        "attempt": claim.attempt,
        "status": reply.status,
        "error": reply.error,
    }
