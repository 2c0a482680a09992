"""Each fire of a schedule makes its message once, whatever kills the broker (promise P15)."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.support import repeats
from tests.support.processes import APP_FOLDER, Processes

pytestmark = pytest.mark.process

SEED = 15
SPEED = 1200  # a minute of the schedule is 50 ms
MINUTE_MS = 60_000
SCRIPT = APP_FOLDER / "scheduler_under_test.py"


def test_no_kill_loses_or_doubles_a_fire(processes: Processes, tell: Callable[[object], None]) -> None:
    rng, kills = random.Random(SEED), repeats(100)
    origin_ms = time.time_ns() // 1_000_000
    for _ in range(kills + 1):
        life = processes.python(str(SCRIPT), str(processes.store), str(origin_ms), str(SPEED))
        life.expect("running")
        threading.Event().wait(rng.uniform(0.02, 0.5))
        life.kill()

    with closing(sqlite3.connect(processes.store)) as connection:
        made = Counter(row[0].decode() for row in connection.execute("SELECT body FROM messages"))
        rows = connection.execute("SELECT id, created_at, next_at, last_at, last_messages FROM schedules")
        schedules = {row[0]: row[1:] for row in rows}
        ids = {row[0] for row in connection.execute("SELECT id FROM messages")}

    fires = {
        name: (next_at - 1) // MINUTE_MS - created_at // MINUTE_MS
        for name, (created_at, next_at, _, _) in schedules.items()
    }
    tell(
        f"{kills} kills, {fires['all']} fires: {made['all']} made with `all`, {made['latest']} with `latest`"
    )
    assert made["all"] == fires["all"]  # each of them, once
    assert 0 < made["latest"] <= fires["latest"]
    for _, _, last_at, last_messages in schedules.values():
        assert last_at % MINUTE_MS == 0
        assert last_messages.decode().strip('[]"') in ids
