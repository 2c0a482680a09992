"""Shows qtasks at work, and checks it:  scripts/demo [--serve]

Starts the app of `app.py`, has it enqueue some hundred tasks, waits for them, and compares every result
with a direct call of the function. The exit code is 0 only if all is as it should be.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from examples.demo import checks
from examples.demo.checks import Call
from examples.demo.served import AppFailed, ServedApp, served_app
from examples.demo.table import Progress, Row, render
from qtasks.client import calls as api
from qtasks.client.clients import Client
from qtasks.protocol.results import ResultView

LIMIT_S = 60
POLL_S = 0.1


def main() -> int:
    """Run the demo; give the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Shows qtasks at work, and checks it.")
    parser.add_argument("--serve", action="store_true", help="keep the app running afterwards")
    is_serving = parser.parse_args().serve
    # Asked to end in whatever way, we take the app with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="qtasks-demo-"))
    try:
        with served_app(folder) as app:
            is_right = report(run(app))
            if is_serving:
                serve(app)
    except AppFailed as error:
        is_right = report([str(error)])
    except KeyboardInterrupt:
        print("\nstopped before the end")
        return 130
    finally:
        if not is_serving:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_right else 1


def report(problems: Sequence[str]) -> bool:
    """Say what is wrong, if anything is; tell whether nothing is."""
    sys.stdout.flush()
    for each in problems:
        print(f"WRONG  {each}", file=sys.stderr)
    return not problems


def run(app: ServedApp) -> list[str]:
    """Have the app enqueue its tasks, follow them to their end, and say what is not as it should be."""
    for notice in app.notices():
        print(notice)
    started_at = time.monotonic()
    with httpx.Client(base_url=app.url, trust_env=False, timeout=30) as web, app.broker() as broker:
        started = web.post("/start").raise_for_status().json()
        # The call that was made twice is one task: both have the same id.
        calls = {each["id"]: Call(**each) for each in started["calls"]}
        took_s = time.monotonic() - started_at
        print(
            f"{app.url} has enqueued {len(calls)} tasks in {took_s:.2f} s, each on disk by now\n", flush=True
        )

        wait(broker, list(calls.values()), started_at)
        views = {id_: broker.send(api.result(id_)) for id_ in calls}
        show_table(calls, views)
        problems = check(calls, views, started, broker)
        journal = web.get(f"/journal/{started['run']}").raise_for_status().json()
        problems += checks.check_journal(started["run"], journal)
    if not problems:
        print(f"\n{len(calls)} tasks, all as it should be: every result is that of a direct call, order was")
        print("kept, what was called twice ran once, and what failed for good is in the dead letter queue.")
    return problems


def wait(broker: Client, calls: Sequence[Call], started_at: float) -> None:
    """Show progress until no queue holds anything more, or time is up: the checks will tell."""
    progress = Progress(Counter(each.queue for each in calls))
    while True:
        left = {queue.name: queue.lag for queue in broker.send(api.queues())}
        at_s = time.monotonic() - started_at
        progress.show(left, at_s)
        if not any(left.values()) or at_s > LIMIT_S:
            break
        time.sleep(POLL_S)
    progress.end()


def check(
    calls: Mapping[str, Call],
    views: Mapping[str, ResultView],
    started: Mapping[str, Any],
    broker: Client,
) -> list[str]:
    """Compare every task with a direct call, and see to what a result does not show."""
    twice = len(started["calls"]) - len(calls)
    problems = [] if twice == 1 else [f"1 call should have been a repetition, {twice} were"]
    failed = []
    for id_, call in calls.items():
        expected = checks.call_directly(call)
        problems += checks.compare(call, checks.outcome_of(views[id_]), expected)
        if call.name == "remind":
            problems += checks.check_delay(call, views[id_], started["calledAt"])
        if expected.state == "FAILED":
            failed.append(call)
    letters = broker.send(api.dead_letters()).items
    return problems + checks.check_dead_letters(letters, failed)


def show_table(calls: Mapping[str, Call], views: Mapping[str, ResultView]) -> None:
    """Print what became of the tasks; those of one package, and the lines of the diary, in one row."""
    now = round(time.time() * 1000)
    rows = []
    for id_, call in calls.items():
        view = views[id_]
        name = f"measure {call.args[0].partition('/')[0]}" if call.name == "measure" else call.name
        times = (view.created_at or now, view.finished_at or now)
        rows.append(Row(name, call.queue, view.attempts, view.state, *times))
    print()
    for line in render(rows):
        print(line)


def serve(app: ServedApp) -> None:
    """Keep the app up until Ctrl-C, or until it ends by itself."""
    print(f"\nThe app is up at {app.url} and says there what you can do; its database is {app.database}.")
    print("Ctrl-C ends it.", flush=True)
    try:
        app.server.wait()
    except KeyboardInterrupt:
        print("\nstopping")


if __name__ == "__main__":
    sys.exit(main())
