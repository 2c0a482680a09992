"""What SQLite is given is stored as it is, and at no cost to others who use it in the same process."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from qtasks.broker.store.binding import bind_as_is

OWN_ADAPTER = """
import sqlite3
sqlite3.register_adapter(bytes, lambda value: b"mine: " + value)
from qtasks.broker.store.binding import bind_as_is
bind_as_is()
[found] = sqlite3.connect(":memory:").execute("SELECT ?", (b"x",)).fetchone()
assert found == b"mine: x", found
"""


class Conforming:
    """A value that says itself how it is stored."""

    def __conform__(self, protocol: object) -> str:
        return "conforms"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    bind_as_is()
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


@pytest.mark.parametrize("value", [None, b"", b"\0\xff", "text", 1, 1.5], ids=repr)
def test_a_value_comes_back_as_it_was(connection: sqlite3.Connection, value: object) -> None:
    [found] = connection.execute("SELECT ?", (value,)).fetchone()

    assert (type(found), found) == (type(value), value)


def test_other_types_are_adapted_as_ever(connection: sqlite3.Connection) -> None:
    assert connection.execute("SELECT ?", (Conforming(),)).fetchone() == ("conforms",)
    with pytest.raises(sqlite3.ProgrammingError, match="type 'object' is not supported"):
        connection.execute("SELECT ?", (object(),))


def test_what_a_process_adapts_itself_it_goes_on_adapting() -> None:
    subprocess.run([sys.executable, "-c", OWN_ADAPTER], check=True, timeout=60)
