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
INTERVALS_MS = {"all": MINUTE_MS, "latest": MINUTE_MS, "interval": 45_000}
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
        ticks = Counter(row[0] for row in connection.execute("SELECT extras FROM messages"))

    fires = {
        name: (next_at - 1) // INTERVALS_MS[name] - created_at // INTERVALS_MS[name]
        for name, (created_at, next_at, _, _) in schedules.items()
    }
    counts = ", ".join(f"{made[name]} of {fires[name]} `{name}`" for name in sorted(fires))
    tell(f"{kills} kills, fires made: {counts}")
    assert made["all"] == fires["all"]  # each of them, once
    assert made["interval"] == fires["interval"]
    assert 0 < made["latest"] <= fires["latest"]
    assert set(ticks.values()) == {1}  # a message knows its schedule and its instant, and no two are equal
    for name, (_, _, last_at, last_messages) in schedules.items():
        assert last_at % INTERVALS_MS[name] == 0
        assert last_messages.decode().strip('[]"') in ids
