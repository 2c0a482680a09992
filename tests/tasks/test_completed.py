"""`as_completed` against a source of results that notes what it is asked, without broker or store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from qtasks.clock import ManualClock
from qtasks.errors import ResultTimeout, WaitRefused
from qtasks.protocol.results import MOST_IDS
from qtasks.tasks.completed import TURN_MS, as_completed
from qtasks.tasks.results import POLL_MS, AsyncResult
from tests.support.tasks import NoResults


class Source(NoResults):
    """A source at which each question finds one more task finished, the last one first."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asked: list[tuple[int, int]] = []
        """How many ids each question was about, and how long it would have waited."""
        self.reason: str | None = None
        self.finishes = True

    def settled(self, task_ids: Sequence[str], wait_ms: int = 0) -> list[str]:
        self.asked.append((len(task_ids), wait_ms))
        if self.finishes:
            return list(task_ids[-1:])
        self.clock.advance(wait_ms)
        return []

    def stall(self) -> str | None:
        return self.reason


@pytest.fixture
def source() -> Source:
    return Source(ManualClock())


def handles(source: Source, ids: Iterable[object]) -> list[AsyncResult[Any]]:
    return [
        AsyncResult(f"tsk_{each}", source=source, decode=lambda value: value, clock=source.clock)
        for each in ids
    ]


def ids(results: Iterable[AsyncResult[Any]]) -> list[str]:
    return [each.id.removeprefix("tsk_") for each in results]


async def test_both_kinds_of_loop_give_each_result_once(source: Source) -> None:
    completed = as_completed(handles(source, range(5)))

    assert ids([each async for each in completed]) == ["4", "3", "2", "1", "0"]
    assert await asyncio.to_thread(ids, completed) == ["4", "3", "2", "1", "0"]
    assert source.asked == 2 * [(5 - n, POLL_MS) for n in range(5)]


def test_a_loop_can_be_begun_anew(source: Source) -> None:
    completed = as_completed(iter(handles(source, range(3))))

    assert ids(completed) == ids(completed) == ["2", "1", "0"]


def test_nothing_is_asked_about_nothing(source: Source) -> None:
    assert list(as_completed(handles(source, []), timeout=1)) == []


def test_a_handle_that_is_given_twice_comes_back_twice(source: Source) -> None:
    twice = handles(source, ["a", "b", "a"])

    assert list(as_completed(twice)) == [twice[1], twice[0], twice[2]]
    assert [count for count, _ in source.asked] == [2, 1]


def test_more_tasks_than_one_question_takes_have_their_turns(source: Source) -> None:
    count = 2 * MOST_IDS + 2

    seen = ids(as_completed(handles(source, range(count))))

    assert sorted(map(int, seen)) == list(range(count))
    assert source.asked[:3] == [(MOST_IDS, TURN_MS), (MOST_IDS, TURN_MS), (2, TURN_MS)]
    assert source.asked[-1] == (1, POLL_MS)


def test_results_of_two_brokers_may_be_waited_for_together(source: Source) -> None:
    other = Source(source.clock)
    results = [*handles(source, ["a", "b"]), *handles(other, ["c"])]

    assert ids(as_completed(results)) == ["b", "c", "a"]
    assert source.asked == [(2, TURN_MS), (1, POLL_MS)]


def test_the_time_is_that_of_the_whole_loop(source: Source) -> None:
    source.finishes = False

    with pytest.raises(ResultTimeout, match="3 of 3 tasks have not finished after 50 s; they go on"):
        list(as_completed(handles(source, range(3)), timeout=50))

    assert [wait for _, wait in source.asked] == [POLL_MS, POLL_MS, 50_000 - 2 * POLL_MS]


def test_no_time_at_all_gives_what_has_finished(source: Source) -> None:
    completed = iter(as_completed(handles(source, range(2)), timeout=0))

    assert next(completed).id == "tsk_1"
    with pytest.raises(ResultTimeout, match="1 of 2 tasks"):
        next(completed)
    assert source.asked == [(2, 0)]


def test_what_cannot_end_is_not_waited_for(source: Source) -> None:
    source.reason = "no process runs the tasks"
    completed = iter(as_completed(handles(source, range(2))))

    assert next(completed).id == "tsk_1"
    with pytest.raises(WaitRefused, match="1 of 2 tasks have not finished, and no process runs the tasks"):
        next(completed)
    assert source.asked == [(2, 0)]
