"""The demo's tasks: what the app calls later, and `main.py` calls directly to compare.

`@task` needs no app at hand: a call finds the process's one `QTasks`, which is made in `app.py`.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from qtasks import task

LIBRARY = Path(sysconfig.get_path("stdlib"))
PACKAGES = ("asyncio", "email", "http", "json", "urllib")


@dataclass(frozen=True, slots=True)
class Measure:
    """What there is to say of a source file."""

    sha256: str
    lines: int
    tokens: int


@dataclass(slots=True)
class Journal:
    """What the tasks of one run leave behind, besides their results."""

    stumbles: int = 0
    charged: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)


# Memory will do for a demo: all tasks run in the one process that owns the database. They may run
# again after a crash, so what matters belongs in a database of your own.
journals: defaultdict[str, Journal] = defaultdict(Journal)


def library_files() -> list[str]:
    """List the Python files of some packages of the standard library: `json/decoder.py`."""
    files = (each for package in PACKAGES for each in (LIBRARY / package).rglob("*.py"))
    return sorted(each.relative_to(LIBRARY).as_posix() for each in files)


# A plain function runs on a thread, so that it does not hold up the app. A dataclass is annotated as
# what it is, and travels as JSON.
@task(queue="files")
def measure(name: str) -> Measure:
    """Read one file of the standard library and count."""
    path = LIBRARY / name
    content = path.read_bytes()
    with tokenize.open(path) as file:
        tokens = sum(1 for _ in tokenize.generate_tokens(file.readline))
    return Measure(hashlib.sha256(content).hexdigest(), content.count(b"\n"), tokens)


# A coroutine runs on the app's own event loop, among its requests.
@task(queue="web", timeout=10)
async def ask(url: str) -> dict[str, Any]:
    """Ask a web server for a JSON object."""
    # This machine's loopback is not to be found through a proxy that the environment may name.
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(url)
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer


# Whoever knows the service better than the default, 12 s, then minutes, says how long to wait.
@task(queue="web", retries=5, retry_delay=0.2)
def stumble(run: str, times: int) -> str:
    """Fail some times, as a service does that is just starting, and then succeed."""
    journal = journals[run]
    journal.stumbles += 1
    if journal.stumbles <= times:
        raise ConnectionError(f"not yet: attempt {journal.stumbles} of {times + 1}")
    return f"succeeded after {times} failures"


@task
def remind(text: str) -> str:
    """Say something, later."""
    return f"remember: {text}"


# When the retries are spent, the message goes to the dead letter queue, where a person can look at it.
@task(retries=1, retry_delay=0.1)
def fail(reason: str) -> None:
    """Fail, however often it is tried."""
    raise ValueError(reason)


@task(queue="payments")
def charge(run: str, order: int) -> int:
    """Do something that must not be done twice; say how often it has been done."""
    journal = journals[run]
    journal.charged.append(order)
    return len(journal.charged)


# The queue is declared as ordered in `app.py`, so each line finds those before it written.
@task(queue="diary")
def write(run: str, line: int) -> int:
    """Write a line into a diary; say how many were there before."""
    journal = journals[run]
    journal.written.append(line)
    return len(journal.written) - 1
