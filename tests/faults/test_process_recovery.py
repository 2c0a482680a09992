"""What was in flight at a kill: back in play within a second (P07), and bounded if it kills (P13)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from qtasks.broker.http_delivery import AHEAD
from tests.support.ledger import DONE, Start, balance, read_ledger
from tests.support.load import Load
from tests.support.processes import AppProcess, BrokerProcess, Processes
from tests.support.receiver import Receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

IN_FLIGHT = 16
BOUND_S = 1.0
LONG_TASKS = 8
POISON_STARTS = 3  # the app declares two retries
NEIGHBOURS = 12
BACKLOG = 1000
KILLS = 3
BEFORE_KILL = 40  # messages accepted before the app is killed


def last_return(starts: list[Start], killed: int) -> float:
    """Give the instant at which the last of the `killed` first starts had been started again."""
    again: dict[str, float] = {}
    for each in starts[killed:]:
        again.setdefault(each.key, each.started_at)
    assert set(again) == {each.key for each in starts[:killed]}
    return max(again.values())


@pytest.mark.parametrize("work_s", [0.001, 0.2], ids=["quick", "slow"])
def test_a_restarted_broker_delivers_within_a_second_what_was_in_flight(
    processes: Processes, receiver: Receiver, tell: Callable[[object], None], work_s: float
) -> None:
    broker = processes.broker()
    receiver.work_s = work_s
    receiver.gate.clear()
    with httpx.Client(headers={"Authorization": f"Bearer {broker.token}"}, trust_env=False) as http:
        for number in range(IN_FLIGHT):
            answer = http.post(
                f"{broker.url}/v2/enqueue/work/{receiver.url}",
                headers={"Qtasks-Queue": f"parallelism={IN_FLIGHT}; ordered=false"},
                content=json.dumps({"id": f"m{number}"}),
            )
            assert answer.status_code == 200, answer.text
    eventually(lambda: len(receiver.ledger) == IN_FLIGHT, "all in flight", of=[broker, receiver.ledger])

    broker.kill()
    receiver.gate.set()
    broker = processes.broker()

    eventually(lambda: len(receiver.ledger) >= 2 * IN_FLIGHT, "all again", of=[broker, receiver.ledger])
    took_s = last_return(receiver.ledger.starts, IN_FLIGHT) - broker.up_at
    tell(f"{IN_FLIGHT} in flight were back in play {took_s:.3f} s after the broker was up")
    assert took_s <= BOUND_S
    retried = [each.retried for each in receiver.ledger.starts]
    assert retried == [0] * IN_FLIGHT + [1] * IN_FLIGHT


def test_a_restarted_app_runs_within_a_second_what_was_in_flight(
    processes: Processes, tell: Callable[[object], None]
) -> None:
    app = processes.app()
    for number in range(IN_FLIGHT):
        app.delay("held", f"m{number}")
    await_starts(processes.ledger, IN_FLIGHT, app)

    app.kill()
    processes.open_gate()
    app = processes.app()

    await_starts(processes.ledger, 2 * IN_FLIGHT, app)
    took_s = last_return(read_ledger(processes.ledger), IN_FLIGHT) - app.up_at
    tell(f"{IN_FLIGHT} in flight were back in play {took_s:.3f} s after the app was up")
    assert took_s <= BOUND_S


def test_long_tasks_that_were_in_flight_do_not_wait_for_each_other_s_end(
    processes: Processes, tell: Callable[[object], None]
) -> None:
    app = processes.app()
    for number in range(LONG_TASKS):
        app.delay("held", f"m{number}")
    await_starts(processes.ledger, LONG_TASKS, app)

    app.kill()
    app = processes.app()

    # None of them can end, as the gate stays shut.
    await_starts(processes.ledger, 2 * LONG_TASKS, app)
    took_s = last_return(read_ledger(processes.ledger), LONG_TASKS) - app.up_at
    tell(f"{LONG_TASKS} long tasks were back in play {took_s:.3f} s after the app was up")
    assert took_s <= BOUND_S


def test_a_task_that_kills_its_process_is_dead_after_its_retries_and_neighbours_live(
    processes: Processes,
) -> None:
    app = processes.app()
    neighbours = [f"n{number}" for number in range(NEIGHBOURS)]
    for key in neighbours[::2]:
        app.delay("count", key)
    with suppress(AssertionError):  # it may kill the app before the answer is out
        app.delay("poison", "p")
    for _ in range(POISON_STARTS - 1):
        assert app.wait() == 66
        app = processes.unready_app()
    assert app.wait() == 66
    app = processes.app()
    for key in neighbours[1::2]:
        app.delay("count", key)

    with app.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])
        assert api.dead() == ["p"]
    starts = read_ledger(processes.ledger)
    assert sum(each.key == "p" for each in starts) == POISON_STARTS
    assert {each.key for each in starts if each.status == DONE} == set(neighbours)


def await_starts(ledger: Path, count: int, *of: AppProcess | BrokerProcess) -> list[Start]:
    """Wait until the ledger has so many starts; give them."""

    def enough() -> list[Start] | None:
        starts = read_ledger(ledger)
        return starts if len(starts) >= count else None

    return eventually(enough, f"{count} starts", of=of)


@pytest.mark.parametrize("batch", [1, 100], ids=["alone", "together"])
def test_an_app_that_is_killed_again_and_again_runs_its_backlog(processes: Processes, batch: int) -> None:
    """Its calls go out together once it has been quick, and each of them is run again that was lost."""
    broker = processes.broker()
    app = processes.remote_app(broker, batch=batch)
    port = httpx.URL(app.url).port
    with httpx.Client(timeout=60, trust_env=False) as http:
        keys = http.post(f"{app.url}/delay_many/count/{BACKLOG}").raise_for_status().json()
    for killed in range(1, KILLS + 1):
        await_starts(processes.ledger, killed * BACKLOG // (KILLS + 2), app, broker)
        app.kill()
        app = processes.remote_app(broker, port, batch=batch)
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, app])
        assert api.dead() == []
    starts = read_ledger(processes.ledger)

    assert {each.key for each in starts if each.status == DONE} == set(keys)
    again = Counter(each.key for each in starts) - Counter(keys)
    assert again.total() <= KILLS * 64 * AHEAD  # what was in flight
    assert ("/qtasks/batch" in app.output) == (batch > 1)


def test_a_killed_app_of_a_standalone_broker_is_given_its_tasks_again(processes: Processes) -> None:
    broker = processes.broker()
    app = processes.remote_app(broker)

    def send(http: httpx.Client, key: str) -> httpx.Response:
        return http.post(f"{app.url}/delay/count/{key}")

    with Load(send, "m") as load:
        load.await_accepted(BEFORE_KILL)
        app.kill()
        app = processes.remote_app(broker, httpx.URL(app.url).port)
        load.await_accepted(2 * BEFORE_KILL)
    with broker.api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[broker, app])
        starts, dead, failed = read_ledger(processes.ledger), api.dead(), api.failed()
    found = balance(load.accepted, starts, dead=dead, stuck=0, interrupted=failed, kills=1)

    assert found.faults == []
    assert dead == []
