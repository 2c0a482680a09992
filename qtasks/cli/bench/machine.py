"""What the machine itself does: the pace of its disk, its memory, and the time that its host takes away."""

from __future__ import annotations

import resource
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtasks.clock import stopwatch_ns
from qtasks.sql_texts import PARAMETER, load_texts

if TYPE_CHECKING:
    from qtasks.broker.store.postgres_links import Place

RAW_COMMITS = 1000
BODY = b"x" * 64
SQL = Path(__file__).parent / "sql"
COUNTERS = Path("/proc/stat")


def cpu_times() -> list[int]:
    """Read the machine's CPU counters, of which the eighth is stolen time; none where there are none."""
    if not COUNTERS.exists():
        return []
    return [int(each) for each in COUNTERS.read_text().splitlines()[0].split()[1:]]


def peak_memory_mib() -> float:
    """Say how much memory this process has had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def seconds_since(began_at: int) -> float:
    """Say how much time has passed since an instant of the stopwatch."""
    return (stopwatch_ns() - began_at) / 1e9


def file_pace(folder: Path, durability: str = "full", count: int = RAW_COMMITS) -> float:
    """Commit single rows to a new SQLite file, as durably as the broker would: the pace that a disk sets."""
    texts = load_texts("sqlite", SQL)
    connection = sqlite3.connect(folder / f"raw-{stopwatch_ns()}.db", isolation_level=None)
    try:
        for each in ("raw_log", f"raw_{durability}", "raw_table"):
            connection.execute(texts[each])
        began_at = stopwatch_ns()
        for _ in range(count):
            connection.execute(texts["raw_begin"])
            connection.execute(texts["raw_row"], {"body": BODY})
            connection.execute(texts["raw_commit"])
        return count / seconds_since(began_at)
    finally:
        connection.close()


def server_pace(place: Place, count: int = RAW_COMMITS) -> float:
    """Commit single rows by PostgreSQL's driver alone, in a schema that a store has been made in."""
    with _link(place) as connection:
        connection.execute(_text("raw_table"))
        row = _text("raw_row")
        began_at = stopwatch_ns()
        for _ in range(count):
            connection.execute(row, {"body": BODY})
        return count / seconds_since(began_at)


def server_durability(place: Place) -> str:
    """Say how durable commits of a PostgreSQL are, in its own words."""
    with _link(place) as connection:
        row = connection.execute(_text("durability")).fetchone()
    assert row is not None
    return f"fsync={row[0]}, synchronous_commit={row[1]}"


def drop_schema(place: Place) -> None:
    """Remove a schema with all that is in it."""
    with _link(place) as connection:
        connection.execute(_text("drop_schema").replace(b"{schema}", place.schema.encode()))


def _link(place: Place) -> Any:
    from qtasks.broker.store.postgres_links import link

    connection = link(place)
    connection.execute(place.settings)
    return connection


def _text(name: str) -> bytes:
    return PARAMETER.sub(r"%(\1)s", load_texts("postgres", SQL)[name]).encode()
