"""A request that is dropped ends the task that it began, in an app that a stock uvicorn serves."""

from __future__ import annotations

import pytest

from tests.support.processes import AppProcess, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SERVERS = pytest.mark.parametrize("http", ["h11", "httptools"])


def lines(processes: Processes, kind: str) -> int:
    """Say how many lines of a kind the ledger has."""
    text = processes.ledger.read_text(encoding="utf-8") if processes.ledger.exists() else ""
    return sum(line.startswith(f"{kind} ") for line in text.splitlines())


def noted(processes: Processes, app: AppProcess, kind: str) -> None:
    eventually(lambda: lines(processes, kind) == 1, f"{kind!r} in the ledger", of=[app])


@SERVERS
def test_a_task_that_is_cancelled_is_interrupted(processes: Processes, http: str) -> None:
    broker = processes.broker()
    app = processes.remote_app(broker, options=["--http", http])
    app.delay("told", "k1")
    noted(processes, app, "start")

    with broker.api() as api:
        answer = api.http.delete("/v2/messages?task=told")
        noted(processes, app, "cancelled")
        state = api.http.get("/qtasks/v1/results/k1?wait=10s").json()

    assert answer.json() == {"cancelled": 1}
    assert (state["state"], state["attempts"]) == ("CANCELLED", 1)
    assert (lines(processes, "start"), lines(processes, "end")) == (1, 0)


@SERVERS
def test_a_broker_that_is_killed_leaves_no_attempt_behind(processes: Processes, http: str) -> None:
    broker = processes.broker()
    app = processes.remote_app(broker, options=["--http", http])
    app.delay("told", "k1")
    noted(processes, app, "start")

    broker.kill()

    noted(processes, app, "cancelled")


def test_a_task_in_process_is_interrupted(processes: Processes) -> None:
    app = processes.app()
    app.delay("told", "k1")
    noted(processes, app, "start")

    with app.broker_api() as api:
        answer = api.http.delete("/v2/messages?task=told")
        noted(processes, app, "cancelled")
        state = api.http.get("/qtasks/v1/results/k1?wait=10s").json()["state"]

    assert (answer.json(), state) == ({"cancelled": 1}, "CANCELLED")
