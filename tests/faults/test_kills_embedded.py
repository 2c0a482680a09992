"""The kill programme of the embedded broker: the app that hosts it is killed under load."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.support import repeats
from tests.support.ledger import DONE, Start, balance, read_ledger
from tests.support.load import Load
from tests.support.processes import AppProcess, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SEED = 21
PHASE = 100
MOST_BETWEEN = 60
WAYS = ("delay/count", "delay-in-loop/count", "delay/count_in_thread")


def is_settled(app: AppProcess) -> bool:
    with app.broker_api() as api:
        return api.lag() == 0


def test_no_kill_of_the_app_loses_or_doubles_a_task(
    processes: Processes, tell: Callable[[object], None]
) -> None:
    rng, kills = random.Random(SEED), repeats(20)
    app = processes.app()

    def send(http: httpx.Client, key: str) -> httpx.Response:
        return http.post(f"{app.url}/{WAYS[int(key[6:]) % len(WAYS)]}/{key}")

    def starts() -> list[Start]:
        return read_ledger(processes.ledger)

    def has_started(count: int) -> bool:
        return len(starts()) >= count

    with Load(send, "before") as before:
        before.await_accepted(PHASE)
    eventually(lambda: is_settled(app), "an end of all work", of=[app])
    with Load(send, "during") as during:
        for _ in range(kills):
            goal = len(starts()) + rng.randrange(MOST_BETWEEN)
            eventually(partial(has_started, goal), f"{goal} starts", of=[app, during])
            app.kill()
            app = processes.app()
    with Load(send, "after_") as after:
        after.await_accepted(PHASE)
    eventually(lambda: is_settled(app), "an end of all work", of=[app, during])

    accepted = before.accepted | during.accepted | after.accepted
    with app.broker_api() as api:
        dead, stuck, interrupted = api.dead(), api.lag(), api.interrupted()
    found = balance(accepted, starts(), dead=dead, stuck=stuck, interrupted=interrupted, kills=kills)
    tell(found)
    assert found.faults == []
    quiet = [each.key for each in starts() if not each.key.startswith("during")]
    assert sorted(quiet) == sorted([*before.accepted, *after.accepted])
    assert all(each.status == DONE for each in starts() if not each.key.startswith("during"))
