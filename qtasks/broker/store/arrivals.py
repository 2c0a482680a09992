"""A message that was stored just now, for whoever claims it in the same transaction."""

from __future__ import annotations

from qtasks.broker.store.queues import QueueRow
from qtasks.broker.store.records import Claim, NewMessage
from qtasks.values import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """A ready message whose queue does not stand in line: nothing that is ready waits there before it."""

    seq: int
    message: NewMessage
    queue: QueueRow
    created_at: int
    not_before: int

    def claimed(self, now: int, lease_margin_ms: int) -> Claim:
        """Give its first claim, the same that would be read from the store."""
        message, queue = self.message, self.queue
        return Claim(
            seq=self.seq,
            id=message.id,
            queue=message.queue or None,
            app=message.app,
            url=message.url,
            method=message.method,
            headers=message.headers,
            body=message.body,
            created_at=self.created_at,
            attempt=1,
            lease_epoch=1,
            lease_until=now + message.timeout_ms + lease_margin_ms,
            started_at=max(now, self.created_at),
            max_retries=message.max_retries,
            timeout_ms=message.timeout_ms,
            retry_delay=message.retry_delay,
            task_id=message.task_id,
            result_ttl_ms=message.result_ttl_ms,
            caller_ip=message.caller_ip,
            queue_id=queue.id,
            ordered=queue.ordered,
            interrupted=0,
            guard_until=None,
            not_before=self.not_before,
            extras=message.extras,
        )
