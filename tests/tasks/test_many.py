"""Batches and blocks whose answer is lost: what has arrived stays, and the rest can be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from qtasks.client.kept import Meanwhile, nothing
from qtasks.clock import ManualClock
from qtasks.errors import BrokerUnreachable
from qtasks.ids import Ids
from qtasks.protocol.headers import Options
from qtasks.protocol.shapes import Enqueued, Outgoing
from qtasks.tasks.calling import Caller
from qtasks.tasks.envelope import EnvelopeSigner
from qtasks.tasks.lanes import BATCH_BYTES, BATCH_MESSAGES, batches
from qtasks.tasks.many import BATCH
from qtasks.tasks.options import NO_LAYERS
from qtasks.tasks.packing import Packer
from qtasks.tasks.registry import Registry
from qtasks.tasks.task import Task, make_task
from tests.support.tasks import NoResults

URL = "https://app.example/qtasks/run"


class Line:
    """A sender whose answers are lost as often as told; it has got the messages all the same."""

    def __init__(self) -> None:
        self.got: list[str | None] = []
        self.sizes: list[int] = []
        self.are_new: list[set[bool]] = []
        self.to_lose: list[int] = []

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        self.got += [each.options.task_id for each in messages]
        self.are_new.append({each.is_new for each in messages})
        self.sizes.append(len(messages))
        if len(self.sizes) in self.to_lose:
            raise BrokerUnreachable("no answer") from TimeoutError("slow")
        return [Enqueued("msg_1") for _ in messages]

    async def asend(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        return self.send(messages)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def caller(line: Line) -> Caller:
    return caller_of(line)


def caller_of(line: Line) -> Caller:
    signer = EnvelopeSigner(["0123456789abcdef" * 4])
    clock = ManualClock(1_700_000_000_000)
    packer = Packer(
        signer=lambda: signer,
        destination=URL,
        queues={},
        layers=NO_LAYERS,
        clock=clock,
        ids=Ids.seeded(1),
    )
    return Caller(line, NoResults(), packer, clock)


@pytest.fixture
def note(caller: Caller) -> Task[..., Any, Any]:
    def function(number: int) -> None: ...

    return make_task(function, Registry(), lambda: caller, {"name": "note"})


def sync(task: Task[..., Any, Any], calls: Iterator[Any]) -> list[Any]:
    return task.delay_many(calls)


def on_a_loop(task: Task[..., Any, Any], calls: Iterator[Any]) -> list[Any]:
    return asyncio.run(task.adelay_many(calls))


@pytest.mark.parametrize("way", [sync, on_a_loop])
def test_a_lost_batch_is_sent_again_under_the_same_ids_and_the_rest_after_it(
    line: Line, note: Task[..., Any, Any], way: Callable[..., list[Any]]
) -> None:
    line.to_lose = [2, 3]
    count = 2 * BATCH + 7

    with pytest.raises(BrokerUnreachable, match="no answer") as first:
        way(note, (note.call(n) for n in range(count)))
    with pytest.raises(BrokerUnreachable) as second:
        first.value.repeat()
    results = second.value.repeat()

    assert line.sizes == [BATCH, BATCH, BATCH, BATCH, 7]
    assert line.are_new == [{True}, {True}, {False}, {False}, {True}]
    assert line.got[BATCH : 2 * BATCH] == line.got[2 * BATCH : 3 * BATCH] == line.got[3 * BATCH : 4 * BATCH]
    assert [each.id for each in results] == list(dict.fromkeys(line.got))
    assert first.value.__notes__ == [f"{BATCH} calls had been enqueued before"]
    assert isinstance(first.value.__cause__, TimeoutError)


class Overlapping(Line):
    """A sender that lets its caller work while a request is on its way."""

    def send(self, messages: Sequence[Outgoing], meanwhile: Meanwhile = nothing) -> list[Enqueued]:
        meanwhile()
        meanwhile()  # as where the first attempt failed
        return super().send(messages)


@pytest.fixture
def overlapping() -> Overlapping:
    return Overlapping()


@pytest.fixture
def count_up(overlapping: Overlapping) -> Task[..., Any, Any]:
    def function(number: int) -> None: ...

    caller = caller_of(overlapping)
    return make_task(function, Registry(), lambda: caller, {"name": "count_up"})


def test_one_batch_is_made_while_another_is_on_its_way(
    overlapping: Overlapping, count_up: Task[..., Any, Any]
) -> None:
    seen: list[int] = []

    def calls() -> Iterator[Any]:
        for n in range(3 * BATCH):
            if n % BATCH == 0:
                seen.append(len(overlapping.sizes))
            yield count_up.call(n)

    results = count_up.delay_many(calls())

    assert seen == [0, 0, 1]
    assert [each.id for each in results] == overlapping.got
    assert overlapping.sizes == [BATCH, BATCH, BATCH]


def test_what_is_wrong_with_the_batch_ahead_is_told_once_the_one_before_it_has_landed(
    overlapping: Overlapping, count_up: Task[..., Any, Any]
) -> None:
    overlapping.to_lose = [2]

    def calls() -> Iterator[Any]:
        for n in range(2 * BATCH):
            yield count_up.call(n)
        raise ValueError("no more rows")

    with pytest.raises(BrokerUnreachable) as lost:
        count_up.delay_many(calls())
    with pytest.raises(ValueError, match="no more rows") as wrong:
        lost.value.repeat()

    assert overlapping.sizes == [BATCH, BATCH, BATCH]
    assert wrong.value.__notes__ == [f"{2 * BATCH} calls had been enqueued before"]


def test_calls_are_taken_no_earlier_than_their_batch_is_sent(line: Line, note: Task[..., Any, Any]) -> None:
    seen: list[int] = []

    def calls() -> Iterator[Any]:
        for n in range(2 * BATCH):
            if n % BATCH == 0:
                seen.append(len(line.sizes))
            yield note.call(n)

    note.delay_many(calls())

    assert seen == [0, 1]


def test_a_lost_block_is_sent_again_under_the_same_ids(
    line: Line, caller: Caller, note: Task[..., Any, Any]
) -> None:
    line.to_lose = [1, 2]

    def gather() -> None:
        with caller.collection():
            note.delay(1)
            note.delay(2)

    with pytest.raises(BrokerUnreachable, match="no answer") as caught:
        gather()
    with pytest.raises(BrokerUnreachable) as again:
        caught.value.repeat()
    again.value.repeat()

    assert line.sizes == [2, 2, 2]
    assert line.are_new == [{True}, {False}, {False}]
    assert line.got[:2] == line.got[2:4] == line.got[4:]


async def test_a_lost_async_block_is_sent_again_under_the_same_ids(
    line: Line, caller: Caller, note: Task[..., Any, Any]
) -> None:
    line.to_lose = [1]

    async def gather() -> None:
        async with caller.collection():
            await note.adelay(1)

    with pytest.raises(BrokerUnreachable, match="no answer") as caught:
        await gather()
    caught.value.repeat()

    assert line.got[0] == line.got[1]
    assert line.are_new == [{True}, {False}]


def test_a_lost_call_is_sent_again_as_one_that_may_have_arrived(
    line: Line, note: Task[..., Any, Any]
) -> None:
    line.to_lose = [1]

    with pytest.raises(BrokerUnreachable, match="no answer") as caught:
        note.delay(1)
    caught.value.repeat()

    assert line.got[0] == line.got[1]
    assert line.are_new == [{True}, {False}]


def test_a_call_whose_id_is_given_may_have_arrived_before(line: Line, note: Task[..., Any, Any]) -> None:
    note.apply_async((1,), task_id="tsk_0123456789abcdef0123456789abcdef")

    assert line.are_new == [{False}]


def test_a_call_that_is_unique_may_be_another_one(line: Line, caller: Caller) -> None:
    def once() -> None: ...

    make_task(once, Registry(), lambda: caller, {"name": "once", "unique": True}).delay()

    assert line.are_new == [{False}]


def test_messages_are_split_into_requests_by_number_and_size() -> None:
    sizes = (1, BATCH_BYTES // 2, BATCH_BYTES * 2)
    small, large, too_large = (Outgoing(URL, b"x" * size, Options()) for size in sizes)

    by_number = [len(each) for each in batches([small] * (2 * BATCH_MESSAGES + 1))]
    by_size = [len(each) for each in batches([large, large, small, large, large, large])]
    huge = [len(each) for each in batches([too_large, small])]

    assert by_number == [BATCH_MESSAGES, BATCH_MESSAGES, 1]
    assert (by_size, huge, list(batches([]))) == ([2, 2, 2], [1, 1], [])
