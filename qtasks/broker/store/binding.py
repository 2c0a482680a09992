"""Spares SQLite's driver a vain search for each value that it binds.

`sqlite3` asks of every `None` and every `bytes` whether something adapts them to a database. That nothing
does takes three times as long as to bind the value, and a message has ten of them. An adapter that gives
what it is given ends the search.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache

VALUES = (None, b"bytes")


@cache
def bind_as_is() -> None:
    """Have `None` and `bytes` bound as they are, unless this process adapts them otherwise already.

    Adapters are those of the whole process: for all others who use `sqlite3` nothing changes but the time.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        if connection.execute("SELECT ?, ?", VALUES).fetchone() == VALUES:
            sqlite3.register_adapter(type(None), {None: None}.get)
            sqlite3.register_adapter(bytes, bytes.__bytes__)
