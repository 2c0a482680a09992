"""Brokers that share one PostgreSQL: killed, stopped and continued, cut off from it, and all at once.

What the ledger of the destination shows is compared with what the brokers know.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest

from tests.faults.test_kills_standalone import sender
from tests.faults.test_process_cancel import noted
from tests.support import repeats
from tests.support.ledger import DONE, Ledger, Start, balance, read_ledger
from tests.support.load import Load
from tests.support.postgres import Postgres, drop_postgres, new_postgres
from tests.support.processes import NODE_ENV, AppProcess, NodeProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SEED = 25
WORK_S = 0.03
DRAIN_S = 60.0
TAKEOVER_S = 10.0
WIDE = {"Qtasks_Queue": "parallelism=16; ordered=false"}


@pytest.fixture
def store(postgres: Postgres) -> str:
    return postgres.new_store()


def idle(node: NodeProcess) -> bool:
    with node.api() as api:
        return api.lag() == 0


def has_started(ledger: Ledger, count: int) -> bool:
    return len(ledger) >= count


def most_at_once(starts: list[Start]) -> int:
    """Say how many executions overlapped at most, as the destination saw it."""
    ends = [(each.ended_at, -1) for each in starts if each.ended_at is not None]
    turns = sorted([*((each.started_at, 1) for each in starts), *ends])
    inside = most = 0
    for _, step in turns:
        inside += step
        most = max(most, inside)
    return most


def test_messages_are_shared_and_each_is_delivered_once(
    processes: Processes, receiver: Receiver, store: str
) -> None:
    nodes = [processes.node(store) for _ in range(3)]
    receiver.work_s = WORK_S
    turn = iter(range(10**9))
    send = sender(lambda: nodes[next(turn) % 3], receiver, "work", **WIDE)

    with Load(send, "load") as load:
        load.await_accepted(400)
    eventually(partial(idle, nodes[0]), "an end of all work", within=DRAIN_S, of=[*nodes, receiver.ledger])

    starts = receiver.ledger.starts
    done = sorted(each.key for each in starts if each.status == DONE)
    assert done == sorted(load.accepted)
    assert balance(load.accepted, starts, dead=(), stuck=0, interrupted={}, kills=0).faults == []
    assert most_at_once(starts) <= 16


def test_a_queue_of_one_keeps_its_order_over_nodes_and_kills(
    processes: Processes, receiver: Receiver, store: str
) -> None:
    nodes = [processes.node(store) for _ in range(2)]
    send = sender(lambda: nodes[0], receiver, "line", Qtasks_Queue="parallelism=1; ordered=true")

    with nodes[0].api() as api:
        for number in range(60):
            send(api.http, f"{number:03d}").raise_for_status()
    eventually(lambda: len(receiver.ledger) >= 20, "some starts", of=[*nodes, receiver.ledger])
    nodes[1].kill()
    eventually(partial(idle, nodes[0]), "an end of all work", within=DRAIN_S, of=[*nodes, receiver.ledger])

    done = [each.key for each in receiver.ledger.starts if each.status == DONE]
    first = list(dict.fromkeys(done))
    assert first == sorted(first)
    assert len(first) == 60
    assert most_at_once(receiver.ledger.starts) == 1


def test_what_a_dead_node_had_in_flight_is_taken_over_in_ten_seconds(
    processes: Processes, receiver: Receiver, store: str, tell: Callable[[object], None]
) -> None:
    receiver.work_s = 60.0  # longer than the test
    victim = processes.node(store)
    send = sender(lambda: victim, receiver, "work", **WIDE)
    with victim.api() as api:
        for number in range(5):
            send(api.http, f"key{number}")
    eventually(lambda: len(receiver.ledger) == 5, "five starts", of=[victim, receiver.ledger])
    other = processes.node(store)

    receiver.work_s = 0.0
    victim.kill()
    killed_at = time.monotonic()
    eventually(
        lambda: len(receiver.ledger) == 10, "five starts again", within=20, of=[other, receiver.ledger]
    )
    took_s = time.monotonic() - killed_at

    tell(f"taken over {took_s:.1f} s after the kill")
    assert took_s <= TAKEOVER_S


def test_a_node_that_was_stopped_changes_nothing_that_it_no_longer_owns(
    processes: Processes, receiver: Receiver, store: str
) -> None:
    receiver.work_s = 2.0
    sleeper = processes.node(store)
    send = sender(lambda: sleeper, receiver, "work", **WIDE)
    with sleeper.api() as api:
        for number in range(8):
            send(api.http, f"key{number}")
    eventually(lambda: len(receiver.ledger) == 8, "eight starts", of=[sleeper, receiver.ledger])
    other = processes.node(store)

    sleeper.send(signal.SIGSTOP)
    receiver.work_s = 0.0
    eventually(lambda: len(receiver.ledger) == 16, "the starts of the takeover", within=20, of=[other])
    eventually(partial(idle, other), "an end of all work", of=[other, receiver.ledger])
    with other.api() as api:
        before = api.http.get("/v2/logs", params={"count": "1000"}).json()["logs"]
    sleeper.send(signal.SIGCONT)
    eventually(partial(idle, sleeper), "an answer of the one that was stopped", of=[sleeper])
    time.sleep(2)
    with other.api() as api:
        after = api.http.get("/v2/logs", params={"count": "1000"}).json()["logs"]
        dead = api.dead()

    assert dead == []
    delivered = [
        [each["messageId"] for each in logs if each["state"] == "DELIVERED"] for logs in (before, after)
    ]
    assert sorted(delivered[0]) == sorted(delivered[1])
    assert len(set(delivered[1])) == 8


def test_no_kill_of_a_node_loses_or_doubles_a_message(
    processes: Processes, receiver: Receiver, store: str, tell: Callable[[object], None]
) -> None:
    rng, kills = random.Random(SEED), repeats(100)
    ledger, receiver.work_s = receiver.ledger, WORK_S
    nodes = [processes.node(store) for _ in range(2)]
    turn = iter(range(10**9))
    send = sender(lambda: nodes[next(turn) % 2], receiver, "work", **WIDE)

    with Load(send, "during") as during:
        for _ in range(kills):
            goal = len(ledger) + rng.randrange(60)
            eventually(partial(has_started, ledger, goal), f"{goal} starts", of=[*nodes, ledger, during])
            victim = rng.randrange(2)
            nodes[victim].kill()
            nodes[victim] = processes.node(store)
    # What is accepted faster than it is delivered piles up, the more of it the longer this goes on.
    drain_s = DRAIN_S * max(1, kills / 20)
    eventually(partial(idle, nodes[0]), "an end of all work", within=drain_s, of=[*nodes, ledger, during])

    with nodes[0].api() as api:
        dead, stuck, interrupted = api.dead(), api.lag(), api.interrupted()
    found = balance(
        during.accepted, ledger.starts, dead=dead, stuck=stuck, interrupted=interrupted, kills=kills
    )
    tell(str(found))
    assert found.faults == []
    assert most_at_once(ledger.starts) <= 16 + kills * 16


@pytest.fixture
def mortal() -> Iterator[Postgres]:
    """A server of this test's own, which it may kill; synced, as what it has committed must come back."""
    server = new_postgres(fsync="on")
    yield server
    drop_postgres(server)


def test_a_database_that_dies_and_comes_back_loses_nothing(
    processes: Processes, receiver: Receiver, mortal: Postgres, tell: Callable[[object], None]
) -> None:
    store = mortal.new_store()
    nodes = [processes.node(store) for _ in range(2)]
    ledger, receiver.work_s = receiver.ledger, WORK_S
    turn = iter(range(10**9))
    send = sender(lambda: nodes[next(turn) % 2], receiver, "work", **WIDE)

    with Load(send, "during") as during:
        for _ in range(repeats(20)):
            goal = len(ledger) + 40
            eventually(partial(has_started, ledger, goal), f"{goal} starts", of=[*nodes, ledger, during])
            mortal.kill()
            mortal.start()
    eventually(partial(idle, nodes[0]), "an end of all work", within=DRAIN_S, of=[*nodes, ledger, during])

    done = {each.key for each in ledger.starts if each.status == DONE}
    with nodes[0].api() as api:
        dead = set(api.dead())
    tell(f"{len(during.accepted)} accepted, {len(done)} delivered, {len(dead)} dead, {len(ledger)} starts")
    assert set(during.accepted) <= done | dead
    assert all(node.is_running for node in nodes)


def test_a_session_that_the_server_ends_is_replaced(
    processes: Processes, receiver: Receiver, store: str, postgres: Postgres
) -> None:
    import psycopg

    node = processes.node(store)
    send = sender(lambda: node, receiver, "work", **WIDE)
    ending = threading.Event()

    def end_sessions() -> None:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            while not ending.wait(0.5):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'qtasks' AND pid <> pg_backend_pid()"
                )

    enemy = threading.Thread(target=end_sessions)
    enemy.start()
    try:
        with Load(send, "load") as load:
            load.await_accepted(100)
    finally:
        ending.set()
        enemy.join()

    def is_idle() -> bool:
        with suppress(AssertionError):  # 503, as long as sessions are met that were ended
            return idle(node)
        return False

    eventually(is_idle, "an end of all work", within=DRAIN_S, of=[node, receiver.ledger])

    done = {each.key for each in receiver.ledger.starts if each.status == DONE}
    assert set(load.accepted) == done
    assert all(earlier.started_at <= later.started_at for earlier, later in pairwise(receiver.ledger.starts))


def test_every_worker_of_an_app_runs_tasks_and_each_task_runs_once(processes: Processes, store: str) -> None:
    app = processes.app("--workers", "2", env={"QTASKS_BROKER": store, **NODE_ENV})
    app.expect("runs tasks as a node of", count=2)

    keys = [f"key{number}" for number in range(60)]
    for key in keys:
        app.delay("count", key)
    starts = await_done(processes, set(keys), app)

    assert sorted(each.key for each in starts) == sorted(keys)
    assert len({each.by for each in starts}) == 2


def test_apps_that_are_restarted_one_after_the_other_lose_nothing(processes: Processes, store: str) -> None:
    env = {"QTASKS_BROKER": store, **NODE_ENV}
    apps = [processes.app(env=env) for _ in range(2)]
    keys: list[str] = []

    def call(app: AppProcess, count: int) -> None:
        for _ in range(count):
            keys.append(f"key{len(keys)}")
            app.delay("count", keys[-1])

    for turn in range(4):
        call(apps[turn % 2], 20)
        apps[(turn + 1) % 2].terminate()
        call(apps[turn % 2], 20)
        apps[(turn + 1) % 2].wait()  # uvicorn ends by the signal itself, once all is let go of
        apps[(turn + 1) % 2] = processes.app(env=env)
    starts = await_done(processes, set(keys), *apps)

    assert sorted(each.key for each in starts) == sorted(keys)


def test_a_task_is_called_off_by_another_process_than_it_runs_in(processes: Processes, store: str) -> None:
    env = {"QTASKS_BROKER": store, **NODE_ENV}
    app = processes.app(env=env)
    app.delay("told", "k1")
    noted(processes, app, "start")

    code = "import app_under_test as app; print('called off', app.tasks.cancel(task='told'))"
    script = processes.python("-c", code, env=env)

    assert script.expect(r"called off (\d+)")[0][1] == "1"
    noted(processes, app, "cancelled")


def await_done(processes: Processes, keys: set[str], *apps: AppProcess) -> list[Start]:
    """Wait until all keys are done; give all starts."""

    def finished() -> list[Start] | None:
        starts = read_ledger(processes.ledger)
        return starts if keys <= {each.key for each in starts if each.status == DONE} else None

    return eventually(finished, f"{len(keys)} tasks done", within=DRAIN_S, of=[*apps])
