"""The headers of a delivery (contract 4.1): what the broker says itself, and what it forwards.

Whoever makes the attempt has signed it before and sends them: over HTTP, or to an app in this process.
"""

from __future__ import annotations

from qtasks.broker.store.records import Claim
from qtasks.protocol.headers import SCHEDULED_AT

USER_AGENT = "Upstash-QStash"
# What only the broker may say, even where it says nothing.
RESERVED = frozenset(
    {"Upstash-Caller-Ip", "Upstash-Topic-Name", "Upstash-Schedule-Id", "Upstash-Region", SCHEDULED_AT}
)


def delivery_headers(
    claim: Claim, *, signature: str | None = None, region: str | None = None, key: str | None = None
) -> list[tuple[str, str]]:
    """Give the headers of one attempt; the broker's own names win over forwarded ones.

    `key` is that of an API, which is stored nowhere. A message of a batch has no signature of its own.
    """
    own = {
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
        "Upstash-Message-Id": claim.id,
        "Upstash-Retried": str(claim.attempt - 1),
    }
    if signature is not None:
        own["Upstash-Signature"] = signature
    if claim.caller_ip is not None:
        own["Upstash-Caller-Ip"] = claim.caller_ip
    extras = claim.extras
    if extras.group is not None:
        own["Upstash-Topic-Name"] = extras.group
    if extras.schedule_id is not None:
        own["Upstash-Schedule-Id"] = extras.schedule_id
    if extras.fired_at is not None:
        own[SCHEDULED_AT] = str(extras.fired_at)
    if region is not None:
        own["Upstash-Region"] = region
    if key is not None:
        own["Authorization"] = f"Bearer {key}"
    forwarded = [each for each in claim.headers if each[0] not in own and each[0] not in RESERVED]
    return [*forwarded, *own.items()]
