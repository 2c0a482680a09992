"""Settings and standbys with which PostgreSQL may lose what it has acknowledged: they are found and said."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.broker.store.postgres_checks import ASYNCHRONOUS, LOCAL_SYNC, NO_FSYNC, NO_SYNC, risks_of
from tests.support.postgres import Pair, Postgres, require_postgres

SAFE: dict[str, Any] = {"fsync": "on", "synchronous_commit": "on", "synchronous_names": "", "standbys": 0}
WITH_STANDBY = SAFE | {"synchronous_names": "*", "standbys": 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SAFE, ()),
        (WITH_STANDBY, ()),
        (WITH_STANDBY | {"synchronous_commit": "remote_apply"}, ()),
        (SAFE | {"synchronous_commit": "local"}, ()),  # there is nobody to wait for
        (SAFE | {"fsync": "off"}, (NO_FSYNC,)),
        (SAFE | {"synchronous_commit": "off"}, (NO_SYNC,)),
        (WITH_STANDBY | {"synchronous_commit": "local"}, (LOCAL_SYNC.format(value="local"),)),
        (WITH_STANDBY | {"synchronous_commit": "remote_write"}, (LOCAL_SYNC.format(value="remote_write"),)),
        (SAFE | {"standbys": 2}, (ASYNCHRONOUS,)),
        (
            SAFE | {"fsync": "off", "synchronous_commit": "off", "standbys": 1},
            (NO_FSYNC, NO_SYNC, ASYNCHRONOUS),
        ),
    ],
)
def test_only_what_may_lose_accepted_messages_is_a_risk(
    settings: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert risks_of(**settings) == expected


@pytest.mark.parametrize("risk", [NO_FSYNC, NO_SYNC, LOCAL_SYNC, ASYNCHRONOUS])
def test_a_risk_says_what_may_be_lost_and_what_to_do(risk: str) -> None:
    assert re.search(r"lose", risk)
    assert re.search(r"\. (Set|Name) ", risk)


def test_a_store_says_once_and_keeps_what_may_be_lost(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{postgres.new_store()}&options=-c%20synchronous_commit%3Doff"

    with caplog.at_level(logging.WARNING, logger="qtasks.store"), closing(PostgresDatabase(url)) as database:
        database.run(lambda session: session.announce())  # another connection, of the same server

    assert database.risks == (NO_FSYNC, NO_SYNC)  # the server of the tests is not synced
    said = [
        each.__dict__["risk"] for each in caplog.records if each.message == "what was accepted may be lost"
    ]
    assert said == [NO_FSYNC, NO_SYNC]


@pytest.fixture
def pair() -> Iterator[Pair]:
    require_postgres()
    found = Pair(names="")
    yield found
    found.drop()


@pytest.mark.process
def test_a_standby_that_nothing_waits_for_is_a_risk(pair: Pair) -> None:
    with closing(PostgresDatabase(pair.new_store())) as database:
        assert ASYNCHRONOUS in database.risks
