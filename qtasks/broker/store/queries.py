"""The SQL texts of the broker, and its migrations. How texts are kept in files stands in `sql_texts.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from qtasks.broker.store.database import Params
from qtasks.sql_texts import PARAMETER, load_texts

FOLDER = Path(__file__).parent / "sql"


def load_queries(dialect: str, folder: Path = FOLDER) -> dict[str, str]:
    """Give the texts of a dialect, `sqlite` or `postgres`, by name; by default those of the broker."""
    return load_texts(dialect, folder)


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
def statements(text: str) -> tuple[str, ...]:
    """Split a text into its statements, of which SQLite takes one at a time."""
    return tuple(each.strip() for each in text.split(";"))


_ALTERS = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) queues\b|\bDELETE FROM messages\b")


@cache
def altering(queries: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Give the names of texts that change queues or drop messages.

    >>> altering((("a", "UPDATE queues SET turn = 1"), ("b", "SELECT turn FROM queues")))
    frozenset({'a'})
    """
    return frozenset(name for name, text in queries if _ALTERS.search(text))


ROWS_AT_ONCE = (256, 64, 16, 4)
"""How many rows one statement takes: few sizes, as each is prepared once. SQLite has parameters for 256."""
_VALUES = re.compile(r"VALUES \(([^()]*)\)")


@cache
def by_rows(text: str, count: int) -> tuple[str, Callable[[Params], tuple[Any, ...]]] | None:
    """Give a text that takes `count` rows, one behind the other; None for one without VALUES.

    >>> text, values = by_rows("INSERT INTO t (a) VALUES (:a) ON CONFLICT DO NOTHING", 2)
    >>> text
    'INSERT INTO t (a) VALUES (?), (?) ON CONFLICT DO NOTHING'
    """
    if _VALUES.search(text) is None:
        return None
    positional, values = by_position(text)
    return _VALUES.sub(lambda found: f"VALUES {', '.join([f'({found[1]})'] * count)}", positional), values


@cache
def load_migrations(dialect: str) -> tuple[tuple[int, str], ...]:
    """Give the numbered migrations of a dialect, in order."""
    paths = sorted((FOLDER / "migrations").glob(f"*.{dialect}.sql"))
    return tuple(
        (int(path.name.split(".")[0].split("_")[0]), path.read_text(encoding="utf-8")) for path in paths
    )
