"""What is asked of a broker, the same in process and over HTTP: questions that may wait, and selections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from qtasks.broker.service import Broker
from qtasks.broker.store.filters import MessageFilter
from qtasks.client import calls
from qtasks.client.calls import Call
from qtasks.protocol.results import ResultView
from qtasks.tasks.selection import Selection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What is asked, each time with how long to wait at most, in ms. `is_answered` says whether to go on."""

    here: Callable[[Broker, int], T]
    ahere: Callable[[Broker, int], Awaitable[T]]
    there: Callable[[int], Call[T]]
    is_answered: Callable[[T], bool]


def about_one(task_id: str) -> Question[ResultView]:
    """Ask how a task went, waiting for its end."""
    return Question(
        lambda broker, wait_ms: broker.results.find(task_id, wait_ms),
        lambda broker, wait_ms: broker.results.afind(task_id, wait_ms),
        lambda wait_ms: calls.result(task_id, wait_ms),
        lambda found: found.is_settled,
    )


def about_some(task_ids: Sequence[str]) -> Question[list[str]]:
    """Ask which tasks have finished, waiting for the first of them."""
    return Question(
        lambda broker, wait_ms: broker.results.settled(task_ids, wait_ms),
        lambda broker, wait_ms: broker.results.asettled(task_ids, wait_ms),
        lambda wait_ms: calls.settled(task_ids, wait_ms),
        lambda found: bool(found) or not task_ids,
    )


def message_filter(wanted: Selection) -> MessageFilter:
    """Give the filter of the broker that a selection means."""
    return MessageFilter(
        urls=frozenset({wanted.destination}),
        tasks=frozenset(wanted.tasks) or None,
        labels=frozenset(wanted.labels) or None,
        queues=frozenset(wanted.queues) or None,
    )
