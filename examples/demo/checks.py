"""Compares what became of each task with what a direct call of its function comes to.

A direct call is repeated as the broker would repeat it, so it also says how many attempts are due.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from examples.demo.tasks import ask, charge, fail, journals, measure, remind, stumble, write
from qtasks import Task
from qtasks.protocol.results import ResultView
from qtasks.protocol.shapes import DeadLetter

COUNTDOWN_MS = 2000
TASKS: Mapping[str, Task[..., Any, Any]] = {
    each.name: each for each in (ask, charge, fail, measure, remind, stumble, write)
}


@dataclass(frozen=True, slots=True)
class Call:
    """A task that the app has called."""

    id: str
    task: str
    args: Sequence[Any]
    queue: str

    @property
    def name(self) -> str:
        """The task's name without its module."""
        return self.task.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: `value` is what came back as JSON, or the exception's type and message."""

    state: str
    attempts: int
    value: object


def call_directly(call: Call) -> Outcome:
    """Call the function here and now, again and again until it succeeds or its retries are spent."""
    task = TASKS[call.task]
    error = Exception("never called")
    attempts = task.options.retries + 1
    for attempt in range(1, attempts + 1):
        try:
            value = task(*call.args)
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
            return Outcome("SUCCEEDED", attempt, json.loads(json.dumps(value, default=asdict)))
        except Exception as caught:  # whatever it is, the broker has to show the same
            error = caught
    return Outcome("FAILED", attempts, [type(error).__name__, str(error)])


async def _awaited(value: Any) -> object:
    return await value


def outcome_of(view: ResultView) -> Outcome:
    """Read what the broker says of a call."""
    value: object = None
    if view.value is not None:
        value = json.loads(view.value)
    elif view.error is not None:
        error = json.loads(view.error)["error"]
        value = [error["type"], error["message"]]
    return Outcome(view.state, view.attempts, value)


def compare(call: Call, found: Outcome, expected: Outcome) -> list[str]:
    """Say in what a task and the direct call of its function differ."""
    pairs = (
        ("state", found.state, expected.state),
        ("attempts", found.attempts, expected.attempts),
        ("result", found.value, expected.value),
    )
    return [f"{call}: {what} is {is_!r}, should be {due!r}" for what, is_, due in pairs if is_ != due]


def check_delay(call: Call, view: ResultView, called_at: int) -> list[str]:
    """See that what was to wait has waited; instants are in Unix ms."""
    waited_ms = (view.finished_at or 0) - called_at
    if waited_ms >= COUNTDOWN_MS:
        return []
    return [f"{call}: ended {waited_ms} ms after the call, should have waited for {COUNTDOWN_MS}"]


def check_dead_letters(letters: Sequence[DeadLetter], failed: Sequence[Call]) -> list[str]:
    """See that the dead letter queue holds the calls that failed, each once, and why."""
    found = [json.loads(each.message.body) for each in letters]
    ids, due = sorted(each["id"] for each in found), sorted(each.id for each in failed)
    problems = [] if ids == due else [f"the dead letter queue holds {ids}, should hold {due}"]
    for letter, envelope in zip(letters, found, strict=True):
        reason = json.loads(letter.response_body)["error"]["type"]
        if (letter.response_status, reason) != (500, "ValueError"):
            problems.append(f"dead letter {envelope['task']}: {letter.response_status} {reason}")
    return problems


def check_journal(run: str, found: Mapping[str, object]) -> list[str]:
    """See that the tasks left behind what the direct calls did: each done once, and in order."""
    expected = asdict(journals[run])
    return [
        f"journal: {what} is {found.get(what)!r}, should be {due!r}"
        for what, due in expected.items()
        if found.get(what) != due
    ]
