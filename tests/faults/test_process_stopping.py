"""SIGTERM, of the standalone broker and of an app with its broker inside (P17)."""

from __future__ import annotations

import json
import re
import signal

import httpx
import pytest

from tests.support.ledger import DONE, balance, read_ledger
from tests.support.load import Load
from tests.support.processes import BrokerProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

RESTARTS = 2
BETWEEN = 60  # messages accepted between two restarts
GRACE_S = 25  # the default of both homes
# uvicorn ends by the signal that it was sent, once it has cleaned up.
ENDED_BY_UVICORN = (0, -signal.SIGTERM)


def enqueue(
    broker: BrokerProcess, receiver: Receiver, key: str, http: httpx.Client | None = None
) -> httpx.Response:
    headers = {
        "Authorization": f"Bearer {broker.token}",
        "Qtasks-Queue": "parallelism=4; ordered=false",
        "Upstash-Deduplication-Id": key,
        "Upstash-Retry-Delay": "50",
    }
    url, body = f"{broker.url}/v2/enqueue/work/{receiver.url}", json.dumps({"id": key})
    return (http or httpx).post(url, headers=headers, content=body)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_broker_still_listens_and_lets_a_delivery_in_flight_end(
    processes: Processes, receiver: Receiver, sent: signal.Signals
) -> None:
    broker, ledger = processes.broker(), receiver.ledger
    receiver.gate.clear()
    message_id = enqueue(broker, receiver, "m0").json()["messageId"]
    eventually(lambda: len(ledger) == 1, "a delivery in flight", of=[broker, ledger])

    broker.send(sent)
    broker.expect("draining")
    refused = enqueue(broker, receiver, "m1")
    livez = httpx.get(f"{broker.url}/livez", trust_env=False)
    assert broker.is_running
    receiver.gate.set()

    assert broker.wait() == 0
    assert refused.status_code == 503
    assert float(refused.headers["Retry-After"]) > 0
    assert livez.status_code == 200
    broker = processes.broker()
    with broker.api() as api:
        assert api.states(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]
        assert api.lag() == 0
    assert [each.key for each in ledger.starts] == ["m0"]


def test_a_stopping_broker_hands_back_what_outlives_the_grace_without_spending_its_attempt(
    processes: Processes, receiver: Receiver
) -> None:
    broker, ledger = processes.broker("--grace", "0.3"), receiver.ledger
    receiver.gate.clear()
    message_id = enqueue(broker, receiver, "m0").json()["messageId"]
    eventually(lambda: len(ledger) == 1, "a delivery in flight", of=[broker, ledger])

    broker.terminate()
    assert broker.wait() == 0
    assert "1 deliveries handed back" in broker.output
    receiver.gate.set()
    broker = processes.broker()

    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, ledger])
        assert "FAILED" not in api.states(message_id)
    assert [each.retried for each in ledger.starts] == [0, 0]


BARELY_UP = """
import asyncio, os, signal, sys
from qtasks.home.server import Server, ServerSetup

def say(line):
    print(line, flush=True)
    if line.startswith("broker on"):
        os.kill(os.getpid(), int(sys.argv[2]))

asyncio.run(Server(ServerSetup(store=sys.argv[1], port=0, linger_ms=0), say=say).run())
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_that_is_stopped_as_soon_as_it_says_that_it_runs_stops_as_later(
    processes: Processes, sent: signal.Signals
) -> None:
    process = processes.python("-c", BARELY_UP, f"sqlite:///{processes.store}", str(int(sent)))

    assert process.wait() == 0
    assert "draining" in process.output
    assert "stopped; 0 deliveries handed back" in process.output


def test_a_second_signal_cuts_the_drain_short(processes: Processes, receiver: Receiver) -> None:
    broker, ledger = processes.broker(), receiver.ledger
    receiver.gate.clear()
    enqueue(broker, receiver, "m0")
    eventually(lambda: len(ledger) == 1, "a delivery in flight", of=[broker, ledger])

    broker.terminate()
    broker.expect("draining")
    broker.terminate()

    assert broker.wait(within=5) == 0
    assert "1 deliveries handed back" in broker.output


def test_a_stopping_app_lets_a_task_in_flight_end_and_takes_what_it_still_enqueues(
    processes: Processes,
) -> None:
    app = processes.app()
    app.delay("parent", "p")
    eventually(lambda: read_ledger(processes.ledger), "a task in flight", of=[app])

    app.terminate()
    app.expect("Waiting for application shutdown")
    processes.open_gate()
    assert app.wait() in ENDED_BY_UVICORN
    assert [(each.key, each.status) for each in read_ledger(processes.ledger)][:1] == [("p", DONE)]
    app = processes.app()

    with app.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])
        assert api.interrupted() == {}
        assert api.dead() == []
    starts = read_ledger(processes.ledger)
    assert [(each.key, each.status) for each in starts] == [("p", DONE), ("p-child", DONE)]
    assert not re.search("Traceback|ERROR", app.output)


def test_a_rolling_restart_of_the_broker_under_load_loses_doubles_and_resets_nothing(
    processes: Processes, receiver: Receiver
) -> None:
    broker, ledger = processes.broker(), receiver.ledger

    with Load(lambda http, key: enqueue(broker, receiver, key, http), "m") as load:
        for number in range(1, RESTARTS + 1):
            load.await_accepted(number * BETWEEN)
            broker.terminate()
            assert broker.wait() == 0, broker
            broker = processes.broker()
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, ledger])
        found = balance(
            load.accepted, ledger.starts, dead=api.dead(), stuck=api.lag(), interrupted={}, kills=0
        )

    assert found.faults == []
    assert load.broken == []


def test_a_rolling_restart_of_the_app_under_load_loses_and_doubles_nothing(processes: Processes) -> None:
    app = processes.app()

    with Load(lambda http, key: http.post(f"{app.url}/delay/count/{key}"), "m") as load:
        for number in range(1, RESTARTS + 1):
            load.await_accepted(number * BETWEEN)
            app.terminate()
            assert app.wait() in ENDED_BY_UVICORN, app
            assert not re.search("Traceback|ERROR", app.output), app
            app = processes.app()
    with app.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])
        starts = read_ledger(processes.ledger)
        found = balance(load.accepted, starts, dead=api.dead(), stuck=api.lag(), interrupted={}, kills=0)

    assert found.faults == []


@pytest.mark.full
def test_a_task_that_outlives_the_grace_of_the_app_is_run_again_without_spending_an_attempt(
    processes: Processes,
) -> None:
    app = processes.app()
    app.delay("held", "h")
    eventually(lambda: read_ledger(processes.ledger), "a task in flight", of=[app])

    app.terminate()
    assert app.wait(within=GRACE_S + 10) in ENDED_BY_UVICORN
    processes.open_gate()
    app = processes.app()

    with app.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])
        assert api.interrupted() == {}
        assert api.dead() == []
    starts = read_ledger(processes.ledger)
    assert [each.status for each in starts if each.status is not None] == [DONE]
    assert len(starts) == 2
