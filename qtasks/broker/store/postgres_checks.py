"""Finds what could lose messages that PostgreSQL has acknowledged: settings, and standbys that lag behind.

It only looks and says; whoever runs the broker decides (promises P01 and P21).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

NO_FSYNC = (
    "fsync is off: a crash of the machine may lose or damage all that the store holds. "
    "Set fsync = on in postgresql.conf"
)
NO_SYNC = (
    "synchronous_commit is off: a crash of the database loses what was accepted last. "
    "Set it to on, for the role or in postgresql.conf"
)
LOCAL_SYNC = (
    "synchronous_commit is {value}: a failover to the standby loses what was accepted last. "
    "Set it to on, for the role or in postgresql.conf"
)
ASYNCHRONOUS = (
    "a standby follows asynchronously, and commits wait for none: a failover to it loses what was accepted "
    "last. Name it in synchronous_standby_names"
)
WAITING = frozenset({"on", "remote_apply"})

# What replicates but is no standby has no state; whoever may not see the state of others sees NULL.
_LOOK = b"""
SELECT current_setting('fsync'), current_setting('synchronous_commit'),
       current_setting('synchronous_standby_names'),
       (SELECT count(*) FROM pg_stat_replication WHERE state IS NULL OR state IN ('streaming', 'catchup'))
"""


def find_risks(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Say, in sentences for whoever runs it, what could lose accepted messages; nothing if all is well."""
    row = connection.execute(_LOOK).fetchone()
    assert row is not None
    return risks_of(fsync=row[0], synchronous_commit=row[1], synchronous_names=row[2], standbys=row[3])


def risks_of(
    *, fsync: str, synchronous_commit: str, synchronous_names: str, standbys: int
) -> tuple[str, ...]:
    """Judge settings as PostgreSQL writes them; `standbys` is how many follow just now."""
    risks: list[str] = []
    if fsync == "off":
        risks.append(NO_FSYNC)
    if synchronous_commit == "off":
        risks.append(NO_SYNC)
    elif synchronous_names and synchronous_commit not in WAITING:
        risks.append(LOCAL_SYNC.format(value=synchronous_commit))
    if standbys and not synchronous_names:
        risks.append(ASYNCHRONOUS)
    return tuple(risks)
