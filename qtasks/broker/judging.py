"""Makes of a reply what is to be recorded of it: its verdict, and the messages that tell others."""

from __future__ import annotations

import logging
from dataclasses import replace

from qtasks.broker.callbacks import CallbacksOf
from qtasks.broker.config import BrokerConfig
from qtasks.broker.delivery import storable
from qtasks.broker.retry import judge
from qtasks.broker.store.records import Again, Claim, Dead, Reply, Settlement
from qtasks.ids import Ids

log = logging.getLogger("qtasks.dispatcher")

UNJUDGED_MS = 60_000


class Judging:
    """Judges the replies of one dispatcher. Whatever comes, something can be recorded."""

    def __init__(self, config: BrokerConfig, ids: Ids, callbacks: CallbacksOf) -> None:
        self._config = config
        self._ids = ids
        self._callbacks = callbacks

    def judged(self, claim: Claim, reply: Reply, now: int) -> Settlement:
        """Give what is to be recorded of a reply that came at `now`, in Unix ms."""
        try:
            return self._verdict(claim, reply, now)
        except Exception as error:  # a wall: one surprising reply must not keep others from being recorded
            log.exception("cannot judge a reply", extra={"message_id": claim.id})
            lost = Reply(0, error=f"the reply could not be judged: {type(error).__name__}")
            verdict = Dead() if claim.attempt > claim.max_retries else Again(now + UNJUDGED_MS)
            return Settlement(claim, lost, verdict, ended_at=max(now, claim.started_at))

    def _verdict(self, claim: Claim, reply: Reply, now: int) -> Settlement:
        reply = storable(reply)
        verdict = judge(
            claim,
            reply,
            now,
            0.0 if 200 <= reply.status < 300 else self._ids.fraction(),  # only what is tried again is spread
            strict=self._config.strict,
            longest_ms=self._config.longest_ladder_wait_ms,
        )
        # Not before its start: the wall clock may have been set back meanwhile.
        settlement = Settlement(claim, reply, verdict, ended_at=max(now, claim.started_at))
        if not claim.extras.has_callbacks:
            return settlement
        try:
            return replace(settlement, callbacks=self._callbacks(settlement))
        except Exception:  # a wall: a report that cannot be made must not keep the end from being recorded
            log.exception("cannot make the callbacks of a message", extra={"message_id": claim.id})
            return settlement
