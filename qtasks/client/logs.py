"""Asking for the log of what befell messages (contract 2.9)."""

from __future__ import annotations

from dataclasses import replace

from qtasks.client.call import Call, Page, read_page
from qtasks.client.filters import ANYTHING, Filter
from qtasks.protocol.shapes import LogEntry

MOST = 1000
"""Of entries on a page."""


def log(
    wanted: Filter = ANYTHING,
    *,
    message_id: str | None = None,
    state: str | None = None,
    cursor: str | None = None,
    count: int = MOST,
    trim_bytes: int | None = None,
) -> Call[Page[LogEntry]]:
    """Ask for a page of the log, newest first; `trim_bytes` cuts bodies off, -1 leaves them out.

    `message_id` and `state` stand for a filter with just these.
    """
    return Call("GET", f"/v2/events{_query(wanted, message_id, state, cursor, count, trim_bytes)}", _EVENTS)


def short_log(
    wanted: Filter = ANYTHING, *, cursor: str | None = None, count: int = 100, trim_bytes: int | None = None
) -> Call[Page[LogEntry]]:
    """Ask for a page of the log by the operation of QStash's specification: at most 100 entries."""
    query = _query(wanted, None, None, cursor, count, trim_bytes)
    return Call("GET", f"/v2/logs{query}", read_page("logs", LogEntry.from_json))


_EVENTS = read_page("events", LogEntry.from_json)


def _query(
    wanted: Filter,
    message_id: str | None,
    state: str | None,
    cursor: str | None,
    count: int,
    trim_bytes: int | None,
) -> str:
    if message_id is not None:
        wanted = replace(wanted, message_ids=(*wanted.message_ids, message_id))
    if state is not None:
        wanted = replace(wanted, states=(*wanted.states, state))
    return wanted.query(cursor=cursor, count=count, trimBody=trim_bytes)
