"""Calls by an outbox, with effects by an inbox, while the app is killed: each effect once (promise P25)."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from qtasks import QTasks
from tests.support import repeats
from tests.support.homes import embedded
from tests.support.postgres import Postgres
from tests.support.processes import Process, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SEED = 26
SCRIPT = Path(__file__).with_name("outbox_under_test.py")
KILLS = repeats(100)
CALLS = 40 * KILLS
"""Enough that there is work under way at each kill."""
DRAIN_S = 60.0


class Database:
    """An app's database, with outbox, inbox and effects."""

    def __init__(self, url: str, tasks: QTasks) -> None:
        self.url = url
        self.tasks = tasks
        with closing(self.opened()) as connection:
            tasks.outbox.create(connection)
            tasks.inbox.create(connection)
            connection.execute("CREATE TABLE effects (key TEXT)")
            connection.commit()

    def opened(self) -> Any:
        return sqlite3.connect(self.url[10:]) if self.url.startswith("sqlite") else psycopg.connect(self.url)

    def call(self, count: int) -> list[str]:
        """Call the task so often, in transactions of ten calls; every third of them is rolled back."""
        kept: list[str] = []
        with closing(self.opened()) as connection:
            for first in range(0, count, 10):
                keys = [f"key{number}" for number in range(first, min(first + 10, count))]
                with self.tasks.transaction(connection):
                    for key in keys:
                        self.tasks.send("charge", key)
                if first % 30 == 20:
                    connection.rollback()
                else:
                    connection.commit()
                    kept += keys
        return kept

    def all(self, query: str) -> list[Any]:
        with closing(self.opened()) as connection:
            return [row[0] for row in connection.execute(query).fetchall()]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, processes: Processes) -> Database:
    url = f"sqlite:///{processes.folder / 'app.db'}"
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        name = f"killed_{postgres.new_store().rpartition('=')[2]}"
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        url = postgres.url(name)
    return Database(url, embedded(processes.store, outbox=url, defaults={"retries": 90}))


def started(processes: Processes, database: Database, how: str) -> Process:
    return processes.python(str(SCRIPT), how, env={"QTASKS_OUTBOX": database.url})


def noted(processes: Processes, kind: str) -> Counter[str]:
    if not processes.ledger.exists():
        return Counter()
    lines = [line.split() for line in processes.ledger.read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == kind)


def is_at_work(processes: Processes, before: int, all_calls: int) -> bool:
    return noted(processes, "start").total() > before or len(noted(processes, "end")) == all_calls


def test_each_effect_happens_once_whatever_is_killed(
    processes: Processes, database: Database, tell: Callable[[object], None]
) -> None:
    chance = random.Random(SEED)
    kept = database.call(CALLS)

    for _ in range(KILLS):
        before = noted(processes, "start").total()
        victim = started(processes, database, "serve")
        victim.expect("serving")
        eventually(partial(is_at_work, processes, before, len(kept)), "work under way", of=[victim])
        time.sleep(chance.uniform(0, 0.1))
        victim.kill()
    last = started(processes, database, "serve")
    eventually(
        lambda: len(noted(processes, "end")) == len(kept),
        "an end of all work",
        within=DRAIN_S,
        of=[last],
    )

    starts = noted(processes, "start")
    tell(f"{KILLS} kills, {len(kept)} calls, {starts.total() - len(starts)} ran again")
    assert Counter(database.all("SELECT key FROM effects")) == Counter(kept)
    assert starts.total() > len(kept)
    eventually(lambda: database.all("SELECT id FROM qtasks_outbox") == [], "an empty outbox", of=[last])


def test_a_relay_killed_between_sending_and_deleting_makes_no_second_message(
    processes: Processes, database: Database
) -> None:
    kept = database.call(60)

    for _ in range(3):
        relay = started(processes, database, "relay")
        assert relay.wait() == -signal.SIGKILL
        assert len(database.all("SELECT id FROM qtasks_outbox")) == len(kept)
    with closing(sqlite3.connect(processes.store)) as stored:
        assert stored.execute("SELECT count(*) FROM messages").fetchone() == (len(kept),)

    serving = started(processes, database, "serve")
    eventually(lambda: len(noted(processes, "end")) == len(kept), "an end of all work", of=[serving])
    eventually(lambda: database.all("SELECT id FROM qtasks_outbox") == [], "an empty outbox", of=[serving])
    assert noted(processes, "start") == Counter(kept)
