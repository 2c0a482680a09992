"""Nodes whose way to PostgreSQL is cut, silent or slow: taken over, back by themselves, nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from qtasks.broker.store.database import Session
from qtasks.broker.store.postgres import PostgresDatabase
from qtasks.errors import StoreBusy, StoreUnreachable
from tests.faults.test_kills_standalone import sender
from tests.support.ledger import DONE
from tests.support.load import Load
from tests.support.postgres import Postgres
from tests.support.processes import NodeProcess, Processes
from tests.support.proxy import Proxy
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

WIDE = {"Qtasks_Queue": "parallelism=16; ordered=false"}
TAKEOVER_S = 10.0
DRAIN_S = 60.0


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres.port) as running:
        yield running


@pytest.fixture
def store(postgres: Postgres) -> str:
    return postgres.new_store()


def by_way_of(proxy: Proxy, postgres: Postgres, store: str) -> str:
    return store.replace(f":{postgres.port}/", f":{proxy.port}/")


def has_started(receiver: Receiver, count: int) -> bool:
    return len(receiver.ledger) >= count


def idle(node: NodeProcess) -> bool:
    with node.api() as api:
        return api.lag() == 0


def test_a_node_that_is_cut_off_is_taken_over_and_comes_back_by_itself(
    processes: Processes,
    receiver: Receiver,
    postgres: Postgres,
    store: str,
    proxy: Proxy,
    tell: Callable[[object], None],
) -> None:
    receiver.work_s = 60.0  # longer than the test
    far = processes.node(by_way_of(proxy, postgres, store))
    send = sender(lambda: far, receiver, "work", **WIDE)
    with far.api() as api:
        for number in range(5):
            send(api.http, f"key{number}").raise_for_status()
    eventually(lambda: len(receiver.ledger) == 5, "five starts", of=[far, receiver.ledger])
    near = processes.node(store)

    receiver.work_s = 0.0
    proxy.cut()
    cut_at = time.monotonic()
    eventually(lambda: len(receiver.ledger) == 10, "five starts again", within=20, of=[near, receiver.ledger])
    took_s = time.monotonic() - cut_at
    eventually(partial(idle, near), "an end of all work", of=[near, receiver.ledger])
    proxy.mend()
    with far.api() as api:
        eventually(lambda: send(api.http, "after").is_success, "an acceptance by the one that was cut off")
    near.terminate()
    with far.api() as api:
        eventually(lambda: send(api.http, "alone").is_success, "another acceptance")
    eventually(partial(idle, far), "an end of all work", within=DRAIN_S, of=[far, receiver.ledger])

    tell(f"taken over {took_s:.1f} s after the cut")
    assert took_s <= TAKEOVER_S
    done = {each.key for each in receiver.ledger.starts if each.status == DONE}
    assert done == {*(f"key{number}" for number in range(5)), "after", "alone"}


@pytest.mark.parametrize("way", ["cut", "swallow"])
def test_a_network_that_fails_again_and_again_loses_nothing(
    processes: Processes, receiver: Receiver, postgres: Postgres, store: str, proxy: Proxy, way: str
) -> None:
    far, near = processes.node(by_way_of(proxy, postgres, store)), processes.node(store)
    receiver.work_s = 0.02
    turn = iter(range(10**9))
    send = sender(lambda: (far, near)[next(turn) % 2], receiver, "work", **WIDE)

    with Load(send, "during") as during:
        for seconds in (0.5, 2.0, 9.0):
            goal = len(receiver.ledger) + 40
            eventually(partial(has_started, receiver, goal), "starts", of=[far, near, receiver.ledger])
            getattr(proxy, way)()
            time.sleep(seconds)
            proxy.mend()
        goal = len(receiver.ledger) + 100
        eventually(partial(has_started, receiver, goal), "starts", of=[far, near, receiver.ledger])
    eventually(partial(idle, far), "an end of all work", within=DRAIN_S, of=[far, near, receiver.ledger])

    done = {each.key for each in receiver.ledger.starts if each.status == DONE}
    with near.api() as api:
        assert api.dead() == []
    assert set(during.accepted) <= done
    assert far.is_running


def test_who_vanishes_in_the_middle_of_a_write_holds_up_others_for_seconds_at_most(
    postgres: Postgres, store: str, proxy: Proxy, tell: Callable[[object], None]
) -> None:
    def vanish(session: Session) -> None:
        session.one("active_count", {})
        proxy.swallow()
        session.one("active_count", {})  # no answer comes

    with (
        closing(PostgresDatabase(by_way_of(proxy, postgres, store))) as far,
        closing(PostgresDatabase(store)) as near,
        ThreadPoolExecutor(1) as thread,
    ):
        vanishing = thread.submit(far.run, vanish)
        time.sleep(0.2)
        began_at = time.monotonic()
        eventually(partial(has_written, near), "a write of another", within=20)
        waited_s = time.monotonic() - began_at
        proxy.mend()

        with pytest.raises(StoreUnreachable):  # and it knows that nothing was stored
            vanishing.result(20)
        tell(f"another one wrote after {waited_s:.1f} s")
        assert 1 <= waited_s <= 7
        assert has_written(far)


def has_written(database: PostgresDatabase) -> bool:
    try:
        database.run(lambda session: session.announce())
    except StoreBusy:
        return False
    return True


def test_a_slow_network_makes_nodes_slow_and_nothing_else(
    processes: Processes, receiver: Receiver, postgres: Postgres, store: str, proxy: Proxy
) -> None:
    proxy.delay_s = 0.02
    far, near = processes.node(by_way_of(proxy, postgres, store)), processes.node(store)
    turn = iter(range(10**9))
    send = sender(lambda: (far, near)[next(turn) % 2], receiver, "work", **WIDE)

    keys = [f"key{number:02d}" for number in range(20)]
    with far.api() as api:
        for key in keys:
            send(api.http, key).raise_for_status()
    eventually(partial(idle, near), "an end of all work", within=DRAIN_S, of=[far, near, receiver.ledger])

    starts = receiver.ledger.starts
    assert sorted(each.key for each in starts if each.status == DONE) == keys
