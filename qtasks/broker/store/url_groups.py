"""URL groups in the store: a row each, as a group has a hundred endpoints at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from qtasks.broker.store.database import Row, Session
from qtasks.protocol.resources import Endpoint, UrlGroup

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A group with the headers that every message to it has by default."""

    view: UrlGroup
    headers: Headers = ()


def find(session: Session, name: str) -> StoredGroup | None:
    """Give the group of that name."""
    row = session.one("url_group_find", {"name": name})
    return None if row is None else _group(row)


def find_all(session: Session) -> list[StoredGroup]:
    """List all groups by name."""
    return [_group(row) for row in session.all("url_group_list", {})]


def _group(row: Row) -> StoredGroup:
    name, endpoints, headers, created_at, updated_at = row
    members = tuple(Endpoint(url, label) for url, label in orjson.loads(endpoints))
    view = UrlGroup(name=name, created_at=created_at, updated_at=updated_at, endpoints=members)
    return StoredGroup(view, tuple((key, value) for key, value in orjson.loads(headers)))


def save(session: Session, name: str, endpoints: Sequence[Endpoint], headers: Headers, now: int) -> None:
    """Make a group, or change it; one without endpoints is gone (contract 2.5)."""
    if not endpoints:
        delete(session, name)
        return
    packed = orjson.dumps([(each.url, each.name) for each in endpoints])
    row = {"name": name, "endpoints": packed, "headers": orjson.dumps(headers), "now": now}
    session.run("url_group_save", row)


def delete(session: Session, name: str) -> None:
    """Delete a group, if there is one."""
    session.run("url_group_delete", {"name": name})


def count(session: Session) -> int:
    """Say how many groups there are."""
    row = session.one("url_group_count", {})
    return row[0] if row else 0
