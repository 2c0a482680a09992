"""The use cases of URL groups: one name for several endpoints (contract 1.4, 2.5)."""

from __future__ import annotations

from collections.abc import Sequence

from qtasks.broker.config import BrokerConfig
from qtasks.broker.intake import Intake
from qtasks.broker.store import url_groups
from qtasks.broker.store.database import Database, Session
from qtasks.broker.store.url_groups import StoredGroup
from qtasks.clock import Clock
from qtasks.errors import BadRequest, NotFound, QuotaExceeded
from qtasks.protocol.destinations import check_group_name, is_hostlike, no_scheme
from qtasks.protocol.headers import parse_options
from qtasks.protocol.resources import Endpoint, UrlGroup


class UrlGroups:
    """Makes and changes URL groups. Safe to call from any thread."""

    def __init__(self, database: Database, config: BrokerConfig, clock: Clock, intake: Intake) -> None:
        self._database = database
        self._config = config
        self._clock = clock
        self._intake = intake

    def all(self) -> list[UrlGroup]:
        """List all groups by name."""
        return [each.view for each in self._database.look(url_groups.find_all)]

    def one(self, name: str) -> StoredGroup:
        """Give one group; raises `NotFound`."""
        return self._database.look(lambda session: _found(session, name))

    def destination(self, name: str) -> StoredGroup:
        """Give the group that a destination names; raises what `find_group` raises."""
        return self._database.look(lambda session: find_group(session, name))

    def add(self, name: str, endpoints: Sequence[Endpoint]) -> None:
        """Add endpoints, making the group if it is missing; one of a known name gets its new URL.

        Raises `BadRequest` and `QuotaExceeded`.
        """
        check_group_name(name)
        for each in endpoints:
            self._intake.check_destination(each.url, "endpoint")
        now = self._clock.now()

        def work(session: Session) -> None:
            group = url_groups.find(session, name)
            if group is None and url_groups.count(session) >= self._config.max_url_groups:
                raise QuotaExceeded(
                    f"quota maxUrlGroups exceeded, current limit: {self._config.max_url_groups}"
                )
            merged = _merged(group.view.endpoints if group else (), endpoints)
            if len(merged) > self._config.max_endpoints:
                raise QuotaExceeded(
                    f"quota maxEndpoints exceeded, current limit: {self._config.max_endpoints}"
                )
            url_groups.save(session, name, merged, group.headers if group else (), now)

        self._database.run(work)

    def remove(self, name: str, wanted: Sequence[tuple[str | None, str | None]]) -> None:
        """Remove endpoints by (url, name), both of which must match if both are given.

        Without its last endpoint a group is gone. Raises `NotFound`.
        """
        now = self._clock.now()

        def work(session: Session) -> None:
            group = _found(session, name)
            left = [each for each in group.view.endpoints if not any(_is_meant(each, one) for one in wanted)]
            url_groups.save(session, name, left, group.headers, now)

        self._database.run(work)

    def set_headers(self, name: str, headers: Sequence[tuple[str, str]]) -> None:
        """Set the default headers of a group; raises `NotFound`, and `BadRequest` for bad ones."""
        parse_options((), defaults=headers)
        now = self._clock.now()

        def work(session: Session) -> None:
            group = _found(session, name)
            url_groups.save(session, name, group.view.endpoints, tuple(headers), now)

        self._database.run(work)

    def delete(self, name: str) -> None:
        """Delete a group; no error if there is none (contract 2.5)."""
        self._database.run(lambda session: url_groups.delete(session, name))


def find_group(session: Session, name: str) -> StoredGroup:
    """Give the group that a destination names.

    Raises `NotFound`, or `BadRequest` for what was rather meant to be a URL.
    """
    try:
        return _found(session, name)
    except NotFound:
        if is_hostlike(name):
            raise BadRequest(no_scheme()) from None
        raise


def _found(session: Session, name: str) -> StoredGroup:
    group = url_groups.find(session, name)
    if group is None:
        raise NotFound(f"topic {name[:128]} not found")
    return group


def _merged(old: Sequence[Endpoint], new: Sequence[Endpoint]) -> list[Endpoint]:
    merged = list(old)
    for each in new:
        same = [at for at, one in enumerate(merged) if one.name == each.name]
        if each.name is not None and same:
            merged[same[0]] = each
        elif each.name is not None or all(one.url != each.url for one in merged):
            merged.append(each)
    return merged


def _is_meant(endpoint: Endpoint, wanted: tuple[str | None, str | None]) -> bool:
    url, name = wanted
    return (url is None or endpoint.url == url) and (name is None or endpoint.name == name)
