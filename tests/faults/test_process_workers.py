"""Several processes of one app on one file: one owns it and runs the tasks, the others forward."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from tests.support.ledger import DONE, Start, read_ledger
from tests.support.processes import APP_FOLDER, AppProcess, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

WORKERS = 4
EACH = 5  # tasks enqueued by way of each worker, at least
TAKEOVER_S = 2.0


def start_workers(processes: Processes) -> AppProcess:
    app = processes.app("--workers", str(WORKERS))
    app.expect("Application startup complete", count=WORKERS)
    return app


def await_done(processes: Processes, keys: set[str], app: AppProcess) -> list[Start]:
    """Wait until all keys are done; give all starts."""

    def finished() -> list[Start] | None:
        starts = read_ledger(processes.ledger)
        return starts if keys <= {each.key for each in starts if each.status == DONE} else None

    return eventually(finished, f"{len(keys)} tasks done", of=[app])


def test_tasks_enqueued_by_any_worker_run_once_in_the_one_that_owns_the_file(processes: Processes) -> None:
    app = start_workers(processes)
    forwarders = {int(each[1]) for each in app.expect(r"process (\d+) forwards its tasks", count=WORKERS - 1)}
    [owner] = app.owners
    keys: set[str] = set()
    taken: Counter[int] = Counter()

    def every_worker_served() -> bool:
        fresh = [f"m{len(keys) + number}" for number in range(16)]
        with ThreadPoolExecutor(8) as pool:
            taken.update(pool.map(partial(app.delay, "count"), fresh))
        keys.update(fresh)
        return len(taken) == WORKERS and min(taken.values()) >= EACH

    eventually(every_worker_served, "requests served by every worker", of=[app, taken])

    starts = await_done(processes, keys, app)
    assert set(taken) == {owner, *forwarders}
    assert Counter(each.key for each in starts) == dict.fromkeys(keys, 1)
    assert {each.by for each in starts} == {owner}


def test_another_worker_takes_over_within_two_seconds_when_the_owner_is_killed(
    processes: Processes, tell: Callable[[object], None]
) -> None:
    app = start_workers(processes)
    app.expect("forwards its tasks", count=WORKERS - 1)
    [owner] = app.owners
    keys = {f"before{number}" for number in range(20)}
    for key in keys:
        app.delay("count", key)
    await_done(processes, keys, app)
    with app.broker_api() as api:  # what is not recorded when the owner dies runs again, as it should
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])

    os.kill(owner, signal.SIGKILL)
    killed_at = time.monotonic()
    enqueue_through_the_gap(app, keys)
    starts = await_done(processes, keys, app)
    app.expect(r"process \d+ runs the tasks of", count=2)

    took_s = min(each.started_at for each in starts if each.by != owner) - killed_at
    tell(f"another process ran tasks {took_s:.3f} s after the owner was killed")
    assert took_s <= TAKEOVER_S
    assert Counter(each.key for each in starts) == dict.fromkeys(keys, 1)
    assert app.owners[1] != owner


def test_stopping_all_workers_leaves_nothing_behind(processes: Processes) -> None:
    app = start_workers(processes)
    app.expect("forwards its tasks", count=WORKERS - 1)
    keys = {f"m{number}" for number in range(30)}
    for key in sorted(keys):
        app.delay("count", key)

    app.terminate()
    app.wait()
    assert not re.search("Traceback|ERROR", app.output), app
    app = processes.app()

    starts = await_done(processes, keys, app)
    assert Counter(each.key for each in starts) == dict.fromkeys(keys, 1)


def enqueue_through_the_gap(app: AppProcess, keys: set[str]) -> None:
    """Enqueue while nobody owns the file; a request that met the killed worker is repeated."""
    pause = threading.Event()
    for number in range(20):
        key = f"gap{number}"
        for _ in range(100):
            try:
                httpx.post(f"{app.url}/delay/count/{key}", timeout=10).raise_for_status()
                break
            except httpx.TransportError:
                pause.wait(0.01)
        keys.add(key)


def test_a_reloaded_app_takes_over_and_every_task_runs_once(processes: Processes) -> None:
    folder = processes.folder / "source"
    folder.mkdir()
    source = folder / "app_under_test.py"
    shutil.copy(APP_FOLDER / source.name, source)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), processes.environment()["PYTHONPATH"]])}
    app = processes.app("--reload", "--reload-dir", str(folder), env=environment)
    app.expect("runs the tasks of")
    keys = {f"before{number}" for number in range(20)}
    for key in sorted(keys):
        app.delay("count", key)

    later = time.time() + 5
    os.utime(source, (later, later))
    app.expect("Application startup complete", count=2)
    for number in range(20):
        keys.add(f"after{number}")
        app.delay("count", f"after{number}")

    starts = await_done(processes, keys, app)
    assert Counter(each.key for each in starts) == dict.fromkeys(keys, 1)
    assert len(set(app.owners)) == 2
    assert {each.by for each in starts if each.key.startswith("after")} == {app.owners[-1]}


def test_a_second_broker_on_the_same_file_is_refused_with_the_reason(processes: Processes) -> None:
    broker = processes.broker()

    arguments = ("-m", "qtasks", "broker", "--store", f"sqlite:///{processes.store}", "--port", "0")
    second = processes.python(*arguments)

    assert second.wait() == 1
    assert "is in use by another process" in second.output
    assert broker.is_running
