"""Which messages a listing or a bulk operation is about (contract 2.4, 2.8, 2.9)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from qtasks.protocol.shapes import MessageView

Wanted = frozenset[str] | None


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Values of one field are alternatives, fields must all match; None asks for all.

    `since` and `until` are Unix milliseconds, both inclusive.
    """

    message_ids: Wanted = None
    queues: Wanted = None
    urls: Wanted = None
    hosts: Wanted = None
    paths: Wanted = None
    labels: Wanted = None
    url_groups: Wanted = None
    schedules: Wanted = None
    flow_keys: Wanted = None
    caller_ips: Wanted = None
    tasks: Wanted = None
    """Names of tasks, which stand in bodies: whoever filters by them reads those, as `matches` does not."""
    since: int | None = None
    until: int | None = None

    def matches(self, message: MessageView, instant: int) -> bool:
        """Say whether a message is meant; `instant` is what `since` and `until` are about."""
        if self.since is not None and instant < self.since:
            return False
        if self.until is not None and instant > self.until:
            return False
        return all(
            wanted is None or value in wanted
            for wanted, value in (
                (self.message_ids, message.message_id),
                (self.queues, message.queue_name),
                (self.urls, message.url),
                (self.url_groups, message.topic_name),
                (self.schedules, message.schedule_id),
                (self.flow_keys, message.flow_control_key),
                (self.caller_ips, message.caller_ip),
            )
        ) and self._matches_parts(message)

    def _matches_parts(self, message: MessageView) -> bool:
        if self.labels is not None and self.labels.isdisjoint(message.labels):
            return False
        if self.hosts is None and self.paths is None:
            return True
        parts = urlsplit(message.url)
        return (self.hosts is None or parts.netloc.rpartition("@")[2] in self.hosts) and (
            self.paths is None or parts.path in self.paths
        )


EVERYTHING = MessageFilter()
