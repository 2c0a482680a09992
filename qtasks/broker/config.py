"""What a broker may be told: limits, retention, sizes. Values only; the defaults are the product's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

DAY_MS = 86_400_000
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class ApiTarget:
    """What an API name such as `api/llm` stands for: the URL of its calls, and the key they bear."""

    url: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Limits and habits of one broker. Spans are in milliseconds, sizes in bytes."""

    max_message_bytes: int = 10 * MIB
    max_batch_bytes: int = 16 * MIB
    max_response_bytes: int = 10 * MIB
    uploads_bytes: int = 16 * MIB
    """What requests that are being received may hold together, beside their first 64 KiB each."""
    in_flight_bytes: int = 8 * MIB
    """What the large bodies of deliveries in flight may hold together; one more may begin below it."""
    default_retries: int = 3
    longest_ladder_wait_ms: int | None = None
    """Where the usual ladder of waits between attempts ends; None for its own end, a day."""
    max_retries: int = 1000
    max_delay_ms: int = 366 * DAY_MS
    max_timeout_ms: int = 7_200_000
    """A message that names no timeout, or a longer one, gets this (contract 3.4)."""
    dedup_window_ms: int = 600_000
    max_dedup_window_ms: int = 366 * DAY_MS
    """The longest window that a message may ask for; a task id is remembered as long as its message."""
    readable_ms: int = 60_000
    """For how long a finished message can still be read by its id (contract 1.2)."""
    retention_ms: int = 3 * DAY_MS
    dead_letter_retention_ms: int = 30 * DAY_MS
    concurrency: int = 64
    """Deliveries in flight at once on one node."""
    grace_ms: int = 25_000
    """How long a stop waits for deliveries in flight."""
    lease_margin_ms: int = 10_000
    reserve_bytes: int | None = None
    """Free room on the store's disk below which nothing is accepted; None for 64 MiB, or 5 % if less."""
    ballast_bytes: int = 8 * MIB
    """What is held ready beside the reserve, to record how deliveries end when the disk is full."""
    max_queues: int = 100_000
    max_parallelism: int = 100_000
    max_schedules: int = 100_000
    max_url_groups: int = 100_000
    max_endpoints: int = 100
    """How many endpoints one URL group may have."""
    burst_limit: int | None = None
    """Requests a second that each token may make beside publishing; None for any number."""
    apis: Mapping[str, ApiTarget] = field(default_factory=dict)
    """What `api/llm` and `api/email` stand for, by these names."""
    region: str | None = None
    """What deliveries say in `Upstash-Region`; None to say nothing."""
    strict: bool = False
    """Behave as hosted QStash does wherever this broker is more generous: see `strict_config`."""


def strict_config(config: BrokerConfig) -> BrokerConfig:
    """Give the same broker with the limits of hosted QStash's pay-as-you-go plan (contract 7.3)."""
    return replace(
        config,
        strict=True,
        max_message_bytes=min(config.max_message_bytes, 10 * MIB),
        max_retries=min(config.max_retries, 20),
        max_delay_ms=min(config.max_delay_ms, 366 * DAY_MS),
        dead_letter_retention_ms=min(config.dead_letter_retention_ms, 7 * DAY_MS),
        max_queues=min(config.max_queues, 100),
        max_parallelism=min(config.max_parallelism, 100),
        max_schedules=min(config.max_schedules, 1000),
        max_url_groups=min(config.max_url_groups, 100),
    )
