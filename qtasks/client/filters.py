"""`Filter`: which messages, log entries or dead letters an operation is about (contract 2.4, 2.8, 2.9)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import urlencode

from qtasks.errors import InvalidValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What must hold of them: several values of one filter are alternatives, filters must all match.

    `since` and `until` are Unix milliseconds, both inclusive. Ids go before all other filters. Operations
    on many refuse a filter in which nothing is set, as it would mean all there are: say `EVERYTHING` then.
    """

    message_ids: tuple[str, ...] = ()
    dlq_ids: tuple[str, ...] = ()
    """Of dead letters only."""
    queues: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    url_groups: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    flow_keys: tuple[str, ...] = ()
    caller_ips: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    """Names of tasks; of what is called off only, and our own."""
    states: tuple[str, ...] = ()
    """Of log entries only."""
    statuses: tuple[int, ...] = ()
    """Of the last answer to a dead letter, and of these only."""
    since: int | None = None
    until: int | None = None
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set, not even that all are meant."""
        return self == ANYTHING

    def pairs(self) -> list[tuple[str, str]]:
        """Give the pairs of a query."""
        found: list[tuple[str, str]] = []
        for each in fields(self):
            if each.name == "everything":
                continue
            value = getattr(self, each.name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(one == "" for one in values):
                raise InvalidValue(f"a filter by {each.name} has an empty value, which would match anything")
            found.extend((NAMES[each.name], str(one)) for one in values)
        return found

    def query(self, **more: str | int | None) -> str:
        """Write the query that asks for what matches."""
        pairs = self.pairs() + [(name, str(value)) for name, value in more.items() if value is not None]
        return f"?{urlencode(pairs)}" if pairs else ""

    def bulk_query(self, **more: str | int | None) -> str:
        """Write the query of an operation on all that match; raises `InvalidValue` if nothing is set."""
        if self.is_empty:
            raise InvalidValue("a filter without any condition would match everything; say EVERYTHING")
        return self.query(**more)


ANYTHING = Filter()
EVERYTHING = Filter(everything=True)

NAMES = {
    "message_ids": "messageIds",
    "dlq_ids": "dlqIds",
    "queues": "queueName",
    "urls": "url",
    "hosts": "host",
    "paths": "path",
    "labels": "label",
    "url_groups": "topicName",
    "schedules": "scheduleId",
    "flow_keys": "flowControlKey",
    "caller_ips": "callerIp",
    "tasks": "task",
    "states": "state",
    "statuses": "responseStatus",
    "since": "fromDate",
    "until": "toDate",
}
