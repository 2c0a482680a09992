"""Guests: scripts, shells, threads and forked children, which enqueue without owning the file."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from qtasks.home.ownership import Ownership
from tests.support.ledger import DONE, Start, read_ledger
from tests.support.processes import AppProcess, Process, Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

CALLS = 3
SCRIPT = f"""
from app_under_test import count

if __name__ == "__main__":
    for number in range({CALLS}):
        print("task", count.delay(f"m{{number}}").id)
"""
THREADS = f"""
import threading

from app_under_test import count

threads = [threading.Thread(target=count.delay, args=(f"m{{number}}",)) for number in range({CALLS})]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""
LOOP = f"""
import asyncio

from app_under_test import count

async def main():
    for number in range({CALLS - 1}):
        await count.adelay(f"m{{number}}")
    count.delay("m{CALLS - 1}")

asyncio.run(main())
"""
# A shell: statements one by one, in a process that goes on after its calls.
SHELL = """
from app_under_test import GATE, count
count.delay("m0")
count.delay("m1")
print("ready", flush=True)
import time
while not GATE.exists():
    time.sleep(0.01)
count.delay("m2")
"""
KEYS = [f"m{number}" for number in range(CALLS)]


def await_done(processes: Processes, keys: list[str], app: AppProcess) -> list[Start]:
    """Wait until the keys are done and nothing is left; give all starts."""

    def finished() -> list[Start] | None:
        starts = read_ledger(processes.ledger)
        return starts if set(keys) <= {each.key for each in starts if each.status == DONE} else None

    starts = eventually(finished, f"{keys} done", of=[app])
    with app.broker_api() as api:
        eventually(lambda: api.lag() == 0, "an end of all work", of=[app])
    assert Counter(each.key for each in starts) == dict.fromkeys(keys, 1)
    return starts


def is_free(processes: Processes) -> bool:
    """Say whether no process owns the file."""
    ownership = Ownership.try_acquire(processes.store)
    if ownership is not None:
        ownership.release()
    return ownership is not None


def ended_well(guest: Process) -> None:
    assert guest.wait() == 0, guest
    complaints = [line for line in guest.output.splitlines() if not line.startswith("task tsk_")]
    assert complaints == []


@pytest.mark.parametrize("text", [SCRIPT, THREADS, LOOP], ids=["plainly", "from-threads", "from-a-loop"])
def test_a_script_without_an_owner_stores_its_tasks_for_the_app_that_comes(
    processes: Processes, text: str
) -> None:
    script = processes.folder / "script.py"
    script.write_text(text, encoding="utf-8")

    guest = processes.python(str(script))
    assert guest.wait() == 0, guest
    assert "Traceback" not in guest.output
    assert is_free(processes)
    assert read_ledger(processes.ledger) == []
    app = processes.app()

    starts = await_done(processes, KEYS, app)
    assert {each.by for each in starts} == {app.pid}


@pytest.mark.parametrize("text", [SCRIPT, THREADS, LOOP], ids=["plainly", "from-threads", "from-a-loop"])
def test_a_script_beside_an_app_forwards_to_it_and_prints_nothing(processes: Processes, text: str) -> None:
    app = processes.app()
    script = processes.folder / "script.py"
    script.write_text(text, encoding="utf-8")

    ended_well(processes.python(str(script)))

    starts = await_done(processes, KEYS, app)
    assert {each.by for each in starts} == {app.pid}
    assert app.owners == [app.pid]


def test_a_shell_that_stays_open_neither_keeps_the_file_nor_takes_it_back(processes: Processes) -> None:
    shell = processes.python("-c", SHELL)
    shell.expect("ready")
    assert is_free(processes)

    app = processes.app()
    assert {each.by for each in await_done(processes, KEYS[:2], app)} == {app.pid}
    assert shell.is_running
    processes.open_gate()

    assert shell.wait() == 0, shell
    assert {each.by for each in await_done(processes, KEYS, app)} == {app.pid}
    assert app.owners == [app.pid]


@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_a_forked_child_of_the_owner_forwards_to_it_and_the_owner_goes_on(
    processes: Processes, way: str
) -> None:
    app = processes.app()
    app.delay("count", "earlier")

    answer = httpx.post(f"{app.url}/{way}/forked", timeout=15, trust_env=False)
    app.delay("count", "later")

    assert answer.text == "0", app
    starts = await_done(processes, ["earlier", "forked", "later"], app)
    assert {each.by for each in starts} == {app.pid}
    assert not is_free(processes)
    assert "Traceback" not in app.output
