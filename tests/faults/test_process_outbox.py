"""Calls by an outbox, with effects by an inbox, while the app is killed: each effect once (promise P25)."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from qtasks import QTasks, Settings
from tests.support import BATCH, repeats
from tests.support.homes import SECRET, embedded
from tests.support.postgres import Postgres
from tests.support.processes import Process, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SEED = 26
SCRIPT = Path(__file__).with_name("outbox_under_test.py")
KILLS = repeats(100)
CALLS_PER_KILL = 40
"""Enough that there is work under way at each kill."""
DRAIN_S = 60.0


class Database:
    """An app's database, with outbox, inbox and effects. `env` is what its processes are told."""

    def __init__(self, url: str, tasks: QTasks, outbox: str, env: Mapping[str, str]) -> None:
        self.url = url
        self.tasks = tasks
        self.outbox = outbox
        self.env = {"QTASKS_TEST_DATABASE": url, **env}
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

    @property
    def is_empty(self) -> bool:
        """Whether all that was left has gone out."""
        return not self.all(f"SELECT id FROM {self.outbox}")


def new_database(postgres: Postgres, kind: str) -> str:
    name = f"{kind}_{postgres.new_store().rpartition('=')[2]}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres.url(name)


def beside(processes: Processes, url: str) -> Database:
    """Give a database with an outbox of the app's; the broker is on a file."""
    tasks = embedded(processes.store, outbox=url, defaults={"retries": 90})
    return Database(url, tasks, "qtasks_outbox", {"QTASKS_OUTBOX": url})


@pytest.fixture
def on_sqlite(processes: Processes) -> Database:
    return beside(processes, f"sqlite:///{processes.folder / 'app.db'}")


@pytest.fixture
def on_postgres(processes: Processes, postgres: Postgres) -> Database:
    return beside(processes, new_database(postgres, "beside"))


@pytest.fixture
def with_the_broker(processes: Processes, postgres: Postgres) -> Iterator[Database]:
    """A database that the broker's tables are in as well."""
    url = new_database(postgres, "shared")
    tasks = QTasks(settings=Settings(broker=url, secrets=(SECRET,), batch=BATCH), defaults={"retries": 90})
    yield Database(url, tasks, "qtasks.outbox", {"QTASKS_BROKER": url, "QTASKS_SECRET": SECRET})
    asyncio.run(tasks._home.stop())


def started(processes: Processes, database: Database, how: str) -> Process:
    return processes.python(str(SCRIPT), how, env=database.env)


def noted(processes: Processes, kind: str) -> Counter[str]:
    if not processes.ledger.exists():
        return Counter()
    lines = [line.split() for line in processes.ledger.read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == kind)


def is_at_work(processes: Processes, before: int, all_calls: int) -> bool:
    return noted(processes, "start").total() > before or len(noted(processes, "end")) == all_calls


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("on_sqlite", KILLS),
        ("on_postgres", KILLS),
        ("with_the_broker", 1 + KILLS // 10),  # what a dead node had in flight is taken over after 7 s
    ],
)
def test_each_effect_happens_once_whatever_is_killed(
    processes: Processes,
    kind: str,
    kills: int,
    request: pytest.FixtureRequest,
    tell: Callable[[object], None],
) -> None:
    database: Database = request.getfixturevalue(kind)
    chance = random.Random(SEED)
    kept = database.call(CALLS_PER_KILL * kills)

    for _ in range(kills):
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
        within=DRAIN_S * max(1, kills / 20),
        of=[last],
    )

    starts = noted(processes, "start")
    tell(f"{kills} kills, {len(kept)} calls, {starts.total() - len(starts)} ran again")
    assert Counter(database.all("SELECT key FROM effects")) == Counter(kept)
    assert starts.total() > len(kept)
    eventually(lambda: database.is_empty, "an empty outbox", of=[last])


@pytest.mark.parametrize("kind", ["on_sqlite", "on_postgres"])
def test_a_relay_killed_between_sending_and_deleting_makes_no_second_message(
    processes: Processes, kind: str, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(kind)
    kept = database.call(60)

    for _ in range(3):
        relay = started(processes, database, "relay")
        assert relay.wait() == -signal.SIGKILL
        assert len(database.all("SELECT id FROM qtasks_outbox")) == len(kept)
    with closing(sqlite3.connect(processes.store)) as stored:
        assert stored.execute("SELECT count(*) FROM messages").fetchone() == (len(kept),)

    serving = started(processes, database, "serve")
    eventually(lambda: len(noted(processes, "end")) == len(kept), "an end of all work", of=[serving])
    eventually(lambda: database.is_empty, "an empty outbox", of=[serving])
    assert noted(processes, "start") == Counter(kept)
