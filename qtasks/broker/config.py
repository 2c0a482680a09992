"""What a broker may be told: limits, retention, sizes. Values only; the defaults are the product's."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Limits and habits of one broker. Spans are in milliseconds, sizes in bytes."""

    max_message_bytes: int = 10 * 1024 * 1024
    max_batch_bytes: int = 16 * 1024 * 1024
    max_response_bytes: int = 10 * 1024 * 1024
    default_retries: int = 3
    max_retries: int = 1000
    max_delay_ms: int = 366 * DAY_MS
    max_timeout_ms: int = 7_200_000
    """A message that names no timeout, or a longer one, gets this (contract 3.4)."""
    dedup_window_ms: int = 600_000
    readable_ms: int = 60_000
    """For how long a finished message can still be read by its id (contract 1.2)."""
    retention_ms: int = 3 * DAY_MS
    dead_letter_retention_ms: int = 30 * DAY_MS
    concurrency: int = 64
    """Deliveries in flight at once on one node."""
    grace_ms: int = 25_000
    """How long a stop waits for deliveries in flight."""
    lease_margin_ms: int = 10_000
