"""Loads the SQL texts: every `-- name:` section of `sql/*.sql`, with the dialect's own beside it.

A text that serves both databases stands in `room.sql`; where they differ, `room.sqlite.sql` and
`room.postgres.sql` each define the same names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from qtasks.broker.store.database import Params

FOLDER = Path(__file__).parent / "sql"
MARK = "-- name:"
PARAMETER = re.compile(r"(?<!:):(\w+)")


@cache
def load_queries(dialect: str, folder: Path = FOLDER) -> dict[str, str]:
    """Give the texts of a dialect, `sqlite` or `postgres`, by name; by default those of the broker."""
    queries: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        kind = path.name.split(".")[1]
        if kind in ("sql", dialect):
            queries.update(_sections(path.read_text(encoding="utf-8")))
    return queries


@cache
def by_position(text: str) -> tuple[str, Callable[[Params], tuple[Any, ...]]]:
    """Give a text whose parameters go by position, and what brings named ones into their order.

    SQLite's binding looks up each name anew for each row, which costs as much as storing it.

    >>> text, values = by_position("UPDATE t SET a = :a WHERE b = :b AND a < :a")
    >>> text, values({"b": 2, "a": 1})
    ('UPDATE t SET a = ? WHERE b = ? AND a < ?', (1, 2, 1))
    """
    names = PARAMETER.findall(text)
    pick: Callable[[Params], Any] = itemgetter(*names)
    return PARAMETER.sub("?", text), pick if len(names) > 1 else lambda row: (pick(row),)


@cache
def load_migrations(dialect: str) -> tuple[tuple[int, str], ...]:
    """Give the numbered migrations of a dialect, in order."""
    paths = sorted((FOLDER / "migrations").glob(f"*.{dialect}.sql"))
    return tuple(
        (int(path.name.split(".")[0].split("_")[0]), path.read_text(encoding="utf-8")) for path in paths
    )


def _sections(text: str) -> dict[str, str]:
    """Split a file at its marks; comments are kept out of what the database sees."""
    found: dict[str, str] = {}
    for section in text.split(MARK)[1:]:
        name, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if not line.lstrip().startswith("--")]
        found[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return found
