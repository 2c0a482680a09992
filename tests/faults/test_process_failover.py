"""A primary is killed under load while all commits wait for its standby, which is promoted (P21)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.faults.test_kills_standalone import sender
from tests.faults.test_process_nodes import idle
from tests.support import repeats
from tests.support.ledger import DONE
from tests.support.load import Load
from tests.support.postgres import Pair, require_postgres
from tests.support.processes import Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

WORK_S = 0.03
DRAIN_S = 60.0
AGAIN_S = 5.0


@pytest.fixture
def pair() -> Iterator[Pair]:
    require_postgres()
    found = Pair()
    yield found
    found.drop()


def test_a_failover_loses_nothing_and_doubles_nothing(
    processes: Processes, receiver: Receiver, pair: Pair, tell: Callable[[object], None]
) -> None:
    store = pair.new_store()
    nodes = [processes.node(store) for _ in range(2)]
    ledger, receiver.work_s = receiver.ledger, WORK_S
    turn = iter(range(10**9))
    send = sender(
        lambda: nodes[next(turn) % 2], receiver, "work", Qtasks_Queue="parallelism=16; ordered=false"
    )
    took_s: list[float] = []

    with Load(send, "during") as during:
        for number in range(repeats(10)):
            goal = len(ledger) + 60
            eventually(partial(has_started, receiver, goal), f"{goal} starts", of=[*nodes, ledger, during])
            if number:
                pair.follow()
            pair.fail_over()
            promoted_at, before = time.monotonic(), len(ledger)
            eventually(partial(has_started, receiver, before + 1), "a start", of=[*nodes, ledger, during])
            took_s.append(time.monotonic() - promoted_at)
        goal = len(ledger) + 60
        eventually(partial(has_started, receiver, goal), f"{goal} starts", of=[*nodes, ledger, during])
    eventually(partial(idle, nodes[0]), "an end of all work", within=DRAIN_S, of=[*nodes, ledger, during])

    done = Counter(each.key for each in ledger.starts if each.status == DONE)
    doubled = [key for key, count in done.items() if count > 1]
    with nodes[0].api() as api:
        dead = api.dead()
    tell(f"{len(during.accepted)} accepted, dispatch again after {max(took_s):.1f} s at most")
    assert dead == []
    assert set(during.accepted) <= set(done)
    assert doubled == []
    assert max(took_s) <= AGAIN_S
    assert all(node.is_running for node in nodes)


def has_started(receiver: Receiver, count: int) -> bool:
    return len(receiver.ledger) >= count
